"""Noise added to sounds: white, or out of a corpus."""

import torch
from torch import Tensor

from distdl.data.pictures.transforms import Draws
from distdl.errors import UserError
from distdl.speech.corpus import Corpus
from distdl.speech.padding import zero_padding
from distdl.speech.perturb import pair
from distdl.speech.sounds import Sounds


class Noise:
    """With probability `p`, noise at a ratio of signal to noise drawn between the two of `snr_db`: white, or a stretch
    of one of the sounds in the folder `corpus`, repeated where it is shorter. Silent sounds stay silent."""

    takes, gives, of_sounds = "waveform", "waveform", True

    def __init__(self, snr_db: tuple[float, float] = (5.0, 20.0), p: float = 0.5, corpus: str | None = None) -> None:
        self.low, self.high = pair(snr_db, "noise: snr_db")
        self.p = probability(p, "noise")
        self._corpus = None if corpus is None else Corpus(corpus)

    def __call__(self, sounds: Sounds) -> Sounds:
        out_BT = zero_padding(sounds.values, sounds.lengths_B)
        for row_T, key, n in zip(out_BT, sounds.keys_B.tolist(), sounds.lengths_B.tolist(), strict=True):
            draws = Draws(key ^ 0x6E6F)
            if n == 0 or draws.uniform() >= self.p:
                continue
            ratio = 10 ** (-draws.uniform(self.low, self.high) / 20)
            noise_T = self._stretch(draws, n, sounds.rate_hz).to(row_T)
            loudness = noise_T.square().mean().sqrt().clamp(min=1e-6)
            row_T[:n] += noise_T * (row_T[:n].square().mean().sqrt() * ratio / loudness)
        return sounds.having(out_BT)

    def _stretch(self, draws: Draws, n: int, rate_hz: int) -> Tensor:
        if self._corpus is None:
            return white(draws, n)
        noises = self._corpus.at(rate_hz)
        noise_T = noises[draws.below(len(noises))]
        begin = draws.below(max(1, len(noise_T) - n + 1))
        return noise_T.repeat(-(-(begin + n) // len(noise_T)))[begin : begin + n].float()


def white(draws: Draws, n: int) -> Tensor:
    """Normal, of deviation 1: fp32 (n,)."""
    return torch.randn(n, generator=torch.Generator().manual_seed(draws.below(2**53)))


def probability(p: object, name: str) -> float:
    """Raises UserError for what is none."""
    if not isinstance(p, int | float) or not 0 <= p <= 1:
        raise UserError(f"{name}: p is between 0 and 1 (got {p!r})")
    return float(p)
