"""Banks of triangular filters on the mel scale, as Kaldi's and as librosa's."""

import math
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor

from distdl.errors import UserError

_FILTERS_AT_ONCE = 16  # fp32 in a register of AVX-512


class Bank:
    """`bank(power)` is power (..., frequencies) @ matrix (frequencies, filters), fp32.

    On a CPU it is some neighbouring filters at a time, with the frequencies that they hold alone: the product of a
    triangle with all frequencies is zeros nearly everywhere.
    """

    def __init__(self, matrix: Tensor) -> None:
        self.matrix = matrix
        self._bands = [] if matrix.is_cuda else [_band(part) for part in matrix.split(_FILTERS_AT_ONCE, dim=1)]

    def __call__(self, power: Tensor) -> Tensor:
        if not self._bands:
            return power @ self.matrix
        return torch.cat([power[..., begin:end] @ part for begin, end, part in self._bands], dim=-1)


def _band(matrix: Tensor) -> tuple[int, int, Tensor]:
    held = matrix.any(dim=1).nonzero().flatten().tolist() or [0]
    begin, end = held[0], held[-1] + 1
    return begin, end, matrix[begin:end].contiguous()


@lru_cache
def kaldi_bank(bins: int, fft_size: int, rate_hz: int, low_hz: float, high_hz: float, device: torch.device) -> Bank:
    """`bins` filters for a transform of fft_size: triangles that are linear in mel = 1127 ln(1 + f / 700)
    (mel-computations.cc of Kaldi; O'Shaughnessy 1987). `high_hz` of 0 or below counts from half the rate. Raises
    UserError."""
    high_hz = _checked_high(bins, rate_hz, low_hz, high_hz)
    edges = torch.linspace(_mel(low_hz), _mel(high_hz), bins + 2, dtype=torch.float64)
    mels = 1127.0 * torch.log1p(torch.arange(fft_size // 2 + 1, dtype=torch.float64) * rate_hz / fft_size / 700.0)
    bank = _triangles(mels, edges)
    bank[-1] = 0  # Kaldi leaves out the bin at half the rate
    if (empty := int((bank.sum(0) == 0).sum())) > 0:
        what = f"{empty} of {bins} mel bins hold no frequency of a transform of {fft_size} at {rate_hz} Hz"
        raise UserError(what, fix="Use fewer bins, a longer window, or a higher low_hz.")
    return Bank(bank.float().to(device))


@lru_cache
def librosa_bank(
    bins: int,
    fft_size: int,
    rate_hz: int,
    low_hz: float,
    high_hz: float,
    scale: Literal["slaney", "htk"],
    device: torch.device,
) -> Bank:
    """`bins` filters for a transform of fft_size: triangles, linear in Hz between points even in mel, of area 1 each
    (librosa.filters.mel; Slaney 1998, Auditory toolbox). Raises UserError."""
    high_hz = _checked_high(bins, rate_hz, low_hz, high_hz)
    to_mel, to_hz = (_slaney_mel, _slaney_hz) if scale == "slaney" else (_htk_mel, _htk_hz)
    mels = torch.linspace(to_mel(low_hz), to_mel(high_hz), bins + 2, dtype=torch.float64)
    edges = torch.tensor([to_hz(mel) for mel in mels.tolist()], dtype=torch.float64)
    frequencies = torch.arange(fft_size // 2 + 1, dtype=torch.float64) * rate_hz / fft_size
    bank = _triangles(frequencies, edges) * (2.0 / (edges[2:] - edges[:-2]))
    return Bank(bank.float().to(device))


def _triangles(at: Tensor, edges: Tensor) -> Tensor:
    """(points, triangles): each rises from an edge to the next one, and falls to the one after that."""
    left, centre, right = edges[:-2], edges[1:-1], edges[2:]
    rising, falling = (at[:, None] - left) / (centre - left), (right - at[:, None]) / (right - centre)
    return torch.minimum(rising, falling).clamp(min=0)


def _checked_high(bins: int, rate_hz: int, low_hz: float, high_hz: float) -> float:
    if not isinstance(bins, int) or bins < 1:
        raise UserError(f"bins is a whole number of at least 1 (got {bins!r})")
    high_hz = high_hz if high_hz > 0 else rate_hz / 2 + high_hz
    if not 0 <= low_hz < high_hz <= rate_hz / 2:
        what = f"low_hz {low_hz:g} to high_hz {high_hz:g} is not within 0 to {rate_hz / 2:g} Hz, half the rate"
        raise UserError(what)
    return high_hz


def _mel(hz: float) -> float:
    return 1127.0 * math.log1p(hz / 700.0)


def _htk_mel(hz: float) -> float:
    return 2595.0 * math.log10(1 + hz / 700.0)


def _htk_hz(mel: float) -> float:
    return 700.0 * (10 ** (mel / 2595.0) - 1)


_LINEAR_TO_HZ, _HZ_PER_MEL = 1000.0, 200.0 / 3
_LOG_STEP = math.log(6.4) / 27.0


def _slaney_mel(hz: float) -> float:
    if hz < _LINEAR_TO_HZ:
        return hz / _HZ_PER_MEL
    return _LINEAR_TO_HZ / _HZ_PER_MEL + math.log(hz / _LINEAR_TO_HZ) / _LOG_STEP


def _slaney_hz(mel: float) -> float:
    knee = _LINEAR_TO_HZ / _HZ_PER_MEL
    return mel * _HZ_PER_MEL if mel < knee else _LINEAR_TO_HZ * math.exp(_LOG_STEP * (mel - knee))
