"""Residual networks that tell which of a few words a short sound is (Tang and Lin 2018, "Deep residual learning for
small-footprint keyword spotting", section 3.2, table 1).

Shapes: B rows, C channels, T frames, F features. A row's logits do not depend on what is behind its length: that is
zeroed in front of each convolution, and neither the batch norms nor the mean at the end count it.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from distdl.models.frames import FrameNorm, OwnFrames, check_features
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
        own = OwnFrames(lengths_B, features_BTF.shape[1])
        maps = own.zeroed(F.relu(self.conv0(own.zeroed(features_BTF)[:, None])).transpose(1, 2)).transpose(1, 2)
        if self.pool != (1, 1):
            at_end = -maps.shape[2] % self.pool[0]  # so that no frame is left out
            maps = F.avg_pool2d(F.pad(maps, (0, 0, 0, at_end)), self.pool)
            own = OwnFrames(-(-lengths_B // self.pool[0]), maps.shape[2])
        residual = maps
        for block in self.layers:
            maps, residual = block(maps, residual, own)
        if self.last is not None:
            maps = self.last(maps, own)
        logits: torch.Tensor = self.output(own.mean(maps.mean(3).transpose(1, 2)))
        return logits

    def blocks(self) -> list[str]:
        """The pairs of convolutions. The first and the last convolution and the classifier are left to the root."""
        return [f"layers.{index}" for index in range(len(self.layers))]


class KeywordConvolution(nn.Module):
    """3x3 convolution, ReLU, what is added, batch norm without weights."""

    def __init__(self, channels: int, dilation: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=dilation, dilation=dilation, bias=False)
        self.norm = FrameNorm(channels, affine=False)

    def forward(self, maps_BCTF: torch.Tensor, own: OwnFrames) -> torch.Tensor:
        return self.normalise(self.activate(maps_BCTF), own)

    def activate(self, maps_BCTF: torch.Tensor) -> torch.Tensor:
        return F.relu(self.conv(maps_BCTF))

    def normalise(self, maps_BCTF: torch.Tensor, own: OwnFrames) -> torch.Tensor:
        """Over the rows' own frames and all features."""
        normalised: torch.Tensor = self.norm(maps_BCTF.transpose(1, 2), own)
        return normalised.transpose(1, 2)


class KeywordBlock(nn.Module):
    """Two convolutions. What is added to their result, and what the next block adds, is not yet normalised."""

    def __init__(self, channels: int, dilations: tuple[int, int]) -> None:
        super().__init__()
        self.first = KeywordConvolution(channels, dilations[0])
        self.second = KeywordConvolution(channels, dilations[1])

    def forward(
        self, maps_BCTF: torch.Tensor, residual_BCTF: torch.Tensor, own: OwnFrames
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """-> normalised maps, the same before normalisation."""
        maps = self.first(maps_BCTF, own)
        maps = self.second.activate(maps) + residual_BCTF
        return self.second.normalise(maps, own), maps


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
