"""From a sample's file to a row of the batch, for sounds: decoded, one channel, at one rate, as int16.

What is done to sounds besides (features, augmentation) is done on the device (distdl/speech/transforms.py). A batch
holds all rows as long as the longest of its step, zeros behind the shorter ones; how long each is stands in `length`.
"""

from types import ModuleType

import numpy as np
import numpy.typing as npt

from distdl.config.sources import SoundConfig
from distdl.data.audio import Samples, decode_audio
from distdl.data.order import Int64s, Rows
from distdl.data.samples import BadSample, Example
from distdl.data.slots import Arrays, Field
from distdl.errors import UserError


class Sounds:
    """Of one split. `lengths`: of all its sounds at the config's rate, in samples, by sample id."""

    def __init__(self, config: SoundConfig, lengths: Int64s) -> None:
        self.rate_hz, self.lengths = config.rate_hz, lengths
        self._most = None if config.longest_s is None else round(config.longest_s * config.rate_hz)

    def size_of(self, rows: Rows) -> int:
        """Samples of every row of the batch."""
        return rows.size or longest(self.lengths, rows.sample_id, self._most)

    def fields(self, n_rows: int, size: int | None) -> dict[str, Field]:
        assert size is not None, "the rows say how long the longest is"
        return {"sound": Field((n_rows, size), "int16"), "length": Field((n_rows,), "int64")}

    def write(self, arrays: Arrays, row: int, example: Example, key: int, size: int | None) -> None:
        """Raises BadSample for what can't be decoded, is empty, or longer than it may be."""
        out = arrays["sound"][row]
        assert isinstance(example.content, bytes), "sounds come as files"
        try:
            sound = one_channel(*decode_audio(example.content), self.rate_hz)
        except ValueError as error:
            raise example.damaged(error) from error
        if self._most is not None and len(sound) > self._most:
            why = f"than data.sound.longest_s: {self._most / self.rate_hz:g}"
        else:
            why = "than its index says"
        if len(sound) > min(len(out), self._most or len(out)):
            what = f"{len(sound) / self.rate_hz:.2f} s, longer {why}"
            raise BadSample(example.shard, example.key, example.extension, what)
        out[: len(sound)] = sound
        out[len(sound) :] = 0
        arrays["length"][row] = len(sound)

    def clear(self, arrays: Arrays, row: int) -> None:
        arrays["sound"][row] = 0
        arrays["length"][row] = 0


def one_channel(samples: Samples, rate_hz: int, wanted_hz: int) -> npt.NDArray[np.int16]:
    """(samples, channels) -> (samples,) at the wanted rate: the mean of the channels, resampled by soxr (HQ)."""
    sound = samples[:, 0] if samples.shape[1] == 1 else np.rint(samples.mean(axis=1)).astype(np.int16)
    if rate_hz == wanted_hz:
        return sound
    n = at_rate(np.array([len(sound)]), np.array([rate_hz]), wanted_hz)[0]
    resampled = _soxr().resample(np.ascontiguousarray(sound), rate_hz, wanted_hz)[:n]
    return np.pad(resampled, (0, n - len(resampled)))


def at_rate(n_samples: Int64s, rate_hz: Int64s, wanted_hz: int) -> Int64s:
    """Samples of sounds brought to another rate, rounded up; 0 for those whose header can't be read, with rate 0."""
    return -(-n_samples * wanted_hz // np.maximum(rate_hz, 1))


def longest(lengths: Int64s, sample_id: Int64s, most: int | None = None) -> int:
    """Of the rows whose samples have these ids (-1: none), and at least 1; those over `most` don't count."""
    of_rows = lengths[sample_id[sample_id >= 0]]
    if most is not None:
        of_rows = of_rows[of_rows <= most]
    return max(1, int(of_rows.max(initial=1)))


def _soxr() -> ModuleType:
    try:
        import soxr
    except ImportError as error:
        raise UserError(
            "sounds of another rate need the package soxr",
            where="data.sound.rate_hz",
            fix="pip install 'distdl[audio]'",
        ) from error
    return soxr
