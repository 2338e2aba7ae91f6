"""Residual networks that tell keywords apart (Tang and Lin 2018, "Deep residual learning for small-footprint keyword
spotting", table 1): res8 and res15, and narrow ones of 19 channels instead of 45.

Convolutions of 3x3 without biases, each followed by a ReLU, from the second on by a batch norm without weights; every
two have a shortcut. res15 dilates by 2^floor(i / 3), res8 pools 4x3 first. The mean is over a sound's own frames.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from distdl.models.frames import OwnFrames


class KeywordNet(nn.Module):
    """forward(features (rows, frames, features), lengths (rows,)) -> logits (rows, classes)."""

    is_acoustic = True

    def __init__(self, classes: int, channels: int, n_layers: int, pool: tuple[int, int] | None, dilated: bool) -> None:
        super().__init__()
        self.pool = pool
        self.stem = nn.Conv2d(1, channels, 3, padding=1, bias=False)
        dilations = [2 ** (i // 3) if dilated else 1 for i in range(n_layers)]
        self.convolutions = nn.ModuleList(
            nn.Conv2d(channels, channels, 3, padding=dilation, dilation=dilation, bias=False) for dilation in dilations
        )
        self.norms = nn.ModuleList(nn.BatchNorm1d(channels, affine=False) for _ in dilations)
        self.classifier = nn.Linear(channels, classes)

    def forward(self, features_BTF: Tensor, lengths_B: Tensor) -> Tensor:
        own = OwnFrames(lengths_B, features_BTF.shape[1])
        maps_BCTF = self._own(functional.relu(self.stem(own.zeroed(features_BTF)[:, None])), own)
        if self.pool:
            at_end = -maps_BCTF.shape[2] % self.pool[0]  # so that no frame is left out
            maps_BCTF = functional.avg_pool2d(functional.pad(maps_BCTF, (0, 0, 0, at_end)), self.pool)
            lengths_B = -(-lengths_B // self.pool[0])
            own = OwnFrames(lengths_B, maps_BCTF.shape[2])
        kept_BCTF = maps_BCTF
        for number, (convolution, norm) in enumerate(zip(self.convolutions, self.norms), start=1):
            maps_BCTF = functional.relu(convolution(maps_BCTF))
            if number % 2 == 0:
                maps_BCTF = kept_BCTF = maps_BCTF + kept_BCTF
            maps_BCTF = _normal(norm, maps_BCTF, own)
        mean_BC = maps_BCTF.mean(3).sum(2) / lengths_B.clamp(min=1)[:, None]
        return self.classifier(mean_BC)

    def _own(self, maps_BCTF: Tensor, own: OwnFrames) -> Tensor:
        return maps_BCTF * own.mask_BT[:, None, :, None]

    def blocks(self) -> list[str]:
        return []


def _normal(norm: nn.Module, maps_BCTF: Tensor, own: OwnFrames) -> Tensor:
    """Over the rows' own frames; 0 elsewhere, which is what the next convolution takes for padding."""
    values_BTCF = maps_BCTF.transpose(1, 2)
    flat_NCF = values_BTCF.flatten(0, 1)
    if not len(own.places_N):
        return torch.zeros_like(maps_BCTF)
    normal_NCF = norm(flat_NCF.index_select(0, own.places_N))
    out_NCF = torch.zeros_like(flat_NCF).to(normal_NCF.dtype).index_copy(0, own.places_N, normal_NCF)
    return out_NCF.view_as(values_BTCF).transpose(1, 2)


def keyword_res8(classes: int = 12, features: int = 40) -> KeywordNet:
    return KeywordNet(classes, 45, 6, (4, 3), False)


def keyword_res8_narrow(classes: int = 12, features: int = 40) -> KeywordNet:
    return KeywordNet(classes, 19, 6, (4, 3), False)


def keyword_res15(classes: int = 12, features: int = 40) -> KeywordNet:
    return KeywordNet(classes, 45, 13, None, True)


def keyword_res15_narrow(classes: int = 12, features: int = 40) -> KeywordNet:
    return KeywordNet(classes, 19, 13, None, True)
