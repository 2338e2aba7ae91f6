"""A corpus, opened: how many samples there are, and the bytes of any of them, by shard and row.

dataset.json gives the counts, or else the shards' indexes; a missing index is built, so that any folder of plain
WebDataset tars works. Samples are read with pread by many threads at once, or from where the shards lie
(distdl/data/remote), and every component is checked against its checksum. A sample's id is its place when the shards,
sorted by name, are laid end to end.
"""

import os
import resource
import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import xxhash

from distdl.config.schema import RemoteConfig
from distdl.data.corpus import catalog, index
from distdl.data.corpus.catalog import Shard
from distdl.data.corpus.component import read_component
from distdl.data.corpus.index import Component, ShardIndex
from distdl.data.order import Rows
from distdl.data.remote import listing, places
from distdl.data.remote.cache import Cache
from distdl.data.remote.patience import RemoteFile
from distdl.data.remote.places import Shards
from distdl.data.remote.streaming import Streaming, warn
from distdl.errors import UserError

_MOST_OPEN_SHARDS = 192  # more than the 128 lanes of the default plan; each costs two file descriptors


@dataclass(slots=True)
class Sample:
    key: str
    shard: str  # file name of the tar
    components: dict[str, bytes]


class CorruptSample(Exception):
    """A component that is not what was indexed; `component` is its extension, `reason` says how it differs."""

    def __init__(self, shard: str, key: str, component: str, reason: str) -> None:
        super().__init__(shard, key, component, reason)
        self.shard, self.key, self.component, self.reason = shard, key, component, reason

    def __str__(self) -> str:
        return f"{self.shard}: sample '{self.key}', component '{self.component}': {self.reason}"


class _OpenShard:
    """A shard in use. Closed when the last thread lets go of it, so that no thread reads from another's descriptor."""

    __slots__ = ("descriptor", "index")

    def __init__(self, tar: Path, shard_index: ShardIndex) -> None:
        self.index = shard_index
        self.descriptor = -1
        self.descriptor = os.open(tar, os.O_RDONLY | os.O_CLOEXEC)

    def __del__(self) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)


class Dataset:
    """The samples of one split. Made by `open`; a context manager; `read` may be called from any number of threads."""

    def __init__(
        self,
        path: str,
        shards: list[Shard],
        classes: list[str] | None,
        built: dict[int, ShardIndex] | None = None,
        streaming: Streaming | None = None,
    ) -> None:
        self.path = path
        self.shards = shards
        self.classes = classes
        self.shard_names = [shard.tar.name for shard in shards]
        self.sizes: npt.NDArray[np.int64] = np.array([shard.n_samples for shard in shards], np.int64)
        self.ends: npt.NDArray[np.int64] = np.cumsum(self.sizes)
        self.n_samples = int(self.sizes.sum())
        self.identity = _identity(shards)
        self.streaming = streaming  # of the shards that lie elsewhere
        self._places: dict[int, str] = {}
        self._built = built or {}  # indexes that are nowhere on disk
        self._open: OrderedDict[int, _OpenShard] = OrderedDict()  # the least recently used comes first
        self._lock = threading.Lock()
        self._closed = False

    @classmethod
    def open(
        cls,
        path: Shards,
        *,
        index_folder: str | Path | None = None,
        write_index: bool = True,
        remote: RemoteConfig | None = None,
        stage: str | Path | None = None,
        say: Callable[[str], None] = warn,
    ) -> "Dataset":
        """Opens a folder of tars, one tar, an address, or a list of them.

        A missing index is built and written beside its tar, or into `index_folder`, or only kept in memory if not
        `write_index`. What is remote comes into a cache, or with `stage` all of it into that folder. Raises UserError
        for what is missing, empty, damaged, or does not belong together.
        """
        local = None if stage is not None else places.one_local(path)
        built: dict[int, ShardIndex] = {}
        if local is not None:
            shards, built, classes = catalog.local_shards(local, index_folder, write_index=write_index)
        else:
            shards, built, classes = listing.shards_of(
                places.places(path), index_folder, remote or RemoteConfig(), write_index, as_remote=stage is not None
            )
        shown = places.shown(path)
        if sum(shard.n_samples for shard in shards) == 0:
            raise UserError(
                "there are no samples in it",
                where=shown,
                fix="A sample is all files with the same name up to the first dot, such as 0001.jpg and 0001.cls.",
            )
        streaming = None
        if any(isinstance(shard.tar, RemoteFile) for shard in shards):
            remote = remote or RemoteConfig()
            streaming = Streaming(shards, remote, Cache.for_config(remote, stage, say), say, most_open_shards())
        return cls(shown, shards, classes, built, streaming)

    def read(self, shard: int, row: int, only: Collection[str] | None = None) -> Sample:
        """The bytes of a sample's components, or of those in `only` that it has.

        Raises CorruptSample when a component differs from what was indexed, and IndexError for a row there is not.
        """
        shard_index, content_of = self._reader(shard, row, only)
        key, name = shard_index.key(row), self.shard_names[shard]
        components = {}
        for extension, component in shard_index.components(row).items():
            if only is not None and extension not in only:
                continue
            try:
                components[extension] = content_of(component)
            except ValueError as error:
                raise CorruptSample(name, key, extension, str(error)) from None
        return Sample(key, name, components)

    def _reader(
        self, shard: int, row: int, only: Collection[str] | None
    ) -> tuple[ShardIndex, Callable[[Component], bytes]]:
        if self._is_remote(shard):
            assert self.streaming, "remote shards are streamed"
            return self.streaming.index(shard), self.streaming.reader(shard, row, only)
        opened = self._opened(shard)
        return opened.index, lambda component: read_component(opened.descriptor, component)

    def announce(self, sample_ids: Iterable[int], only: Collection[str] | None) -> None:
        """Samples that `read` is going to be asked for next: what is remote is on its way from now on."""
        if self.streaming:
            self.streaming.announce([self.locate(each) for each in sample_ids], only)

    def advance(self) -> None:
        """The next step of what is followed is being read."""
        if self.streaming:
            self.streaming.advance()

    def follow(self, rows: Iterator[Rows], most_steps: int) -> None:
        """`rows`: what the workers of this node are going to read, step by step: whole shards are fetched ahead."""
        if self.streaming:
            self.streaming.follow(rows, most_steps)

    @property
    def all_shards(self) -> list[int]:
        return list(range(len(self.shards)))

    def extensions(self, shard: int) -> tuple[str, ...]:
        """The components that samples of this shard have, in the order of their first appearance."""
        return self.index(shard).extensions

    def key(self, shard: int, row: int) -> str:
        return self.index(shard).key(row)

    def place(self, shard: int) -> str:
        """Where the shard lies: an absolute path, or an address."""
        if shard not in self._places:  # asked for with every sample
            tar = self.shards[shard].tar
            self._places[shard] = str(tar.absolute() if isinstance(tar, Path) else tar)
        return self._places[shard]

    def locate(self, sample_id: int) -> tuple[int, int]:
        """Sample id -> (shard, row). Raises IndexError unless 0 <= sample_id < n_samples."""
        if not 0 <= sample_id < self.n_samples:
            raise IndexError(f"sample {sample_id} of {self.n_samples}")
        shard = int(np.searchsorted(self.ends, sample_id, side="right"))
        return shard, sample_id - int(self.ends[shard] - self.sizes[shard])

    def sample_id(self, shard: int, row: int) -> int:
        """(shard, row) -> sample id. Raises IndexError where there is no such row."""
        if not (0 <= shard < len(self.shards) and 0 <= row < self.sizes[shard]):
            raise IndexError(f"shard {shard}, row {row}")
        return int(self.ends[shard] - self.sizes[shard]) + row

    def close(self) -> None:
        with self._lock:
            self._closed = True
            self._open.clear()
        if self.streaming:
            self.streaming.close()

    def __enter__(self) -> "Dataset":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def index(self, shard: int) -> ShardIndex:
        """The shard's index. Raises UserError if it is missing, damaged, or of another tar."""
        if self._is_remote(shard):
            assert self.streaming, "remote shards are streamed"
            return self.streaming.index(shard)
        return self._opened(shard).index

    def _is_remote(self, number: int) -> bool:
        return 0 <= number < len(self.shards) and isinstance(self.shards[number].tar, RemoteFile)

    def _opened(self, number: int) -> _OpenShard:
        with self._lock:
            if self._closed:
                raise ValueError(f"{self.path}: this dataset is closed")
            if number in self._open:
                self._open.move_to_end(number)
                return self._open[number]
        opened = self._open_shard(number)  # outside the lock: a slow disk holds up only those who need this shard
        with self._lock:
            opened = self._open.setdefault(number, opened)
            while len(self._open) > most_open_shards():
                self._open.popitem(last=False)
            return opened

    def _open_shard(self, number: int) -> _OpenShard:
        if not 0 <= number < len(self.shards):
            raise IndexError(f"shard {number} of {len(self.shards)}")
        shard = self.shards[number]
        shard_index = self._built.get(number)
        if shard_index is None:
            assert isinstance(shard.index, Path), "a shard's index is on disk or in memory"
            shard_index = index.read(shard.index)
            if shard_index.tar_xxh3 != shard.xxh3 or shard_index.n_samples != shard.n_samples:
                raise UserError(
                    f"this index and dataset.json speak of different versions of {shard.tar}",
                    where=str(shard.index),
                    fix=f"Write both again: `distdl data index {shard.tar.parent}`.",
                )
        assert isinstance(shard.tar, Path), "what is remote is streamed"
        try:
            return _OpenShard(shard.tar, shard_index)
        except OSError as error:
            raise UserError(f"can't open this shard: {error.strerror}", where=str(shard.tar)) from error


def most_open_shards() -> int:
    """How many shards are kept open: each takes two file descriptors; at most half of the process's are used."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _MOST_OPEN_SHARDS if soft == resource.RLIM_INFINITY else max(1, min(_MOST_OPEN_SHARDS, soft // 4))


def _identity(shards: list[Shard]) -> str:
    """xxh3-128 over the names, counts and contents of the shards in their order: the same wherever the folder lies."""
    digest = xxhash.xxh3_128()
    for shard in shards:
        excluded = "".join(f"{key}\0" for key in shard.excluded)
        text = f"{shard.tar.name}\0{shard.n_samples}\0{shard.xxh3}\0{excluded}"
        digest.update(text.encode("utf-8", "surrogateescape"))
    return digest.hexdigest()
