"""Features of waveforms, as transforms of a config: log_mel, mfcc, spectrogram (Kaldi's framing), librosa_log_mel.

A sound that is shorter than a window has 0 frames. Features are 0 behind a row's own frames.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from distdl.errors import UserError
from distdl.speech.frames import Framing, log_energies, of_spectra
from distdl.speech.mel import kaldi_bank, librosa_bank
from distdl.speech.padding import zero_padding_
from distdl.speech.sounds import Sounds

_LEAST = torch.finfo(torch.float32).eps  # Kaldi's floor of energies


class LogMel:
    """ln of mel energies, equal to those of Kaldi's compute-fbank-feats without dither (fp32 rounding apart).

    `high_hz`: 0 or below counts from half the rate. Other arguments are those of Framing.
    """

    of_sounds, takes, gives = True, "waveform", "features"

    def __init__(self, bins: int = 80, low_hz: float = 20.0, high_hz: float = 0.0, **framing: Any) -> None:
        self.bins, self.low_hz, self.high_hz = bins, low_hz, high_hz
        self.framing = _framing(framing)

    def lengths_after(self, lengths_B: Tensor, rate_hz: int) -> Tensor:
        return self.framing.n_frames(lengths_B, rate_hz)

    def __call__(self, sounds: Sounds) -> Sounds:
        fft_size, device = self.framing.fft_size(sounds.rate_hz), sounds.values.device
        bank = kaldi_bank(self.bins, fft_size, sounds.rate_hz, self.low_hz, self.high_hz, device)
        return _of_frames(sounds, self.framing, self.bins, lambda power_BNS: _log(bank(power_BNS)))


class Mfcc:
    """Mel-frequency cepstral coefficients (Davis and Mermelstein 1980), equal to Kaldi's compute-mfcc-feats without
    dither: `n` of them, of `bins` mel bins, liftered; with `energy`, the first is the log energy instead."""

    of_sounds, takes, gives = True, "waveform", "features"

    def __init__(
        self,
        n: int = 13,
        bins: int = 23,
        low_hz: float = 20.0,
        high_hz: float = 0.0,
        lifter: float = 22.0,
        energy: bool = True,
        **framing: Any,
    ) -> None:
        if not 1 <= n <= bins:
            raise UserError(f"n is from 1 to bins (got {n} of {bins})")
        self.n, self.energy = n, energy
        self._mel = LogMel(bins, low_hz, high_hz, **framing)
        place = torch.arange(n, dtype=torch.float64)
        cosines = torch.cos(math.pi / bins * (torch.arange(bins, dtype=torch.float64)[:, None] + 0.5) * place)
        scale = torch.full((n,), math.sqrt(2 / bins), dtype=torch.float64)
        scale[0] = math.sqrt(1 / bins)
        lift = 1 + 0.5 * lifter * torch.sin(math.pi * place / lifter) if lifter else torch.ones(n)
        self._matrix = (cosines * scale * lift).float()

    def lengths_after(self, lengths_B: Tensor, rate_hz: int) -> Tensor:
        return self._mel.lengths_after(lengths_B, rate_hz)

    def __call__(self, sounds: Sounds) -> Sounds:
        mels = self._mel(sounds)
        values_BTF = mels.values @ self._matrix.to(mels.values.device)
        if self.energy:
            framing = self._mel.framing
            values_BTF[..., 0] = log_energies(sounds.values, sounds.lengths_B, framing, sounds.rate_hz, _LEAST)
        return sounds.having(zero_padding_(values_BTF, mels.lengths_B), mels.lengths_B)


class Spectrogram:
    """ln of the power spectrum, by default of 20 ms under a Hann window every 10 ms: 161 features at 16 kHz, as Deep
    Speech 2 has them (Amodei et al. 2015, section 3)."""

    of_sounds, takes, gives = True, "waveform", "features"

    def __init__(self, **framing: Any) -> None:
        own = {"window_s": 0.02, "window": "hann", "preemphasis": 0.0, "remove_mean": False, "power_of_two": False}
        self.framing = _framing({**own, **framing})

    def lengths_after(self, lengths_B: Tensor, rate_hz: int) -> Tensor:
        return self.framing.n_frames(lengths_B, rate_hz)

    def __call__(self, sounds: Sounds) -> Sounds:
        return _of_frames(sounds, self.framing, self.framing.n_bins(sounds.rate_hz), _log)


class LibrosaLogMel:
    """ln of librosa.feature.melspectrogram(center=True, pad_mode="constant"), floored at `least`, of waveforms from -1
    to 1: frames are centred on every `hop`-th sample, under a periodic Hann window."""

    of_sounds, takes, gives = True, "waveform", "features"

    def __init__(
        self,
        bins: int = 80,
        fft: int = 512,
        hop: int = 160,
        low_hz: float = 0.0,
        high_hz: float = 0.0,
        scale: str = "slaney",
        least: float = 1e-10,
    ) -> None:
        if scale not in ("slaney", "htk"):
            raise UserError(f"scale is slaney or htk (got {scale!r})")
        if min(fft, hop) < 1:
            raise UserError(f"fft and hop are numbers of samples, at least 1 (got {fft}, {hop})")
        self.bins, self.fft, self.hop, self.low_hz, self.high_hz = bins, fft, hop, low_hz, high_hz
        self.scale, self.least = scale, least

    def lengths_after(self, lengths_B: Tensor, rate_hz: int) -> Tensor:
        return lengths_B.div(self.hop, rounding_mode="floor") + 1

    def __call__(self, sounds: Sounds) -> Sounds:
        device = sounds.values.device
        bank = librosa_bank(self.bins, self.fft, sounds.rate_hz, self.low_hz, self.high_hz, self.scale, device)
        window = torch.hann_window(self.fft, device=device)
        padded_BT = functional.pad(sounds.values / 32768, (self.fft // 2, self.fft // 2))
        frames_BNW = padded_BT.unfold(1, self.fft, self.hop)
        power_BNS = torch.view_as_real(torch.fft.rfft(frames_BNW * window)).square_().sum(-1)
        lengths_B = self.lengths_after(sounds.lengths_B, sounds.rate_hz)
        return sounds.having(zero_padding_(_log(bank(power_BNS), self.least), lengths_B), lengths_B)


def _of_frames(sounds: Sounds, framing: Framing, n: int, of_power: Callable[[Tensor], Tensor]) -> Sounds:
    values_BTF = of_spectra(sounds.values, sounds.lengths_B, framing, sounds.rate_hz, n, of_power)
    lengths_B = framing.n_frames(sounds.lengths_B, sounds.rate_hz)
    return sounds.having(zero_padding_(values_BTF, lengths_B), lengths_B)


def _log(energies: Tensor, least: float = _LEAST) -> Tensor:
    """In place."""
    return energies.clamp_(min=least).log_()


def _framing(args: dict[str, Any]) -> Framing:
    try:
        return Framing(**args)
    except TypeError:
        known = list(Framing.__dataclass_fields__)
        wrong = next(name for name in args if name not in known)
        raise UserError(f"it takes no argument '{wrong}'", fix=f"It takes: {', '.join(known)}.") from None
