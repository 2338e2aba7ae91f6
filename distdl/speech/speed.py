"""Faster and slower, pitch and all (Ko et al. 2015), by resampling with a windowed sinc (Smith 2002)."""

import math
from collections.abc import Sequence
from fractions import Fraction

import torch
from torch import Tensor
from torch.nn.functional import conv1d, pad

from distdl.data.pictures.transforms import Draws
from distdl.errors import UserError
from distdl.speech.padding import zero_padding, zero_padding_
from distdl.speech.sounds import Sounds

_CROSSINGS = 16  # zeros of the sinc to each side
_ROLL_OFF = 0.95  # of half the lower rate


class Speed:
    """Each row played faster by one of `factors`, drawn by its key; the factors are between 0.5 and 2."""

    takes, gives, of_sounds = "waveform", "waveform", True

    def __init__(self, factors: Sequence[float] = (0.9, 1.0, 1.1)) -> None:
        if not isinstance(factors, list | tuple) or not factors:
            raise UserError(f"speed: factors is a list of numbers (got {factors!r})")
        if not all(isinstance(factor, int | float) and 0.5 <= factor <= 2 for factor in factors):
            raise UserError(f"speed: factors are between 0.5 and 2 (got {factors!r})")
        self.factors = [Fraction(factor).limit_denominator(100) for factor in factors]

    def __call__(self, sounds: Sounds) -> Sounds:
        drawn = [Draws(key ^ 0x7370).below(len(self.factors)) for key in sounds.keys_B.tolist()]
        clean_BT = zero_padding(sounds.values, sounds.lengths_B)
        lengths_B = sounds.lengths_B.clone()
        parts = []
        for i, factor in enumerate(self.factors):
            rows = [row for row, which in enumerate(drawn) if which == i]
            if rows:
                parts.append((rows, faster(clean_BT[rows], factor)))
                up, down = factor.denominator, factor.numerator
                lengths_B[rows] = (lengths_B[rows] * up + down - 1).div(down, rounding_mode="floor")
        out_BT = clean_BT.new_zeros(len(clean_BT), int(lengths_B.max()) if len(drawn) else 0)
        for rows, part_BT in parts:
            n = min(part_BT.shape[1], out_BT.shape[1])
            out_BT[rows, :n] = part_BT[:, :n]
        return sounds.having(zero_padding_(out_BT, lengths_B), lengths_B)


def faster(waveform_BT: Tensor, factor: Fraction) -> Tensor:
    """(B, ceil(T / factor)): the sound at the times 0, factor, 2 factor, ... samples."""
    if factor == 1:
        return waveform_BT
    up, down = factor.denominator, factor.numerator
    cutoff = _ROLL_OFF * min(1.0, up / down)
    reach = math.ceil(_CROSSINGS / cutoff)
    taps_K = torch.arange(-reach, reach + down + 1, dtype=torch.float64)
    at_PK = taps_K - (torch.arange(up, dtype=torch.float64) * down / up)[:, None]
    hann_PK = torch.cos(math.pi / 2 * (at_PK / reach).clamp(-1, 1)).square()
    kernel_P1K = (cutoff * torch.sinc(cutoff * at_PK) * hann_PK)[:, None].to(waveform_BT)
    n_out = -(-waveform_BT.shape[1] * up // down)
    padded_B1T = pad(waveform_BT, (reach, reach + 2 * down + 1))[:, None]
    return conv1d(padded_B1T, kernel_P1K, stride=down).transpose(1, 2).flatten(1)[:, :n_out]
