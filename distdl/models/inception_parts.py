"""What the Inception families share: a convolution with its batch norm, branches side by side, and a check of the size.

Parts have the names of torchvision and timm (`conv`, `bn`, `branch0`, ...), so that published weights load as they are.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import nn

from distdl.errors import UserError

Kernel = int | tuple[int, int]  # height and width


class Convolution(nn.Module):
    """Convolution without a bias, batch norm, ReLU. "valid" is the V of the papers' figures: no padding; "same" keeps
    the size at a stride of 1."""

    def __init__(
        self, inputs: int, outputs: int, kernel: Kernel, stride: int = 1, padding: Literal["same", "valid"] = "same"
    ) -> None:
        super().__init__()
        height, width = (kernel, kernel) if isinstance(kernel, int) else kernel
        n_around = (height // 2, width // 2) if padding == "same" else 0
        self.conv = nn.Conv2d(inputs, outputs, (height, width), stride, n_around, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=0.001)  # that of the authors' and of all published weights

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        return F.relu(self.bn(self.conv(maps)), inplace=True)


class Branches(nn.Module):
    """Modules that see the same maps; their outputs, in the order of the arguments, become one map's channels."""

    def __init__(self, **branches: nn.Module) -> None:
        super().__init__()
        for name, branch in branches.items():
            self.add_module(name, branch)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        return torch.cat([branch(maps) for branch in self.children()], 1)


def average_around() -> nn.Module:
    """The mean of the 3x3 pixels around each, of those that are in the map: TensorFlow's average pooling."""
    return nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False)


def check_side(images_NCHW: torch.Tensor, least: int, network: str) -> None:
    """Raises UserError when the images are smaller than the network's strides and unpadded convolutions use up."""
    height, width = images_NCHW.shape[2:]
    if min(height, width) < least:
        raise UserError(
            f"{network} takes images of at least {least}x{least}, these are {height}x{width}",
            where="data",
            fix=f"Add {{resize: {least}}} or more to the transforms of each split.",
        )


def check_has_heads(head: nn.Module | None, network: str) -> None:
    """Raises UserError when a network that was built without auxiliary heads is asked for their logits."""
    if head is None:
        raise UserError(
            f"this {network} was built without its auxiliary heads",
            where="model.args.auxiliary",
            fix="Set model.args.auxiliary=true.",
        )
