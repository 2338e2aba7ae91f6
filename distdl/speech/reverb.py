"""Rooms: sounds convolved with impulse responses, out of a corpus or made of noise that dies away."""

import torch
from torch import Tensor

from distdl.data.pictures.transforms import Draws
from distdl.speech.corpus import Corpus
from distdl.speech.noise import probability, white
from distdl.speech.padding import zero_padding
from distdl.speech.perturb import pair
from distdl.speech.sounds import Sounds

_60_DB = 6.9078  # ln 1000: energy falls to a millionth, amplitude to a thousandth


class Reverberation:
    """With probability `p`, a room: an impulse response of the folder `corpus`, or white noise under an exponential
    decay by 60 dB within a time drawn between the two of `rt60_s` (Moorer 1979, "About this reverberation business"),
    `direct` times as loud in its first sample as in the next. Length and loudness stay."""

    takes, gives, of_sounds = "waveform", "waveform", True

    def __init__(
        self,
        rt60_s: tuple[float, float] = (0.2, 0.8),
        p: float = 0.5,
        corpus: str | None = None,
        direct: float = 4.0,
    ) -> None:
        self.low, self.high = pair(rt60_s, "reverberation: rt60_s")
        self.p, self.direct = probability(p, "reverberation"), direct
        self._corpus = None if corpus is None else Corpus(corpus)

    def __call__(self, sounds: Sounds) -> Sounds:
        out_BT = zero_padding(sounds.values, sounds.lengths_B)
        for row_T, key, n in zip(out_BT, sounds.keys_B.tolist(), sounds.lengths_B.tolist(), strict=True):
            draws = Draws(key ^ 0x7265)
            if n == 0 or draws.uniform() >= self.p:
                continue
            response_T = self._response(draws, sounds.rate_hz).to(row_T)
            wet_T = convolved(row_T[:n], response_T)
            before, after = row_T[:n].square().sum(), wet_T.square().sum()
            row_T[:n] = wet_T * (before / after.clamp(min=1e-6)).sqrt()
        return sounds.having(out_BT)

    def _response(self, draws: Draws, rate_hz: int) -> Tensor:
        """fp32 (samples,), from its loudest sample on."""
        if self._corpus is not None:
            responses = self._corpus.at(rate_hz)
            response_T = responses[draws.below(len(responses))].float()
            return response_T[int(response_T.abs().argmax()) :]
        n = max(2, int(draws.uniform(self.low, self.high) * rate_hz))
        response_T = white(draws, n) * torch.exp(-_60_DB * torch.arange(n) / n)
        response_T[0] = self.direct
        return response_T


def convolved(sound_T: Tensor, response_T: Tensor) -> Tensor:
    """(n,), as long as the sound: by the Fourier transform of both."""
    n = len(sound_T) + len(response_T) - 1
    size = 1 << (n - 1).bit_length()
    return torch.fft.irfft(torch.fft.rfft(sound_T, size) * torch.fft.rfft(response_T, size), size)[: len(sound_T)]
