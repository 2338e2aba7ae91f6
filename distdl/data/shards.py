"""Writes shards: samples -> 000000.tar ... by webdataset's own writer, their indexes, and dataset.json.

A folder appears under its final name only when everything in it is written and on disk: until then it is
`.NAME.unfinished` beside it, locked by the process that writes. Packing the same samples twice gives the same bytes.
"""

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from distdl.data import catalog, descriptor, index
from distdl.data.descriptor import Descriptor, ShardEntry
from distdl.errors import UserError
from distdl.run.folder import fsync_folder

DEFAULT_SHARD_BYTES = 256 << 20
_TAR_BLOCK = 512  # a member is padded to blocks
_TAR_END = 2 * _TAR_BLOCK + 10240  # the end mark and, at most, the padding of the archive to records
_RESERVED_KEY = re.compile(r"__[^/]*__($|/)")

Numbers = Sequence[int] | Sequence[float]
RawSample = Mapping[str, bytes | str | float | Numbers]  # "__key__", and a value per extension


def write_shards(
    samples: Iterable[RawSample],
    dst: Path,
    *,
    classes: list[str] | None,
    kind: str,
    shard_bytes: int = DEFAULT_SHARD_BYTES,
    shard_samples: int | None = None,
) -> Descriptor:
    """Writes a folder of shards; what is not bytes is stored as text. Returns what is in dataset.json.

    A label is the component `cls`: a class number (3), the numbers of several classes ([3, 17], or [] for none), or one
    or several numbers to be predicted (0.5 or [0.5, 1.2]). Several stand in the text with spaces between them.

    A shard is at most `shard_bytes` large (but for one sample that is larger, and for the extra headers of long keys)
    and has at most `shard_samples`. Raises UserError when the folder exists or can't be written, a key is unfit or
    comes twice, or there are no samples.
    """
    if shard_bytes < 1 or (shard_samples is not None and shard_samples < 1):
        raise UserError(f"a shard of {shard_bytes} bytes or {shard_samples} samples is too small", where=str(dst))
    with new_folder(dst) as unfinished:
        n_samples = _write_tars(samples, unfinished, shard_bytes, shard_samples)
        if n_samples == 0:
            raise UserError("there are no samples to pack", where=str(dst))
        written = _index_tars(catalog.find_tars(unfinished), unfinished)
        result = Descriptor(name=dst.name, kind=kind, classes=classes, shards=written)
        assert n_samples == sum(shard.n_samples for shard in written), "every sample that was written is indexed"
        descriptor.write(result, unfinished)
    return result


def index_folder(path: str | Path, to: str | Path | None = None, say: Callable[[str], None] = print) -> int:
    """`distdl data index`: writes the indexes and dataset.json of a folder of tars, or of one tar, anew.

    They go beside the tars or into the folder `to`. The names of the classes are kept. For one tar only its index is
    written. Returns the exit code; raises UserError.
    """
    path = Path(path)
    tars = catalog.find_tars(path)
    folder = Path(to) if to is not None else tars[0].parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
        shards = _index_tars(tars, folder, say)
        if path.is_dir():
            before = descriptor.read_unchecked(folder / descriptor.FILE_NAME) or descriptor.read_unchecked(
                path / descriptor.FILE_NAME
            )
            after = Descriptor(
                name=before.name if before else path.resolve().name,
                kind=before.kind if before else "webdataset",
                classes=before.classes if before else None,
                shards=shards,
            )
            descriptor.write(after, folder, tars_in=None if to is None else path)
    except OSError as error:
        raise UserError(
            f"can't write here: {error.strerror}",
            where=str(folder),
            fix=f"Write the index elsewhere: `distdl data index {path} --to OTHER`, then data.train.index: OTHER.",
        ) from error
    n_samples, n_bytes = sum(shard.n_samples for shard in shards), sum(shard.size_bytes for shard in shards)
    say(f"{n_samples:,} samples in {counted(len(shards), 'shard')}, {n_bytes / 1e6:,.1f} MB: indexed in {folder}")
    return 0


def counted(n: int, thing: str) -> str:
    return f"{n:,} {thing}" + ("" if n == 1 else "s")


def _write_tars(samples: Iterable[RawSample], folder: Path, shard_bytes: int, shard_samples: int | None) -> int:
    """Writes folder/000000.tar and so on; returns the number of samples."""
    from webdataset import ShardWriter  # imports torch

    n_samples, in_shard, size = 0, 0, 0
    pattern = str(folder.resolve()).replace("%", "%%") + "/%06d.tar"
    # Fixed times and owners make the bytes a function of the samples alone. Without the encoder bytes stay as they are.
    with ShardWriter(pattern, maxcount=1 << 62, maxsize=1 << 62, verbose=0, mtime=0, encoder=False) as writer:
        for sample in samples:
            key = str(sample["__key__"])
            _check_key(key, folder)
            components = {name: _content(value) for name, value in sample.items() if name != "__key__"}
            row_size = sum(_size_in_tar(content) for content in components.values())
            if in_shard and (size + row_size > shard_bytes or in_shard == shard_samples):
                writer.next_stream()
                in_shard, size = 0, 0
            writer.write({"__key__": key, **components})
            n_samples, in_shard = n_samples + 1, in_shard + 1
            size = (size or _TAR_END) + row_size
    return n_samples


def _content(value: bytes | str | float | Numbers) -> bytes:
    if isinstance(value, bytes):
        return value
    return (value if isinstance(value, str) else " ".join(map(str, np.atleast_1d(value).tolist()))).encode()


def _size_in_tar(content: bytes) -> int:
    return _TAR_BLOCK + len(content) + -len(content) % _TAR_BLOCK


def _check_key(key: str, folder: Path) -> None:
    """A key that a reader would understand differently: its base name holds a dot, or it is webdataset's metadata."""
    base = key.rpartition("/")[2]
    if not base or "." in base or "\0" in key or _RESERVED_KEY.match(key):
        raise UserError(
            f"'{key}' can't be a sample's key: WebDataset ends a key at the first dot and reserves names like __this__",
            where=str(folder.parent),
        )


def _index_tars(tars: list[Path], folder: Path, say: Callable[[str], None] = lambda line: None) -> list[ShardEntry]:
    """Indexes each tar into `folder`, and sees that the tar is on disk."""
    entries = []
    for tar in tars:
        built = index.build(tar)
        if built.ignored:
            say(f"{tar.name}: left out {len(built.ignored)} links or devices, such as {built.ignored[0]}")
        path = catalog.index_path(tar, folder)
        index.write(built, path)
        entries.append(
            ShardEntry(
                name=tar.name,
                n_samples=built.n_samples,
                size_bytes=built.tar_size,
                md5=_md5_and_sync(tar),
                xxh3=built.tar_xxh3,
                index=path.name,
            )
        )
    return entries


def _md5_and_sync(tar: Path) -> str:
    """wids names shards' contents by md5."""
    with tar.open("rb") as file:
        with contextlib.suppress(OSError):  # not everywhere for a file that is open for reading
            os.fsync(file.fileno())
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder to fill, which becomes `path` when the block ends well, and is deleted when it does not.

    What a killed process left of it is deleted. Raises UserError when `path` exists and is not an empty folder, when
    another process is filling it, and for any OSError.
    """
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise UserError("this exists already", where=str(path), fix="Choose another name for it, or delete it first.")
    unfinished = path.with_name(f".{path.name}.unfinished")
    try:
        unfinished.mkdir(parents=True, exist_ok=True)
        lock = os.open(unfinished, os.O_RDONLY | os.O_DIRECTORY)
        try:
            _lock(lock, path)
            _delete_contents(unfinished)
            try:
                yield unfinished
                fsync_folder(unfinished)
                unfinished.rename(path)
                fsync_folder(path.parent)
            except BaseException:
                shutil.rmtree(unfinished, ignore_errors=True)
                raise
        finally:
            os.close(lock)
    except OSError as error:
        raise UserError(f"{error.strerror}: {error.filename or path}", where=str(path)) from error


def _lock(folder: int, path: Path) -> None:
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UserError("another process is writing this", where=str(path), fix="Wait until it is done.") from None


def _delete_contents(folder: Path) -> None:
    for entry in folder.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()
