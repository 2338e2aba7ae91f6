"""Writes one split of a pack: many threads make its samples, one writes the tars, one looks after those that are full.

    source sample -> made (read, checked, made smaller) in threads, in order -> tar -> indexed, hashed, journal

A tar ends where the next sample would make it too large, so that what is in it follows from the samples before it, and
never from the number of threads or from where an earlier process was killed: a pack that goes on begins with the sample
after the last finished shard, with a tar of its own.
"""

import itertools
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distdl.data.corpus import descriptor, shards
from distdl.data.corpus.descriptor import Descriptor, ShardEntry
from distdl.data.corpus.shards import RawSample
from distdl.data.corpus.unfinished import Finished, Progress
from distdl.data.packing.corpus import Unfit
from distdl.data.packing.smaller import Smaller
from distdl.errors import UserError
from distdl.track.progress import Advance, is_drawn, progress

_SAMPLES_PER_TASK = 8
_TASKS_AHEAD = 3  # for each thread
_MOST_FULL_TARS = 2  # that wait to be indexed, before the writer waits for them
_PROGRESS_EVERY_S = 5.0

Say = Callable[[str], None]
Made = tuple[RawSample | None, str]
"""a sample, or None and what is wrong with it"""


@dataclass(frozen=True, slots=True, kw_only=True)
class How:
    """What is asked for of all splits. `workers` changes nothing but the time it takes."""

    kind: str
    classes: list[str] | None
    shard_bytes: int
    shard_samples: int | None
    smaller: Smaller | None
    workers: int
    thing: str = "image"
    rules: dict[str, Any] | None = None


def write_split(samples: Iterable[RawSample], split: str, going: Progress, how: How, say: Say) -> Descriptor:
    """Writes what is missing of `going.folder`/split. Raises UserError where the source can't be read, or is empty."""
    folder = going.folder / split
    finished = going.of(split)
    begin = finished[-1].end if finished else 0
    n_source = len(samples) if isinstance(samples, Sequence) else None
    folder.mkdir(parents=True, exist_ok=True)
    with (
        ThreadPoolExecutor(how.workers, thread_name_prefix="pack") as pool,
        ThreadPoolExecutor(1, thread_name_prefix="index") as indexer,
        progress(f"packing {split}", n_source) as advance,
    ):
        advance(begin)
        source = _Source(_made(samples, begin, how, pool), begin, _told(split, begin, say, advance))
        full: deque[Future[None]] = deque()

        def finish(before: Future[None] | None, tar: Path, n_samples: int, end: int, left_out: list[str]) -> None:
            if before:
                before.result()  # none counts behind one that could not be finished
            going.add(Finished(split=split, entry=_index(tar, n_samples), end=end, left_out=left_out))

        tars = shards.write_tars(
            source, folder, shard_bytes=how.shard_bytes, shard_samples=how.shard_samples, first=len(finished)
        )
        try:
            for tar, n_samples in tars:
                before = full[-1] if full else None
                full.append(indexer.submit(finish, before, tar, n_samples, *source.used(n_samples)))
                while len(full) > _MOST_FULL_TARS:
                    full.popleft().result()
        finally:  # what is full stays, also when the next sample can't be read
            while full:
                full.popleft().result()
    finished = going.of(split)
    left_out = [each for shard in finished for each in shard.left_out] + source.left_out
    _tell_left_out(left_out, split, how.thing, say)
    if not finished:
        raise UserError("there are no samples to pack", where=split)
    shards_written = [each.entry for each in finished]
    written = Descriptor(name=split, kind=how.kind, classes=how.classes, shards=shards_written, rules=how.rules)
    descriptor.write(written, folder)
    return written


def _index(tar: Path, n_samples: int) -> ShardEntry:
    entry = shards.index_tar(tar, tar.parent)
    assert entry.n_samples == n_samples, "every sample that was written is indexed"
    return entry


class _Source:
    """Counts through the source samples, keeps those that are left out apart, and hands on the others."""

    def __init__(self, made: Iterable[Made], begin: int, advance: Callable[[], None]) -> None:
        self._made, self._place, self._advance = made, begin, advance
        self._places: deque[int] = deque()  # in the source, of the samples handed on and in no full tar yet
        self._left_out: deque[tuple[int, str]] = deque()

    def __iter__(self) -> Iterator[RawSample]:
        for sample, problem in self._made:
            if sample is None:
                self._left_out.append((self._place, problem))
            else:
                self._places.append(self._place)
            self._place += 1
            self._advance()
            if sample is not None:
                yield sample

    def used(self, n_samples: int) -> tuple[int, list[str]]:
        """The next `n_samples` handed on are in a tar: where the source goes on after them, and what it left out."""
        end = 0
        for _ in range(n_samples):
            end = self._places.popleft() + 1
        left_out = []
        while self._left_out and self._left_out[0][0] < end:
            left_out.append(self._left_out.popleft()[1])
        return end, left_out

    @property
    def left_out(self) -> list[str]:
        """After the last tar."""
        return [problem for _, problem in self._left_out]


def _made(samples: Iterable[RawSample], begin: int, how: How, pool: ThreadPoolExecutor) -> Iterator[Made]:
    """Source samples from number `begin` on, made by the pool, in their order."""
    get: Callable[[Any], RawSample] = samples.__getitem__ if isinstance(samples, Sequence) else _itself
    places: Iterable[Any] = range(len(samples)) if isinstance(samples, Sequence) else samples
    coming = itertools.islice(places, begin, None)
    ahead: deque[Future[list[Made]]] = deque()
    try:
        while True:
            while len(ahead) < _TASKS_AHEAD * how.workers and (
                some := list(itertools.islice(coming, _SAMPLES_PER_TASK))
            ):
                ahead.append(pool.submit(_make, some, get, how.smaller))
            if not ahead:
                return
            yield from ahead.popleft().result()
    finally:
        for each in ahead:
            each.cancel()


def _make(items: list[Any], get: Callable[[Any], RawSample], smaller: Smaller | None) -> list[Made]:
    made: list[Made] = []
    for item in items:
        try:
            sample = get(item)
            made.append((smaller(sample) if smaller else sample, ""))
        except Unfit as problem:
            made.append((None, str(problem)))
    return made


def _itself(sample: RawSample) -> RawSample:
    return sample


def _told(split: str, begin: int, say: Say, advance: Advance) -> Callable[[], None]:
    """To be called for every sample: a bar on a terminal, and elsewhere a line every few seconds."""
    n_samples, last = begin, time.monotonic()

    def one_more() -> None:
        nonlocal n_samples, last
        n_samples += 1
        advance()
        if time.monotonic() - last > _PROGRESS_EVERY_S and not is_drawn():
            last = time.monotonic()
            say(f"{split}: {n_samples:,} samples ...")

    return one_more


_MOST_TOLD = 20


def _tell_left_out(left_out: list[str], split: str, thing: str, say: Say) -> None:
    if left_out:
        why = "that can't be read as an image" if thing == "image" else "that can't be used"
        say(f"{split}: left out {shards.counted(len(left_out), thing)} {why}:")
        for problem in left_out[:_MOST_TOLD]:
            say(f"  {problem}")
        if len(left_out) > _MOST_TOLD:
            say(f"  and {len(left_out) - _MOST_TOLD:,} more")
