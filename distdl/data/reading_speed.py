"""Is a folder of images read more slowly than shards would be? A few hundred of its files are tried when a run starts.

Of each file the opening and the reading are timed apart. Shards stay open, so that reading alone is what the same bytes
would take out of them, at most: they lie side by side there as well, where a disk that turns has less way to go. Which
files are tried differs from start to start, yet nobody can tell which of them the system has in memory.
"""

import os
import time
from typing import NamedTuple

import numpy as np

from distdl.data.corpus.folder import FolderDataset

_MOST_FILES = 300
_MOST_S = 0.3


class Speed(NamedTuple):
    n_files: int
    n_bytes: int
    open_s: float
    read_s: float

    def __str__(self) -> str:
        seconds = self.open_s + self.read_s
        return (
            f"a thread reads {self.n_files / seconds:,.0f} files/s ({self.n_bytes / seconds / 1e6:,.0f} MB/s) here; "
            f"out of shards, which stay open, {self.n_files / self.read_s:,.0f}/s or more "
            f"(tried with {self.n_files} files, cached or not)"
        )


def measured(dataset: FolderDataset) -> Speed | None:
    """Of files chosen by chance, for 0.3 s at most; None if none can be read."""
    n_files, n_bytes, open_s, read_s = 0, 0, 0.0, 0.0
    chance = np.random.default_rng()  # of the system: the files of the last start are in memory
    buffer = bytearray(1 << 20)
    began = time.perf_counter()
    for sample_id in chance.permutation(dataset.n_samples)[:_MOST_FILES].tolist():
        try:
            to_open, to_read, size = _timed(dataset.file(sample_id), buffer)
        except OSError:
            continue  # training tells of it
        n_files, n_bytes, open_s, read_s = n_files + 1, n_bytes + size, open_s + to_open, read_s + to_read
        if time.perf_counter() - began > _MOST_S:
            break
    return Speed(n_files, n_bytes, open_s, read_s) if n_files else None


def _timed(path: os.PathLike[str], buffer: bytearray) -> tuple[float, float, int]:
    """(seconds to open and close, seconds to read, bytes) of a file."""
    began = time.perf_counter()
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    opened = time.perf_counter()
    try:
        size = 0
        while n_read := os.readv(file, [buffer]):
            size += n_read
    finally:
        read = time.perf_counter()
        os.close(file)
    return opened - began + time.perf_counter() - read, read - opened, size
