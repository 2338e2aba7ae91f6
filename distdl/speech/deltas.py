"""How features change over time (Kaldi, feat/feature-functions.cc, DeltaFeatures)."""

import torch
from torch import Tensor

from distdl.errors import UserError
from distdl.speech.padding import zero_padding_
from distdl.speech.sounds import Sounds


class Deltas:
    """Appends the first to `order`-th differences, each over `window` frames to both sides; the ends are repeated."""

    takes, gives, of_sounds = "features", "features", True

    def __init__(self, order: int = 2, window: int = 2) -> None:
        if order not in (1, 2) or type(window) is not int or window < 1:
            raise UserError(f"deltas: order is 1 or 2, window is from 1 on (got {order!r}, {window!r})")
        self.order, self.window = order, window

    def features(self, n: int) -> int:
        return n * (self.order + 1)

    def __call__(self, sounds: Sounds) -> Sounds:
        parts, lengths_B = [sounds.values], sounds.lengths_B.to(sounds.values.device)
        once = torch.arange(-self.window, self.window + 1, dtype=torch.float64)
        once = once / once.square().sum()
        scales = torch.ones(1, dtype=torch.float64)
        for _ in range(self.order):
            wider = torch.zeros(len(scales) + 2 * self.window, dtype=torch.float64)
            for i, scale in enumerate(scales):
                wider[i : i + len(once)] += scale * once
            scales = wider
            parts.append(_weighted(sounds.values, lengths_B, scales))
        return sounds.having(zero_padding_(torch.cat(parts, -1), lengths_B))


def _weighted(features_BTF: Tensor, lengths_B: Tensor, scales: Tensor) -> Tensor:
    n_frames, reach = features_BTF.shape[1], len(scales) // 2
    out_BTF = torch.zeros_like(features_BTF)
    last_B1 = (lengths_B - 1).clamp_min(0)[:, None]
    for offset, scale in enumerate(scales.tolist(), -reach):
        at_BT = torch.minimum((torch.arange(n_frames, device=lengths_B.device) + offset).clamp_min(0), last_B1)
        out_BTF += scale * features_BTF.gather(1, at_BT[..., None].expand_as(features_BTF))
    return out_BTF
