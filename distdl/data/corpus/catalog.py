"""Which shards a folder has, and what is known of each: from dataset.json, or from the indexes, built where missing.

Most mistakes with a corpus show here (a wrong path, a compressed tar, a shard that was not copied, an index of another
tar), so most of this file is what is said then.
"""

import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from distdl.data.corpus import descriptor, index
from distdl.data.corpus.descriptor import ShardEntry
from distdl.data.corpus.index import ShardIndex
from distdl.data.remote.patience import RemoteFile
from distdl.errors import UserError

_COMPRESSED_TARS = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """What is known of a shard without opening it."""

    tar: Path | RemoteFile
    index: Path | RemoteFile | None  # where its index is; None if it is only in memory
    n_samples: int
    size_bytes: int
    xxh3: str  # xxh3-128 of the tar
    excluded: Sequence[str] = ()  # keys of samples in the tar that the index leaves out
    sounds: str = ""  # rates and lengths of its sounds (sound_column); "" where they are not known


def local_shards(
    path: Path, index_folder: str | Path | None, *, write_index: bool, tars: list[Path] | None = None
) -> tuple[list[Shard], dict[int, ShardIndex], list[str] | None]:
    """The shards of a folder, or one tar; with `tars`, those of the folder. Also the indexes that are only in memory,
    by shard number, and the classes. Raises UserError as its parts do."""
    folders = index_folders(path, index_folder)
    found = find_tars(path) if tars is None else tars
    listed = listed_shards(path if tars is None else found[0], found, folders)
    if listed is not None:
        return listed[0], {}, listed[1]
    return *indexed_shards(found, folders, write_index=write_index), None


def find_tars(path: Path) -> list[Path]:
    """The tars of a folder sorted by name, or the one tar given. Raises UserError when there are none."""
    if path.is_file():
        return [path]
    try:
        there = sorted(entry for entry in path.iterdir() if not entry.name.startswith("."))
    except OSError as error:
        fix = "Is the path right, and relative to the folder you start in? `distdl data pack` makes shards."
        raise UserError(f"can't open this folder of shards: {error.strerror}", where=str(path), fix=fix) from error
    tars = [entry for entry in there if entry.suffix == ".tar" and entry.is_file()]
    if tars:
        return tars
    raise UserError(f"no shard (*.tar) in this folder: {_what_is_there(there)}", where=str(path), fix=_hint(there))


def index_folders(path: Path, index_folder: str | Path | None) -> list[Path]:
    """Where indexes and dataset.json are looked for, in this order; the first is where missing ones are written."""
    beside = path if path.is_dir() else path.parent
    return [Path(index_folder), beside] if index_folder is not None else [beside]


def _what_is_there(there: list[Path]) -> str:
    if not there:
        return "it is empty"
    names = [entry.name + ("/" if entry.is_dir() else "") for entry in there]
    return f"it has {', '.join(names[:5])}" + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _hint(there: list[Path]) -> str:
    if any(entry.name.endswith(_COMPRESSED_TARS) for entry in there):
        return "Decompress the tars: samples are read by their place in a plain tar."
    inside = [entry for entry in there if entry.is_dir() and next(entry.glob("*.tar"), None) is not None]
    if inside:
        return f"Give one of the folders in it that have shards: {', '.join(str(entry) for entry in inside[:5])}."
    return "`distdl data pack KIND SRC DST` makes shards of images."


def listed_shards(path: Path, tars: list[Path], folders: list[Path]) -> tuple[list[Shard], list[str] | None] | None:
    """The shards as dataset.json lists them, and the classes; None where there is no dataset.json of ours.

    Raises UserError where it is damaged or does not fit the tars.
    """
    for folder in folders:
        listed = descriptor.read(folder / descriptor.FILE_NAME)
        if listed is None:
            continue
        where = str(folder / descriptor.FILE_NAME)
        again = f"`distdl data index {tars[0].parent}" + (f" --to {folder}`" if folder != tars[0].parent else "`")
        entries = {entry.name: entry for entry in listed.shards}
        there = {tar.name for tar in tars}
        if path.is_dir() and (missing := sorted(entries.keys() - there)):
            fix = f"Bring them back, or write the list again for the shards that are there: {again}."
            raise UserError(f"it lists shards that are missing: {few(missing)}", where=where, fix=fix)
        if unknown := sorted(there - entries.keys()):
            raise UserError(f"it does not list {few(unknown)}", where=where, fix=f"Write it again: {again}.")
        shards = []
        for tar in tars:
            entry = entries[tar.name]
            size = tar.stat().st_size
            if size != entry.size_bytes:
                what = f"{tar} has {size} bytes, but it had {entry.size_bytes} when it was indexed"
                raise UserError(what, where=where, fix=f"Copy the shard again, or if it was changed: {again}.")
            index_path = folder / entry.index
            shards.append(
                Shard(
                    tar=tar,
                    index=index_path,
                    n_samples=entry.n_samples,
                    size_bytes=size,
                    xxh3=entry.xxh3,
                    excluded=entry.excluded,
                    sounds=entry.sounds,
                )
            )
        return shards, listed.classes
    return None


def indexed_shards(
    tars: list[Path], folders: list[Path], *, write_index: bool
) -> tuple[list[Shard], dict[int, ShardIndex]]:
    """The shards as their indexes tell, and those indexes that were built and are kept in memory, by shard number.

    Raises UserError for a tar that can't be indexed, an index of another tar, or a folder that can't be written.
    """
    shards, built = [], {}
    for number, tar in enumerate(tars):
        found = next((path for folder in folders if (path := index_path(tar, folder)).exists()), None)
        if found is not None:
            shard_index = index.read(found)
            check_belongs(shard_index, found, tar)
        elif write_index:
            found = index_path(tar, folders[0])
            _check_writable(folders[0], tar)  # before an hour's work
            shard_index = index.build(tar)
            _write_index(shard_index, found, tar)
        else:
            shard_index = built[number] = index.build(tar)
        shards.append(
            Shard(
                tar=tar,
                index=found,
                n_samples=shard_index.n_samples,
                size_bytes=shard_index.tar_size,
                xxh3=shard_index.tar_xxh3,
            )
        )
    return shards, built


def index_path(tar: Path, folder: Path) -> Path:
    return folder / (tar.name + index.SUFFIX)


def listed_index(tar: Path, folder: Path, entry: ShardEntry) -> ShardIndex | None:
    """The tar's index in the folder, if both are what the entry of dataset.json says."""
    try:
        found, size_bytes = index.read(folder / entry.index), tar.stat().st_size
    except (UserError, OSError):
        return None
    there = (found.tar_xxh3, found.n_samples, found.tar_size, size_bytes)
    return found if there == (entry.xxh3, entry.n_samples, entry.size_bytes, entry.size_bytes) else None


def check_belongs(shard_index: ShardIndex, path: Path, tar: Path) -> None:
    """Raises UserError if the index was made of a tar of another size."""
    size = tar.stat().st_size
    if shard_index.tar_size != size:
        raise UserError(
            f"this index was made of a tar of {shard_index.tar_size} bytes, but {tar} has {size}",
            where=str(path),
            fix=f"Copy the tar again, or if it was changed, run `distdl data index {tar.parent}` again.",
        )


def _check_writable(folder: Path, tar: Path) -> None:
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
    if not os.access(folder, os.W_OK | os.X_OK):
        raise _unwritable(folder, tar, "this folder can't be written")


def _write_index(shard_index: ShardIndex, path: Path, tar: Path) -> None:
    try:
        index.write(shard_index, path)
    except OSError as error:
        raise _unwritable(path.parent, tar, f"can't write the index: {error.strerror}") from error


def _unwritable(folder: Path, tar: Path, what: str) -> UserError:
    return UserError(
        f"{tar.name} has no index yet, and {what}",
        where=str(folder),
        fix=f"Write it elsewhere: `distdl data index {tar.parent} --to OTHER`, and say where: data.train.index: OTHER.",
    )


def few(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
