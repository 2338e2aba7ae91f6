"""Louder, softer, earlier, later: changes of a waveform that keep its words."""

import torch

from distdl.data.pictures.transforms import Draws
from distdl.errors import UserError
from distdl.speech.padding import mask_BT
from distdl.speech.sounds import Sounds


class Volume:
    """Louder by a number of dB drawn between the two of `db`."""

    takes, gives, of_sounds = "waveform", "waveform", True

    def __init__(self, db: tuple[float, float] = (-6.0, 6.0)) -> None:
        self.low, self.high = pair(db, "volume: db")

    def __call__(self, sounds: Sounds) -> Sounds:
        gains = [10 ** (Draws(key ^ 0x766F).uniform(self.low, self.high) / 20) for key in sounds.keys_B.tolist()]
        return sounds.having(sounds.values * torch.tensor(gains).to(sounds.values)[:, None])


class TimeShift:
    """Later or earlier by up to `ms`; what leaves at one end is lost, and zeros come in at the other."""

    takes, gives, of_sounds = "waveform", "waveform", True

    def __init__(self, ms: float = 100.0) -> None:
        if not isinstance(ms, int | float) or ms < 0:
            raise UserError(f"time_shift: ms is a number from 0 on (got {ms!r})")
        self.ms = ms

    def __call__(self, sounds: Sounds) -> Sounds:
        most, device = self.ms * sounds.rate_hz / 1000, sounds.values.device
        by = [round(Draws(key ^ 0x7473).uniform(-most, most)) for key in sounds.keys_B.tolist()]
        n = sounds.values.shape[1]
        from_BT = torch.arange(n, device=device) - torch.tensor(by, device=device)[:, None]
        lengths_B1 = sounds.lengths_B.to(device)[:, None]
        inside_BT = (from_BT >= 0) & (from_BT < lengths_B1) & mask_BT(lengths_B1[:, 0], n)
        return sounds.having(sounds.values.gather(1, from_BT.clamp(0, max(n - 1, 0))).masked_fill(~inside_BT, 0.0))


def pair(values: object, what: str) -> tuple[float, float]:
    """[low, high] as two floats. Raises UserError."""
    if isinstance(values, list | tuple) and len(values) == 2 and all(isinstance(v, int | float) for v in values):
        low, high = values
        if low <= high:
            return float(low), float(high)
    raise UserError(f"{what} is [low, high] (got {values!r})")
