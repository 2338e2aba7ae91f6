"""Which shards a node reads next, and when: the sample plan is a pure function, so that it is known beforehand.

The plan is walked ahead of the step that is being read, a stretch of steps at a time, until the shards that were met
fill the cache, or all were met, or a whole epoch was walked. What was not met by then is further away than what was.
"""

from collections import deque
from collections.abc import Iterator

import numpy as np

from distdl.data.order import Int64s, Rows

_STEPS_AT_ONCE = 32


class Upcoming:
    """`rows`: of this node, step by step. `advance` may be called by another thread than the rest."""

    def __init__(self, rows: Iterator[Rows], ends: Int64s, sizes_bytes: Int64s, *, most_bytes: int, most_steps: int):
        self._rows, self._ends, self._sizes = rows, ends, sizes_bytes
        self._most_bytes, self._most_steps = most_bytes, most_steps
        self._stretches: deque[tuple[int, list[int]]] = deque()  # its first step, and its shards as they come up
        self._walked = 0  # steps
        self._now = 0
        self._is_over = False
        self._answer: tuple[int, dict[int, int]] = (-1, {})

    def advance(self) -> None:
        """A step was begun."""
        self._now += 1

    def next_uses(self) -> dict[int, int]:
        """Shard -> steps until it is read, sorted by them; those that are not in it come later, or never."""
        stretch = self._now // _STEPS_AT_ONCE
        if self._answer[0] != stretch:
            while self._walked < stretch * _STEPS_AT_ONCE and not self._is_over:
                self._walk()
            while self._stretches and self._stretches[0][0] + _STEPS_AT_ONCE <= self._now:
                self._stretches.popleft()
            self._answer = (stretch, self._look_ahead())
        return self._answer[1]

    def _look_ahead(self) -> dict[int, int]:
        found: dict[int, int] = {}
        for begin, shards in self._stretches:
            _add(found, shards, begin - self._now)
        n_bytes = int(self._sizes[list(found)].sum()) if found else 0
        while n_bytes < self._most_bytes and len(found) < len(self._ends) and not self._is_over:
            if self._walked - self._now >= self._most_steps:
                break
            n_before = len(found)
            shards = self._walk()
            _add(found, shards, self._walked - _STEPS_AT_ONCE - self._now)
            n_bytes += int(self._sizes[list(found)[n_before:]].sum()) if len(found) > n_before else 0
        return found

    def _walk(self) -> list[int]:
        """The shards of the next stretch, as they come up in it."""
        ids = []
        for _ in range(_STEPS_AT_ONCE):
            rows = next(self._rows, None)
            if rows is None:
                self._is_over = True
                break
            ids.append(rows.sample_id[rows.sample_id >= 0])
        read = np.searchsorted(self._ends, np.concatenate(ids), side="right") if ids else np.zeros(0, np.int64)
        shards, first = np.unique(read, return_index=True)
        ordered = [int(shard) for shard in shards[np.argsort(first)]]
        self._stretches.append((self._walked, ordered))
        self._walked += _STEPS_AT_ONCE
        return ordered


def _add(found: dict[int, int], shards: list[int], steps: int) -> None:
    for shard in shards:
        found.setdefault(shard, max(0, steps))
