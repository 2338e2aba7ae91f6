"""The lengths of a shard's sounds as one text, which stands in dataset.json: training plans with them, undecoded.

    "16000: 230400 118080 8000: 4000 0"    rate in Hz, then samples of each sound of that rate, in the index's order

A sample is the first of its components that is a sound; 0 stands for one without, or whose header can't be read.
"""

from pathlib import Path

import numpy as np
import numpy.typing as npt

from distdl.data.audio import audio_length, is_audio
from distdl.data.corpus.index import ShardIndex
from distdl.errors import UserError

Int64s = npt.NDArray[np.int64]


def text_of(n_samples: Int64s, rates_hz: Int64s) -> str:
    words, before = [], 0
    for length, rate_hz in zip(n_samples.tolist(), rates_hz.tolist(), strict=True):
        if length and rate_hz != before:
            words.append(f"{rate_hz}:")
            before = rate_hz
        words.append(str(length))
    return " ".join(words)


def arrays_of(text: str, n_rows: int, where: str) -> tuple[Int64s, Int64s]:
    """(samples, rate in Hz) of each row. Raises UserError, naming `where`, if it is not of so many rows."""
    lengths: list[int] = []
    rates_hz: list[int] = []
    rate_hz = 0
    try:
        for word in text.split():
            if word.endswith(":"):
                rate_hz = int(word[:-1])
            else:
                lengths.append(int(word))
                rates_hz.append(rate_hz)
        n_samples, rates = np.array(lengths, np.int64), np.array(rates_hz, np.int64)
    except (ValueError, OverflowError):
        raise UserError("its lengths of sounds are no numbers", where=where) from None
    if len(n_samples) != n_rows or (n_samples < 0).any() or ((n_samples > 0) & (rates <= 0)).any():
        raise UserError(f"its lengths are not those of {n_rows} sounds", where=where)
    return n_samples, np.where(n_samples > 0, rates, 0)


def of_tar(tar: Path, shard_index: ShardIndex) -> str:
    """Of the headers of all sounds in a tar; "" where it has none. Raises OSError."""
    if not any(map(is_audio, shard_index.extensions)):
        return ""
    n_samples, rates_hz = np.zeros(shard_index.n_samples, np.int64), np.zeros(shard_index.n_samples, np.int64)
    with tar.open("rb") as file:
        for row in range(shard_index.n_samples):
            components = shard_index.components(row)
            name = next(filter(is_audio, components), None)
            if name is not None:
                file.seek(components[name].offset)
                n_samples[row], rates_hz[row] = of_bytes(file.read(components[name].size))
    return text_of(n_samples, rates_hz)


def of_bytes(content: bytes) -> tuple[int, int]:
    """(samples, rate in Hz) as the header says; (0, 0) where it can't be read."""
    try:
        length = audio_length(content)
    except ValueError:
        return 0, 0
    return length.n_samples, length.rate_hz
