"""Writes shards: samples -> 000000.tar ... by webdataset's own writer, their indexes, and dataset.json.

A folder appears under its final name only when everything in it is written and on disk (unfinished.py).
Packing the same samples twice gives the same bytes.
"""

import contextlib
import hashlib
import os
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from distdl.data.corpus import catalog, descriptor, exclude, index, sound_column, wids
from distdl.data.corpus.descriptor import Descriptor, ShardEntry
from distdl.data.corpus.index import ShardIndex
from distdl.data.corpus.unfinished import new_files, new_folder
from distdl.errors import UserError

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
    with new_folder(dst) as unfinished:
        written = []
        for tar, n_samples in write_tars(samples, unfinished, shard_bytes=shard_bytes, shard_samples=shard_samples):
            written.append(index_tar(tar, unfinished))
            assert written[-1].n_samples == n_samples, "every sample that was written is indexed"
        if not written:
            raise UserError("there are no samples to pack", where=str(dst))
        result = Descriptor(name=dst.name, kind=kind, classes=classes, shards=written)
        descriptor.write(result, unfinished)
    return result


def index_folder(
    path: str | Path,
    to: str | Path | None = None,
    say: Callable[[str], None] = print,
    *,
    excluded_by: Sequence[Path] = (),
) -> int:
    """`distdl data index`: writes the indexes and dataset.json of a folder of tars, or of one tar, anew.

    They go beside the tars or into the folder `to`. The names of the classes are kept. For one tar only its index is
    written. `path` may also be a wids listing of local tars, which have to be what it says. `excluded_by`: files of
    JSON lines that name samples which are left out of the index (see exclude.py); shards are then not indexed anew but
    from their indexes, where these still have all that is wanted. All files change or none. Returns the exit code;
    raises UserError.
    """
    path = Path(path)
    listing = wids.read(path) if path.suffix == ".json" else None
    source = listing.folder if listing else path
    tars = catalog.find_tars(source)
    if listing:
        wids.check_tars(listing, tars)
    if excluded_by and not source.is_dir():
        raise UserError("samples are left out of a folder's list of shards, which one tar has not", where=str(path))
    excluded = exclude.read(excluded_by, source, say)
    folder = Path(to) if to is not None else tars[0].parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
        last = descriptor.FILE_NAME if source.is_dir() else catalog.index_path(source, folder).name
        with new_files(folder, last) as unfinished:
            place = folder if (folder / descriptor.FILE_NAME).exists() else source
            before = descriptor.read_unchecked(place / descriptor.FILE_NAME)
            known = _entries(place) if excluded_by else {}
            shards = []
            for tar in tars:
                without, entry = excluded.get(tar.name, ()), known.get(tar.name)
                again = _index_again(tar, place, entry, unfinished, say, without) if entry else None
                shards.append(again or index_tar(tar, unfinished, say, without))
            if listing:
                wids.check_counts(listing, shards)
            if source.is_dir():
                exclude.report(excluded, shards, before, say)
                after = Descriptor(
                    name=listing.name if listing else before.name if before else source.resolve().name,
                    kind=before.kind if before else "webdataset",
                    classes=before.classes if before else None,
                    shards=shards,
                    rules=before.rules if before else None,
                )
                descriptor.write(after, unfinished, tars_in=None if to is None else source)
    except OSError as error:
        raise UserError(
            f"can't write here: {error.strerror}",
            where=str(folder),
            fix=f"Write the index elsewhere: `distdl data index {path} --to OTHER`, then data.train.index: OTHER.",
        ) from error
    n_samples, n_bytes = sum(shard.n_samples for shard in shards), sum(shard.size_bytes for shard in shards)
    say(f"{n_samples:,} samples in {counted(len(shards), 'shard')}, {n_bytes / 1e6:,.1f} MB: indexed in {folder}")
    return 0


def _entries(folder: Path) -> dict[str, ShardEntry]:
    """What its dataset.json says of each tar; nothing where it is damaged."""
    try:
        listed = descriptor.read(folder / descriptor.FILE_NAME)
    except UserError:
        return {}
    return {entry.name: entry for entry in listed.shards} if listed else {}


def _index_again(
    tar: Path, place: Path, entry: ShardEntry, folder: Path, say: Callable[[str], None], excluded: Collection[str]
) -> ShardEntry | None:
    """From its index in `place`, which needs no header of the tar; None if that lacks what is to come back."""
    known = catalog.listed_index(tar, place, entry)
    if known is None or not set(entry.excluded) <= set(excluded):
        return None
    if set(entry.excluded) == set(excluded):
        index.write(known, folder / entry.index)
        return entry
    after = index_tar(tar, folder, say, excluded, known)
    if after.xxh3 != entry.xxh3:
        say(f"{tar.name}: has changed since it was indexed; its samples are compared with the checksums from then")
    return replace(after, excluded=tuple(sorted({*entry.excluded, *after.excluded})))


def counted(n: int, thing: str) -> str:
    return f"{n:,} {thing}" + ("" if n == 1 else "s")


def write_tars(
    samples: Iterable[RawSample],
    folder: Path,
    *,
    shard_bytes: int = DEFAULT_SHARD_BYTES,
    shard_samples: int | None = None,
    first: int = 0,
) -> Iterator[tuple[Path, int]]:
    """Writes folder/000000.tar and so on, beginning at number `first`; yields each with its number of samples.

    When a tar is yielded, no more of `samples` has been taken than it holds and one more, which begins the next.
    """
    from webdataset import TarWriter  # imports torch

    if shard_bytes < 1 or (shard_samples is not None and shard_samples < 1):
        raise UserError(f"a shard of {shard_bytes} bytes or {shard_samples} samples is too small", where=str(folder))
    coming = iter(samples)
    sample = next(coming, None)
    while sample is not None:
        tar = folder / f"{first:06d}.tar"
        in_shard, size = 0, _TAR_END
        # Fixed times and owners make the bytes a function of the samples alone. The encoder would change bytes.
        with tar.open("wb") as file, TarWriter(file, mtime=0, encoder=False) as writer:
            while sample is not None:
                key = str(sample["__key__"])
                _check_key(key, folder)
                components = {name: _content(value) for name, value in sample.items() if name != "__key__"}
                row_size = sum(_size_in_tar(content) for content in components.values())
                if in_shard and (size + row_size > shard_bytes or in_shard == shard_samples):
                    break
                writer.write({"__key__": key, **components})
                in_shard, size = in_shard + 1, size + row_size
                sample = next(coming, None)
        yield tar, in_shard
        first += 1


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


def index_tar(
    tar: Path,
    folder: Path,
    say: Callable[[str], None] = lambda line: None,
    excluded: Collection[str] = (),
    known: ShardIndex | None = None,
) -> ShardEntry:
    """Indexes a tar into `folder`, and sees that the tar is on disk. `excluded`: keys that the index leaves out.
    `known`: an index to go by instead of the tar's headers."""
    built = index.build(tar, excluded, known)
    if built.ignored:
        say(f"{tar.name}: left out {len(built.ignored)} links or devices, such as {built.ignored[0]}")
    path = catalog.index_path(tar, folder)
    index.write(built, path)
    return ShardEntry(
        name=tar.name,
        n_samples=built.n_samples,
        size_bytes=built.tar_size,
        md5=_md5_and_sync(tar),
        xxh3=built.tar_xxh3,
        index=path.name,
        excluded=tuple(sorted(built.excluded)),
        sounds=sound_column.of_tar(tar, built),
    )


def _md5_and_sync(tar: Path) -> str:
    """wids names shards' contents by md5."""
    with tar.open("rb") as file:
        with contextlib.suppress(OSError):  # not everywhere for a file that is open for reading
            os.fsync(file.fileno())
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
