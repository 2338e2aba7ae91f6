"""Memory for batches: made once, shared with worker processes, and taken again when nobody looks at a batch any more.

A slot is a piece of one anonymous file in memory, which a worker process maps as well, so that only a slot's place is
told to it. Arrays are laid out in it one after the other by name. A slot is free again once the last array or tensor
that lies in it is gone: who keeps a batch keeps its slot, and another one is made.
"""

import math
import mmap
import os
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

_ALIGN = 64  # bytes: a cache line

Arrays = dict[str, npt.NDArray[Any]]


class Field(NamedTuple):
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True, slots=True)
class Place:
    """Of a slot in the file, in bytes."""

    offset: int
    size: int


class Slots:
    """`pin`: lock the pages in memory, so that copies to a GPU run beside the host. `take` is for one thread."""

    def __init__(self, *, pin: bool = False) -> None:
        self.file = os.memfd_create("distdl-batches")
        self._pin = pin
        self._end = 0
        self._maps: dict[Place, mmap.mmap] = {}
        self._free: list[Place] = []  # appended to by whichever thread lets go of a batch
        self._pinned: list[mmap.mmap] = []

    def take(self, fields: Mapping[str, Field]) -> tuple[Place, Arrays]:
        """A free slot and the arrays in it, which hold what was there before. Raises RuntimeError after `close`."""
        if self.file < 0:
            raise RuntimeError("this loader is closed")
        wanted = _n_bytes(fields)
        fitting = [place for place in self._free.copy() if place.size >= wanted]
        if fitting:
            place = min(fitting, key=lambda each: each.size)
            self._free.remove(place)
        else:
            place = self._grow(wanted)
        memory = np.frombuffer(self._maps[place], np.uint8)
        weakref.finalize(memory, self._free.append, place).atexit = False
        return place, arrays_in(memory, fields)

    def close(self) -> None:
        """The memory itself lives as long as an array in it."""
        if self.file >= 0:
            os.close(self.file)
            self.file = -1
        for memory in self._pinned:
            _cudart().cudaHostUnregister(_address(memory))
        self._pinned.clear()
        self._maps.clear()

    def _grow(self, wanted: int) -> Place:
        size = -(-max(1, wanted) // mmap.ALLOCATIONGRANULARITY) * mmap.ALLOCATIONGRANULARITY
        place = Place(self._end, size)
        os.ftruncate(self.file, place.offset + size)
        self._end += size
        memory = self._maps[place] = mmap.mmap(self.file, size, offset=place.offset)
        # A failure to pin (no more memory may be locked) costs time and nothing else.
        if self._pin and int(_cudart().cudaHostRegister(_address(memory), size, 0)) == 0:
            self._pinned.append(memory)
        return place


def arrays_in(memory: npt.NDArray[np.uint8], fields: Mapping[str, Field]) -> Arrays:
    """Views of (n,) bytes, one after the other."""
    arrays, begin = {}, 0
    for name, (shape, dtype) in fields.items():
        n_bytes = math.prod(shape) * np.dtype(dtype).itemsize
        arrays[name] = memory[begin : begin + n_bytes].view(dtype).reshape(shape)
        begin += -(-n_bytes // _ALIGN) * _ALIGN
    return arrays


def _n_bytes(fields: Mapping[str, Field]) -> int:
    return sum(-(-math.prod(shape) * np.dtype(dtype).itemsize // _ALIGN) * _ALIGN for shape, dtype in fields.values())


def _cudart() -> Any:
    import torch  # which a worker process has no use for

    return torch.cuda.cudart()


def _address(memory: mmap.mmap) -> int:
    return int(np.frombuffer(memory, np.uint8).ctypes.data)
