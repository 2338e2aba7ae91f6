"""A folder on a node's disk that all workers of the node, and of other runs, share: whole shards and parts of shards.

    distdl-shards/this-is-a-cache...     the mark: without it nothing in a folder is touched
    distdl-shards/KEY.tar               a whole shard, whose checksum was right; KEY is the xxh3-128 of its content
    distdl-shards/KEY.part              one that is being fetched: its bytes, then a byte for each chunk that is there
    distdl-shards/KEY.ddx               its index

Who holds the lock (flock) on a part fetches it; the kernel takes the lock back when its process dies, and the next one
goes on with the chunks that are missing. Room is made and taken under one lock on the mark, so that all together stay
below the limit: the shard that this node reads again last goes first. Nothing but files of these names is deleted, and
what a process that was killed has left of an index.
"""

import contextlib
import errno
import fcntl
import math
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import xxhash

from distdl.config.schema import RemoteConfig
from distdl.errors import UserError
from distdl.run.folder import write_atomic
from distdl.run.places import user_cache

CHUNK = 1 << 20  # bytes: what one request brings; small, so that a sample that is waited for gets through
NEVER = 1 << 62  # a next use that nobody knows of

_FOLDER, _MARK = "distdl-shards", "this-is-a-cache-of-distdl"
_OURS = re.compile(r"([0-9a-f]{32})\.(tar|part|ddx)")
_HALF_AN_INDEX = re.compile(r"\.[0-9a-f]{32}\.ddx\.\d+\.part")  # as write_atomic calls it
_ABANDONED_S = 3600  # nobody writes an index for so long
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class DiskFull(Exception):
    """The disk, or the user's share of it."""


class NoRoom(Exception):
    """Below the cache's limit, without deleting what is needed sooner."""


def _sweep(folder: Path) -> None:
    for entry in folder.iterdir():
        with contextlib.suppress(OSError):  # another process may be doing the same
            if _HALF_AN_INDEX.fullmatch(entry.name) and time.time() - entry.stat().st_mtime > _ABANDONED_S:
                entry.unlink()


class Cache:
    """Made by `open`. Each method may be called by any thread of any process."""

    def __init__(self, folder: Path, most_bytes: int | None, share_of_free: float) -> None:
        self.folder = folder
        self._most_bytes, self._share = most_bytes, share_of_free

    @classmethod
    def open(cls, parent: Path, most_bytes: int | None, share_of_free: float = 0.5) -> "Cache":
        """In `parent`, where it is made if there is none. `most_bytes`: None for a share of what is free on the disk.

        Raises UserError where the folder can't be written, or holds something else.
        """
        folder = parent.expanduser() / _FOLDER
        try:
            folder.mkdir(parents=True, exist_ok=True)
            mark = folder / _MARK
            if not mark.exists():
                if any(entry.name != _MARK for entry in folder.iterdir()):
                    raise UserError(
                        "this folder is not a cache of distdl, and not empty",
                        where=str(folder),
                        fix="Name another folder by data.remote.cache, or move this one away.",
                    )
                with contextlib.suppress(FileExistsError), mark.open("x") as file:  # once: it is the lock as well
                    file.write("This folder is a cache of distdl, which deletes shards in it.\n")
        except OSError as error:
            raise UserError(f"can't keep shards here: {error.strerror}", where=str(folder)) from error
        _sweep(folder)
        return cls(folder, most_bytes, share_of_free)

    @classmethod
    def for_config(cls, remote: RemoteConfig, stage: str | Path | None, say: Callable[[str], None]) -> "Cache | None":
        """What a config asks for; None where that is none, or where the default folder can't be used."""
        most_bytes = None if remote.cache_gb is None else int(remote.cache_gb * 1e9)
        if stage is not None:
            return cls.open(Path(stage), most_bytes, share_of_free=0.95)
        if most_bytes == 0:
            return None
        if remote.cache:
            return cls.open(Path(remote.cache), most_bytes)
        try:
            return cls.open(user_cache(), most_bytes)
        except UserError as error:
            say(f"no shard is kept on this node: {error.where}: {error.what}; data.remote.cache names another folder")
            return None

    # --- reading ---

    def open_whole(self, key: str) -> int | None:
        """A descriptor of a whole shard, to be closed, which tells other runs that it is in use; None: not here."""
        try:
            descriptor = os.open(self._path(key, "tar"), os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return None
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return descriptor

    def has(self, key: str) -> bool:
        return self._path(key, "tar").exists()

    def read_part(self, key: str, size: int, begin: int, end: int) -> bytes | None:
        """Bytes begin .. end of a shard that is being fetched, if they are there."""
        try:
            descriptor = os.open(self._path(key, "part"), os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            first, last = begin // CHUNK, (max(begin, end - 1)) // CHUNK
            marks = os.pread(descriptor, last - first + 1, size + first)
            if marks != b"\1" * (last - first + 1):
                return None
            return os.pread(descriptor, end - begin, begin)
        finally:
            os.close(descriptor)

    def index_path(self, key: str) -> Path:
        return self._path(key, "ddx")

    def write_index(self, key: str, content: bytes) -> bool:
        """False where there is no room for it."""
        try:
            write_atomic(self._path(key, "ddx"), content)
        except OSError:
            return False
        return True

    def discard(self, key: str) -> None:
        """Of a shard that turned out to be damaged on this disk."""
        for kind in ("tar", "ddx"):
            self._path(key, kind).unlink(missing_ok=True)

    # --- fetching ---

    def begin(self, key: str, size: int, next_uses: Mapping[str, int]) -> "Part | None":
        """The right to fetch a shard; None while another process does, and where it is whole. Raises NoRoom, OSError.

        `next_uses`: steps until this node reads each of its shards (again), by key; what it does not name makes room
        only if no process has it open.
        """
        with self.locked():
            if self.has(key):
                return None
            path = self._path(key, "part")
            if not path.exists():
                self._make_room(size, key, next_uses)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.ftruncate(descriptor, size + _n_chunks(size))
            except BlockingIOError:
                os.close(descriptor)
                return None
            except OSError:
                os.close(descriptor)
                raise
            return Part(self, key, size, descriptor)

    def _make_room(self, size: int, key: str, next_uses: Mapping[str, int]) -> None:
        for victim in self._victims(size, key, next_uses):
            for kind in ("tar", "part", "ddx"):
                self._path(victim, kind).unlink(missing_ok=True)

    def _victims(self, size: int, key: str, next_uses: Mapping[str, int]) -> list[str]:
        """Which shards go so that one of `size` bytes has room: those read again last. Raises NoRoom: too few may."""
        entries = self._entries()
        excess = sum(entry.size for entry in entries.values()) + size - self._limit(entries)
        victims: list[str] = []
        soonest = next_uses.get(key, NEVER)
        for other in sorted(entries, key=lambda each: (-next_uses.get(each, NEVER), entries[each].used_ns)):
            if excess <= 0:
                break
            if other == key or not entries[other].holds_shard or next_uses.get(other, NEVER) <= soonest:
                continue
            may_be_in_use = entries[other].kind == "part" or other not in next_uses
            if may_be_in_use and self._is_locked(other, entries[other].kind):
                continue
            victims.append(other)
            excess -= entries[other].size
        if excess > 0:
            raise NoRoom
        return victims

    def _limit(self, entries: Mapping[str, "_Entry"]) -> int:
        if self._most_bytes is not None:
            return self._most_bytes
        disk = os.statvfs(self.folder)
        ours = sum(entry.on_disk for entry in entries.values())
        return int(self._share * (disk.f_bavail * disk.f_frsize + ours))

    def _entries(self) -> dict[str, "_Entry"]:
        found: dict[str, _Entry] = {}
        with os.scandir(self.folder) as there:
            for file in there:
                match = _OURS.fullmatch(file.name)
                if not match or not file.is_file(follow_symlinks=False):
                    continue
                with contextlib.suppress(FileNotFoundError):
                    status = file.stat(follow_symlinks=False)
                    found.setdefault(match[1], _Entry()).add(match[2], status)
        return found

    def _is_locked(self, key: str, kind: str) -> bool:
        """Whether a living process fetches it, or has it open."""
        try:
            descriptor = os.open(self._path(key, kind), os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return True
        finally:
            os.close(descriptor)
        return False

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """While files come, go and change their names."""
        descriptor = os.open(self.folder / _MARK, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _path(self, key: str, kind: str) -> Path:
        return self.folder / f"{key}.{kind}"


@dataclass(slots=True)
class _Entry:
    """The files of one shard. A part counts as what it is going to be."""

    size: int = 0
    on_disk: int = 0
    used_ns: int = 0
    kind: str = "ddx"

    @property
    def holds_shard(self) -> bool:
        return self.kind != "ddx"

    def add(self, kind: str, status: os.stat_result) -> None:
        self.size += status.st_size
        self.on_disk += 512 * status.st_blocks
        self.used_ns = max(self.used_ns, status.st_atime_ns, status.st_mtime_ns)
        if kind != "ddx":
            self.kind = kind


class Part:
    """A shard that this process fetches; its lock is held until `close`, `finish`, or the end of the process."""

    def __init__(self, cache: Cache, key: str, size: int, descriptor: int) -> None:
        self.key, self.size = key, size
        self._cache, self._descriptor = cache, descriptor

    def missing(self) -> list[tuple[int, int]]:
        """The chunks that are not there yet, as (begin, end) in bytes."""
        n = _n_chunks(self.size)
        marks = os.pread(self._descriptor, n, self.size).ljust(n, b"\0")
        return [(i * CHUNK, min((i + 1) * CHUNK, self.size)) for i in range(n) if marks[i] != 1]

    def write(self, begin: int, content: bytes) -> None:
        """A chunk, and then its mark: what is marked is there, whenever the process dies. Raises DiskFull, OSError."""
        try:
            at = begin
            view = memoryview(content)
            while view:
                written = os.pwrite(self._descriptor, view, at)
                at, view = at + written, view[written:]
            os.pwrite(self._descriptor, b"\1", self.size + begin // CHUNK)
        except OSError as error:
            raise _told(error) from error

    def finish(self, xxh3: str) -> bool:
        """Makes a whole shard of it; False, and all chunks are missing again, if its checksum is another one."""
        digest = xxhash.xxh3_128()
        for at in range(0, self.size, CHUNK):
            digest.update(os.pread(self._descriptor, min(CHUNK, self.size - at), at))
        try:
            if digest.hexdigest() != xxh3:
                os.pwrite(self._descriptor, bytes(_n_chunks(self.size)), self.size)
                return False
            os.ftruncate(self._descriptor, self.size)
            os.fsync(self._descriptor)
        except OSError as error:
            raise _told(error) from error
        path = self._cache.folder / f"{self.key}.part"
        with self._cache.locked():  # or somebody would begin another part between his two looks
            path.rename(path.with_suffix(".tar"))
        self.close()
        return True

    def give_up(self) -> None:
        """Deletes what there is of it."""
        with self._cache.locked():
            (self._cache.folder / f"{self.key}.part").unlink(missing_ok=True)
        self.close()

    def close(self) -> None:
        """Leaves what there is to whoever goes on with it."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def _n_chunks(size: int) -> int:
    return math.ceil(size / CHUNK)


def _told(error: OSError) -> Exception:
    return DiskFull(error.strerror) if error.errno in _DISK_FULL else error
