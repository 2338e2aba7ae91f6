"""Squeeze-and-excitation (Hu, Shen and Sun 2017, "Squeeze-and-excitation networks", section 3): each channel of a map
is scaled by a number that is computed from all channels' averages, so that one channel can silence another.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn


class SqueezeExcite(nn.Module):
    """(batch, channels, height, width) to the same: average, 1x1 convolution to `squeezed` channels (channels /
    reduction unless given), `activation`, 1x1 convolution back, `gate`. The names are torchvision's."""

    def __init__(
        self,
        channels: int,
        reduction: int = 16,
        *,
        squeezed: int | None = None,
        activation: Callable[[torch.Tensor], torch.Tensor] = F.relu,
        gate: Callable[[torch.Tensor], torch.Tensor] = torch.sigmoid,
    ) -> None:
        super().__init__()
        squeezed = channels // reduction if squeezed is None else squeezed
        self.fc1 = nn.Conv2d(channels, squeezed, 1)
        self.fc2 = nn.Conv2d(squeezed, channels, 1)
        self.activation = activation
        self.gate = gate

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        averages = F.adaptive_avg_pool2d(maps, 1)
        return maps * self.gate(self.fc2(self.activation(self.fc1(averages))))
