"""Bands of frequency and stretches of time left out (Park et al. 2019; adaptive limits: Park et al. 2020)."""

import torch

from distdl.data.pictures.transforms import Draws
from distdl.errors import UserError
from distdl.speech.padding import zero_padding, zero_padding_
from distdl.speech.sounds import Sounds


class SpecAugment:
    """Per row `frequency_masks` of up to `frequency` bins and `time_masks` of up to `time` frames, none longer than
    `longest` of the row's own; `fill` is zero or mean (of the row)."""

    takes, gives, of_sounds = "features", "features", True

    def __init__(
        self,
        frequency_masks: int = 2,
        frequency: int = 27,
        time_masks: int = 2,
        time: int = 100,
        longest: float = 0.2,
        fill: str = "zero",
    ) -> None:
        for value in (frequency_masks, frequency, time_masks, time):
            if type(value) is not int or value < 0:
                raise UserError(f"spec_augment: counts and widths of masks are whole numbers from 0 on (got {value!r})")
        if not 0 <= longest <= 1 or fill not in ("zero", "mean"):
            raise UserError(f"spec_augment: longest is in 0..1, fill is zero or mean (got {longest!r}, {fill!r})")
        self.frequency_masks, self.frequency, self.time_masks, self.time = frequency_masks, frequency, time_masks, time
        self.longest, self.fill = longest, fill

    def __call__(self, sounds: Sounds) -> Sounds:
        x_BTF = sounds.values
        hidden_BTF = torch.zeros(x_BTF.shape, dtype=torch.bool)
        for hidden_TF, key, n in zip(hidden_BTF, sounds.keys_B.tolist(), sounds.lengths_B.tolist(), strict=True):
            draws = Draws(key ^ 0x5341)
            for _ in range(self.frequency_masks):
                begin, end = _stretch(draws, min(self.frequency, x_BTF.shape[2]), x_BTF.shape[2])
                hidden_TF[:, begin:end] = True
            for _ in range(self.time_masks):
                begin, end = _stretch(draws, min(self.time, int(self.longest * n)), n)
                hidden_TF[begin:end] = True
        fill = x_BTF.new_zeros(())
        lengths_B = sounds.lengths_B.to(x_BTF.device)
        if self.fill == "mean":
            sums_B = zero_padding(x_BTF, lengths_B).sum((1, 2))
            fill = (sums_B / (lengths_B * x_BTF.shape[2]).clamp_min(1))[:, None, None]
        return sounds.having(zero_padding_(torch.where(hidden_BTF.to(x_BTF.device), fill, x_BTF), lengths_B))


def _stretch(draws: Draws, most: int, n: int) -> tuple[int, int]:
    width = draws.below(most + 1)
    begin = draws.below(n - width + 1)
    return begin, begin + width
