"""The samples of shards that lie elsewhere: from the cache if they are there by now, or else at once by byte range.

    announce(rows)  ->  threads read what is not in the cache by its range  ->  reader(shard, row) has it
    follow(plan)    ->  whole shards come into the cache behind that, in the order in which they are needed

Every component is compared with its checksum, wherever its bytes come from; wrong ones are read again from the store
before the sample counts as damaged.
"""

import os
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from distdl.config.schema import RemoteConfig
from distdl.data.corpus import index
from distdl.data.corpus.catalog import Shard
from distdl.data.corpus.component import read_component, verified
from distdl.data.corpus.index import Component, ShardIndex
from distdl.data.order import Int64s, Rows
from distdl.data.remote import listing
from distdl.data.remote.cache import NEVER, Cache
from distdl.data.remote.fetch import Fetcher, Source
from distdl.data.remote.patience import RemoteFile
from distdl.data.remote.upcoming import Upcoming
from distdl.errors import UserError

_GAP_BYTES = 64 << 10  # between two components that are read at once
_TIMES = 3  # that a component is read before it is damaged
_MOST_ANNOUNCED = 1 << 16
_BYTES_AHEAD = 64 << 30  # of shards that the plan is looked through for, where the cache has no fixed limit

Reader = Callable[[Component], bytes]


def warn(message: str) -> None:
    print(f"warning: {message}", file=sys.stderr, flush=True)


class _Whole:
    """A shard in the cache, open. Closed when the last thread lets go of it; also when it was deleted meanwhile."""

    __slots__ = ("descriptor",)

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def __del__(self) -> None:
        os.close(self.descriptor)

    @property
    def is_deleted(self) -> bool:
        return os.fstat(self.descriptor).st_nlink == 0


@dataclass(slots=True)
class _InUse:
    index: ShardIndex
    whole: _Whole | None = None  # once it is in the cache


class Streaming:
    """Of the remote ones among a dataset's shards; `close` ends its threads."""

    def __init__(
        self,
        shards: Sequence[Shard],
        config: RemoteConfig,
        cache: Cache | None,
        say: Callable[[str], None],
        most_open: int,
    ) -> None:
        self._shards, self._config, self._say, self._most_open = shards, config, say, most_open
        self._files = {i: shard.tar for i, shard in enumerate(shards) if isinstance(shard.tar, RemoteFile)}
        self._sizes = np.array([shard.size_bytes for shard in shards], np.int64)
        self._ends: Int64s = np.cumsum([shard.n_samples for shard in shards])
        self._in_use: OrderedDict[int, _InUse] = OrderedDict()
        self._opening = [threading.Lock() for _ in range(16)]
        self._lock = threading.Lock()
        self._announced: OrderedDict[tuple[int, int], Future[Reader]] = OrderedDict()
        self._demand: dict[int, None] = {}
        self._upcoming: Upcoming | None = None
        self._io = ThreadPoolExecutor(config.connections, thread_name_prefix="ranges")
        self.cache = cache
        self.fetcher: Fetcher | None = None
        if cache is not None:
            sources = {
                shards[i].xxh3: Source(
                    file.store, file.name, shards[i].size_bytes, shards[i].xxh3, _index_of(shards[i])
                )
                for i, file in self._files.items()
            }
            self.fetcher = Fetcher(cache, sources, self._wanted, say)

    def close(self) -> None:
        for file in self._files.values():
            file.store.close()
        self._io.shutdown(wait=False, cancel_futures=True)
        if self.fetcher:
            self.fetcher.close()
        with self._lock:
            self._in_use.clear()
            self._announced.clear()

    # --- what comes next ---

    def follow(self, rows: Iterator[Rows], most_steps: int) -> None:
        """`rows`: what all workers of this node read from now on, step by step, in a plan that no one else walks."""
        limit = self._config.cache_gb
        most_bytes = _BYTES_AHEAD if limit is None else int(limit * 1e9)
        self._upcoming = Upcoming(rows, self._ends, self._sizes, most_bytes=most_bytes, most_steps=most_steps)
        self._look()

    def advance(self) -> None:
        """The next step of what is followed is being read."""
        if self._upcoming:
            self._upcoming.advance()
        self._let_go_of_deleted()

    def announce(self, rows: Iterable[tuple[int, int]], only: Collection[str] | None) -> None:
        """Samples (shard, row), of which the components `only` are going to be read."""
        self._let_go_of_deleted()
        for shard, row in rows:
            in_use = self._in_use.get(shard)
            if shard not in self._files or (in_use is not None and in_use.whole is not None):
                continue
            future = self._io.submit(self._reader, shard, row, only)
            with self._lock:
                self._announced[shard, row] = future
                if len(self._announced) > _MOST_ANNOUNCED:
                    self._announced.popitem(last=False)

    def _let_go_of_deleted(self) -> None:
        """The disk's space is free only when no worker has the shard open."""
        with self._lock:
            for in_use in self._in_use.values():
                if in_use.whole is not None and in_use.whole.is_deleted:
                    in_use.whole = None

    def want(self, shards: Iterable[int]) -> None:
        """Whole shards, where there is no plan, in this order."""
        with self._lock:
            self._demand |= dict.fromkeys(shards)
        self._look()

    def is_settled(self, shards: Sequence[int]) -> bool:
        """Whether these are whole, or can't be now: there is no room for them, or no reading them."""
        return self.fetcher is None or self.fetcher.is_idle([self._shards[i].xxh3 for i in shards if i in self._files])

    def count_whole(self, shards: Sequence[int]) -> tuple[int, int, int]:
        """How many of these are in the cache, their bytes, and how many bytes this process has fetched."""
        assert self.cache is not None and self.fetcher is not None, "there is a cache to stage into"
        whole = [i for i in shards if i not in self._files or self.cache.has(self._shards[i].xxh3)]
        return len(whole), int(self._sizes[whole].sum()), self.fetcher.n_bytes

    def _look(self) -> None:
        if self.fetcher:
            self.fetcher.look()

    def _wanted(self) -> dict[str, int]:
        """Keys of all shards, with the steps until they are read, soonest first."""
        steps = self._upcoming.next_uses() if self._upcoming else {}
        with self._lock:
            demanded = dict.fromkeys(self._demand, 0)
        wanted = {self._shards[shard].xxh3: n for shard, n in (demanded | steps).items() if shard in self._files}
        return wanted | {key: NEVER for key in self.keys if key not in wanted}

    @property
    def keys(self) -> list[str]:
        return [self._shards[i].xxh3 for i in self._files]

    # --- reading ---

    def index(self, number: int) -> ShardIndex:
        """Raises UserError if it is missing, damaged, or of another tar."""
        return self._opened(number).index

    def reader(self, number: int, row: int, only: Collection[str] | None) -> Reader:
        """Gives each component of a sample, or raises ValueError with the reason if it is not what was indexed.

        Raises UserError if the store can't be read.
        """
        with self._lock:
            announced = self._announced.pop((number, row), None)
        return announced.result() if announced is not None else self._reader(number, row, only)

    def _reader(self, number: int, row: int, only: Collection[str] | None) -> Reader:
        in_use, shard = self._opened(number), self._shards[number]
        components = [each for name, each in in_use.index.components(row).items() if only is None or name in only]
        whole = in_use.whole
        if whole is None and self.cache is not None and (descriptor := self.cache.open_whole(shard.xxh3)) is not None:
            whole = in_use.whole = _Whole(descriptor)
        if whole is not None:
            return lambda component: self._from_disk(number, in_use, whole, component)
        if not components:
            return lambda component: b""
        begin = min(each.offset for each in components)
        end = max(each.offset + each.size for each in components)
        if end - begin > sum(each.size for each in components) + _GAP_BYTES:
            return lambda component: self._again(number, component, b"")
        content = self._from_part(shard, begin, end) or self._files[number].read(begin, end)

        def cut(component: Component) -> bytes:
            at = component.offset - begin
            return self._again(number, component, content[at : at + component.size])

        return cut

    def _from_disk(self, number: int, in_use: _InUse, whole: _Whole, component: Component) -> bytes:
        try:
            return read_component(whole.descriptor, component)
        except (ValueError, OSError) as error:
            shard = self._shards[number]
            if self.cache is not None and in_use.whole is whole:
                in_use.whole = None
                self.cache.discard(shard.xxh3)
                self._say(f"{shard.tar.name} in {self.cache.folder} is damaged, and is fetched again: {error}")
            return self._again(number, component, b"")

    def _from_part(self, shard: Shard, begin: int, end: int) -> bytes | None:
        return self.cache.read_part(shard.xxh3, shard.size_bytes, begin, end) if self.cache is not None else None

    def _again(self, number: int, component: Component, content: bytes) -> bytes:
        """The content if it is right, or else what the store has now."""
        for _ in range(_TIMES - 1):
            try:
                return verified(content, component)
            except ValueError:
                content = self._files[number].read(component.offset, component.offset + component.size)
        return verified(content, component)

    # --- indexes ---

    def _opened(self, number: int) -> _InUse:
        with self._lock:
            if number in self._in_use:
                self._in_use.move_to_end(number)
                return self._in_use[number]
        with self._opening[number % len(self._opening)]:  # not the same index by several threads
            with self._lock:
                if number in self._in_use:
                    return self._in_use[number]
            opened = _InUse(self._read_index(self._shards[number]))
            with self._lock:
                self._in_use[number] = opened
                while len(self._in_use) > self._most_open:
                    self._in_use.popitem(last=False)
        if self._upcoming is None:
            self.want([number])
        return opened

    def _read_index(self, shard: Shard) -> ShardIndex:
        """From the cache, or else from beside the tar, and then kept."""
        if self.cache is not None:
            path = self.cache.index_path(shard.xxh3)
            try:
                found = index.read(path)
                if found.tar_xxh3 == shard.xxh3:
                    return found
            except UserError:
                path.unlink(missing_ok=True)
        content = _index_of(shard).read_whole()
        if content is None:
            raise listing.no_index(str(shard.tar), str(shard.index))
        found = index.ShardIndex(content, str(shard.index))
        if found.tar_xxh3 != shard.xxh3 or found.n_samples != shard.n_samples:
            raise UserError(
                f"this index and dataset.json speak of different versions of {shard.tar}",
                where=str(shard.index),
                fix="Copy the tars, their indexes and dataset.json again, from one folder.",
            )
        if self.cache is not None:
            self.cache.write_index(shard.xxh3, content)
        return found


def _index_of(shard: Shard) -> RemoteFile:
    assert isinstance(shard.index, RemoteFile), "what is remote has its index in a store"
    return shard.index
