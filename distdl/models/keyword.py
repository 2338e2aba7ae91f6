"""Residual networks that tell which of a few words a short sound is (Tang and Lin 2018, "Deep residual learning for
small-footprint keyword spotting", section 3.2, table 1).

Shapes: B rows, C channels, T frames, F features. A row's logits do not depend on what is behind its length: that is
zeroed in front of each convolution, and neither the batch norms nor the mean at the end count it.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from distdl.models.frames import MaskedBatchNorm, check_features, mean_over_frames, zero_map_padding
from distdl.models.layers import check_sizes, initialise_relu_convolutions
from distdl.models.options import options_of


class KeywordResNet(nn.Module):
    """`n_convolutions` behind the first one, in pairs around which their input is added, and a last one without if
    they are odd. `pool` (frames, features) is averaged behind the first. `dilated`: convolution i (from 0) leaves
    2^(i // 3) - 1 frames and features out between its taps, so that the last sees the whole second."""

    is_acoustic = True

    def __init__(
        self,
        channels: int,
        n_convolutions: int,
        pool: tuple[int, int] = (1, 1),
        dilated: bool = False,
        *,
        classes: int = 12,
        features: int = 40,
    ) -> None:
        check_sizes(classes=classes, features=features)
        super().__init__()
        self.features = features
        self.pool = (pool[0], min(pool[1], features))
        dilations = [2 ** (i // 3) if dilated else 1 for i in range(n_convolutions)]
        pairs = zip(dilations[::2], dilations[1::2])
        self.conv0 = nn.Conv2d(1, channels, 3, padding=1, bias=False)
        self.layers = nn.ModuleList(KeywordBlock(channels, pair) for pair in pairs)
        self.last = KeywordConvolution(channels, dilations[-1]) if n_convolutions % 2 else None
        self.output = nn.Linear(channels, classes)
        initialise_relu_convolutions(self)

    def forward(self, features_BTF: torch.Tensor, lengths_B: torch.Tensor) -> torch.Tensor:
        """Features (B, T, F) and lengths (B,) in frames -> logits (B, classes)."""
        check_features(features_BTF, self.features)
        missing = max(0, self.pool[0] - features_BTF.shape[1])  # frames that the first pool needs
        features_BTF = F.pad(features_BTF, (0, 0, 0, missing))
        maps = F.relu(self.conv0(zero_map_padding(features_BTF[:, None], lengths_B)), inplace=True)
        maps = F.avg_pool2d(zero_map_padding(maps, lengths_B), self.pool)
        # As many pools as are full of frames, but one for a row that does not fill one.
        lengths_B = torch.minimum((lengths_B // self.pool[0]).clamp(min=1), lengths_B)
        maps = residual = zero_map_padding(maps, lengths_B)
        for block in self.layers:
            maps, residual = block(maps, residual, lengths_B)
        if self.last is not None:
            maps = self.last(maps, lengths_B)
        logits: torch.Tensor = self.output(mean_over_frames(maps.mean(3).transpose(1, 2), lengths_B))
        return logits

    def blocks(self) -> list[str]:
        """The pairs of convolutions. The first and the last convolution and the classifier are left to the root."""
        return [f"layers.{index}" for index in range(len(self.layers))]


class KeywordConvolution(nn.Module):
    """3x3 convolution, ReLU, what is added, batch norm without weights."""

    def __init__(self, channels: int, dilation: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=dilation, dilation=dilation, bias=False)
        self.norm = MaskedBatchNorm(channels, affine=False)

    def forward(self, maps_BCTF: torch.Tensor, lengths_B: torch.Tensor) -> torch.Tensor:
        return self.normalise(self.activate(maps_BCTF), lengths_B)

    def activate(self, maps_BCTF: torch.Tensor) -> torch.Tensor:
        return F.relu(self.conv(maps_BCTF))

    def normalise(self, maps_BCTF: torch.Tensor, lengths_B: torch.Tensor) -> torch.Tensor:
        """Over the rows' own frames and all features."""
        n_features = maps_BCTF.shape[3]
        positions_BPC = maps_BCTF.permute(0, 2, 3, 1).flatten(1, 2)
        normalised: torch.Tensor = self.norm(positions_BPC, lengths_B * n_features)
        return normalised.unflatten(1, (-1, n_features)).permute(0, 3, 1, 2)


class KeywordBlock(nn.Module):
    """Two convolutions. What is added to their result, and what the next block adds, is not yet normalised."""

    def __init__(self, channels: int, dilations: tuple[int, int]) -> None:
        super().__init__()
        self.first = KeywordConvolution(channels, dilations[0])
        self.second = KeywordConvolution(channels, dilations[1])

    def forward(
        self, maps_BCTF: torch.Tensor, residual_BCTF: torch.Tensor, lengths_B: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """-> normalised maps, the same before normalisation."""
        maps = self.first(maps_BCTF, lengths_B)
        maps = self.second.activate(maps) + residual_BCTF
        return self.second.normalise(maps, lengths_B), maps


# --- the networks ---


@options_of(KeywordResNet)
def keyword_res8(**options: Any) -> KeywordResNet:
    """res8: 110,307 parameters at 12 classes."""
    return KeywordResNet(45, 6, (4, 3), **options)


@options_of(KeywordResNet)
def keyword_res8_narrow(**options: Any) -> KeywordResNet:
    """res8-narrow: 19,905 parameters at 12 classes."""
    return KeywordResNet(19, 6, (4, 3), **options)


@options_of(KeywordResNet)
def keyword_res15(**options: Any) -> KeywordResNet:
    """res15: 237,882 parameters at 12 classes; the most accurate of them."""
    return KeywordResNet(45, 13, dilated=True, **options)


@options_of(KeywordResNet)
def keyword_res15_narrow(**options: Any) -> KeywordResNet:
    """res15-narrow: 42,648 parameters at 12 classes."""
    return KeywordResNet(19, 13, dilated=True, **options)
