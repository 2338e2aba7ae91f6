"""Threads that bring whole shards into the cache behind the samples that are being read, the next needed first.

Each thread takes one chunk after the other, of the shards that are being fetched or of the next one, so that a shard's
chunks come side by side. What another process fetches is left to it. A server that fails, wrong bytes and a full disk
never end a run here: they are told once, and samples go on being read by their ranges.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from distdl.data.remote.cache import NEVER, Cache, DiskFull, NoRoom, Part
from distdl.data.remote.patience import Closed, PatientStore, RemoteFile
from distdl.errors import UserError

_THREADS = 8
_IDLE_S = 0.1  # between two looks for something to do
_LOOK_AGAIN_S = 1.0  # where there was nothing to fetch, or no room for it
_AGAIN_S = 5.0  # after a failure
_MOST_TIMES_WRONG = 2

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Source:
    """Where a shard is fetched from, and what it is to be."""

    store: PatientStore
    name: str
    size_bytes: int
    xxh3: str
    index: RemoteFile


@dataclass(slots=True, eq=False)
class _Fetch:
    source: Source
    part: Part
    todo: deque[tuple[int, int]]
    n_running: int = 0
    error: Exception | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)


class Fetcher:
    """`wanted()`: keys of shards with the steps until they are read, soonest first, of all shards of this dataset."""

    def __init__(self, cache: Cache, sources: Mapping[str, Source], wanted: Callable[[], dict[str, int]], say: Say):
        self.n_fetched = self.n_bytes = 0
        self._has_room = True
        self._cache, self._sources, self._wanted, self._say = cache, sources, wanted, say
        self._lock = threading.Lock()
        self._active: list[_Fetch] = []
        self._look_again = 0.0
        self._not_before: dict[str, float] = {}
        self._n_wrong: dict[str, int] = {}
        self._told: set[str] = set()
        self._closing = threading.Event()
        self._threads = [threading.Thread(target=self._run, name=f"fetch-{i}", daemon=True) for i in range(_THREADS)]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        self._closing.set()
        for thread in self._threads:
            thread.join(timeout=1.0)
        for fetch in self._active:
            if not fetch.n_running:  # or a silent server holds a thread up, which ends with the process
                fetch.part.close()

    def look(self) -> None:
        """There may be something new to fetch."""
        self._look_again = 0.0

    def is_idle(self, keys: Iterable[str]) -> bool:
        """Whether there is nothing more to do for these shards: all are whole, or left to others, or without room."""
        with self._lock:
            return not self._active and not (self._has_room and any(self._may_begin(key) for key in keys))

    def _run(self) -> None:
        while not self._closing.is_set():
            try:
                task = self._next_task()
            except OSError as error:
                self._tell("cache", f"the cache can't be used: {error.strerror}: {self._cache.folder}")
                task = None
                self._closing.wait(_AGAIN_S)
            if task is None:
                self._closing.wait(_IDLE_S)
                continue
            fetch, chunk = task
            try:
                if chunk is not None and fetch.error is None:
                    content = fetch.source.store.read(fetch.source.name, *chunk, urgent=False)
                    fetch.part.write(chunk[0], content)
                    self.n_bytes += len(content)
                elif fetch.error is None:
                    self._fetch_index(fetch.source)
            except (UserError, DiskFull, OSError, Closed) as error:
                fetch.error = error
            self._ended(fetch)

    def _next_task(self) -> tuple[_Fetch, tuple[int, int] | None] | None:
        """A chunk to fetch; the chunk None where it is the shard's index."""
        with self._lock:
            for fetch in self._active:
                if fetch.todo and fetch.error is None:
                    fetch.n_running += 1
                    return fetch, fetch.todo.popleft()
            if len(self._active) >= _THREADS or time.monotonic() < self._look_again:
                return None
            begun = self._begin_next()
            if begun is None:
                self._look_again = time.monotonic() + _LOOK_AGAIN_S
                return None
            self._active.append(begun)
            begun.n_running += 1
            return begun, None  # first the index, without which the shard is of no use

    def _begin_next(self) -> _Fetch | None:
        wanted = self._wanted()
        for key, steps in wanted.items():
            if steps >= NEVER or not self._may_begin(key):
                continue
            try:
                part = self._cache.begin(key, self._sources[key].size_bytes, wanted)
            except NoRoom:  # nor is there for those that are needed later
                self._has_room = False
                self._sources[key].store.account.no_room()
                return None
            self._has_room = True
            if part is not None:
                return _Fetch(self._sources[key], part, deque(part.missing()))
        return None

    def _may_begin(self, key: str) -> bool:
        if any(fetch.part.key == key for fetch in self._active) or time.monotonic() < self._not_before.get(key, 0):
            return False
        return not self._cache.has(key)

    def _fetch_index(self, source: Source) -> None:
        if not self._cache.index_path(source.xxh3).exists() and (content := source.index.read_whole()) is not None:
            self._cache.write_index(source.xxh3, content)

    def _ended(self, fetch: _Fetch) -> None:
        """A chunk was fetched, or failed. The last one makes the shard whole, or leaves it to a later time."""
        with self._lock:
            fetch.n_running -= 1
            if fetch.n_running or (fetch.todo and fetch.error is None):
                return
        key, name = fetch.part.key, fetch.source.store.shown(fetch.source.name)
        try:
            if fetch.error is None and not fetch.part.finish(fetch.source.xxh3):
                self._n_wrong[key] = self._n_wrong.get(key, 0) + 1
                fetch.part.give_up()
                if self._n_wrong[key] >= _MOST_TIMES_WRONG:
                    self._not_before[key] = float("inf")
                    self._tell(name, f"{name}: what comes is not what was indexed; it is not kept on this node")
            elif fetch.error is None:
                self.n_fetched += 1
        except (DiskFull, OSError) as error:
            fetch.error = error
        if fetch.error is not None:
            self._failed(fetch, fetch.error)
        with self._lock:
            self._active.remove(fetch)

    def _failed(self, fetch: _Fetch, error: Exception) -> None:
        self._not_before[fetch.part.key] = time.monotonic() + _AGAIN_S
        if isinstance(error, DiskFull):
            fetch.part.give_up()
            for key in self._sources:
                self._not_before[key] = float("inf")
            self._tell("full", f"the disk is full: {self._cache.folder}; samples are read over the network from now on")
            return
        fetch.part.close()
        if isinstance(error, OSError):
            self._tell("cache", f"can't write to the cache: {error.strerror}: {self._cache.folder}")
        elif isinstance(error, UserError):
            self._tell("read", f"fetching ahead failed, and is tried again: {error.where}: {error.what}")

    def _tell(self, topic: str, message: str) -> None:
        """Once for each topic."""
        with self._lock:
            is_new = topic not in self._told
            self._told.add(topic)
        if is_new:
            self._say(message)
