"""`transforms.Draws` for all rows of a batch at once: row r draws what Draws(keys[r]) would.

A row's numbers are a function of its own key, so they are the same whatever rows it shares a batch with. Keys come with
the batch (`augment_key`) and stay on the host: which rows an operation falls on is known there, without waiting for the
device.
"""

import numpy as np
import numpy.typing as npt

from distdl.data.order import UInt64s, mix

Float64s = npt.NDArray[np.float64]
Int64s = npt.NDArray[np.int64]

_STEP = np.uint64(0x9E3779B97F4A7C15)
_N_ADDED = 8  # 16-bit numbers that are added for one from the normal distribution
MIDDLE, DEVIATION = _N_ADDED * 65535 / 2, (_N_ADDED * (65536**2 - 1) / 12) ** 0.5


class RowDraws:
    """`keys`: uint64 (n,). Each call advances all rows by one number, or by two."""

    def __init__(self, keys: UInt64s) -> None:
        self._state = keys.astype(np.uint64)

    def __len__(self) -> int:
        return len(self._state)

    def bits(self) -> UInt64s:
        """64 random bits a row."""
        drawn = mix(self._state)
        self._state = self._state + _STEP
        return drawn

    def uniform(self, low: float = 0.0, high: float = 1.0) -> Float64s:
        return low + (high - low) * (self.bits() >> np.uint64(11)).astype(np.float64) / 2**53

    def below(self, n: int | Int64s) -> Int64s:
        """Whole numbers in 0 .. n-1, where n may be one a row."""
        return np.minimum((self.uniform() * n).astype(np.int64), np.asarray(n) - 1)

    def sign(self) -> Float64s:
        """-1 or 1."""
        return np.where(self.uniform() < 0.5, -1.0, 1.0)

    def normal(self) -> Float64s:
        """About the standard normal distribution: a sum of eight uniform numbers, at most 4.9 away from 0."""
        words = np.stack([self.bits(), self.bits()])
        total = sum(((words >> np.uint64(shift)) & np.uint64(0xFFFF)).sum(axis=0) for shift in (0, 16, 32, 48))
        return (np.asarray(total, np.float64) - MIDDLE) / DEVIATION

    def order(self, n: int) -> Int64s:
        """A permutation of 0 .. n-1 for each row, (rows, n)."""
        return np.argsort(np.stack([self.bits() for _ in range(n)], axis=1), axis=1, kind="stable")
