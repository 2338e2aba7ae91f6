"""A pack in parts, which many machines make at the same time: `distdl data pack KIND SRC DST --part 3/8`.

    DST.parts/3-of-8/train ...     a part: the third eighth of each split, packed as any pack is, and resumable alike
    DST/train ...                  when the last part is there: the shards of all, numbered through

Whoever finishes and finds all parts there joins them, by renaming: it takes a moment and no disk. A part that is whole
is not packed again.
"""

import fcntl
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from distdl.data.corpus import catalog, descriptor
from distdl.data.corpus.descriptor import Descriptor, ShardEntry
from distdl.data.corpus.shards import RawSample
from distdl.errors import UserError
from distdl.run.folder import fsync_folder


@dataclass(frozen=True, slots=True)
class Part:
    number: int  # from 1 on
    n: int

    @classmethod
    def parse(cls, text: str) -> "Part":
        """`3/8`. Raises UserError for anything else."""
        match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
        if not match or not 1 <= int(match[1]) <= int(match[2]):
            raise UserError(f"'{text}' is not a part", where="command line --part", fix="Write 3/8 for the third of 8.")
        return cls(int(match[1]), int(match[2]))

    def folder(self, dst: Path) -> Path:
        return _parts_of(dst) / f"{self.number}-of-{self.n}"

    def of(self, split: str, samples: Iterable[RawSample]) -> "Slice":
        """Raises UserError for a source that can only be read from its beginning to its end."""
        if not isinstance(samples, Sequence):
            raise UserError(
                "this source is read from its beginning to its end: it has no parts",
                where=split,
                fix="Leave out --part.",
            )
        return Slice(samples, len(samples) * (self.number - 1) // self.n, len(samples) * self.number // self.n)


class Slice(Sequence[RawSample]):
    """Samples `begin` .. `end` of others."""

    def __init__(self, samples: Sequence[RawSample], begin: int, end: int) -> None:
        self._samples, self._begin, self._end = samples, begin, end

    def __len__(self) -> int:
        return self._end - self._begin

    def __getitem__(self, i: Any) -> Any:
        return self._samples[range(self._begin, self._end)[i]]

    @property
    def fingerprint(self) -> str:
        whole = getattr(self._samples, "fingerprint", None)
        return f"{self._begin:,} to {self._end:,} of {whole}"


def check_free(dst: Path) -> None:
    """Raises UserError if the whole is there."""
    if dst.exists():
        raise UserError("this exists already", where=str(dst), fix="Choose another name for it, or delete it first.")


def join(dst: Path, n: int) -> list[Descriptor] | None:
    """Makes DST of its parts; its splits, or None while a part is missing, and where another process is at it."""
    folder = joining(dst)
    if not folder.exists():
        if not all(Part(number, n).folder(dst).is_dir() for number in range(1, n + 1)):
            return None
        with suppress(OSError):  # another process has done it
            _parts_of(dst).rename(folder)
    with _locked_folder(folder) as is_mine:
        names = [Part(number, n).folder(dst).name for number in range(1, n + 1)]
        return _joined([folder / name for name in names], folder, dst) if is_mine else None


@contextmanager
def _locked_folder(path: Path) -> Iterator[bool]:
    """Whether it is there, and this process alone has it."""
    try:
        lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        yield False
        return
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        yield False
        return
    try:
        yield path.exists()
    finally:
        os.close(lock)


def _joined(folders: Sequence[Path], place: Path, dst: Path) -> list[Descriptor]:
    whole = place / "whole"
    found = [_join_split(split, folders, whole) for split in _splits(folders)]
    fsync_folder(whole)
    whole.rename(dst)
    fsync_folder(dst.parent)
    shutil.rmtree(place, ignore_errors=True)  # folders without shards
    return found


def _splits(folders: Sequence[Path]) -> list[str]:
    """Raises UserError where the parts were packed in different ways."""
    listed = [(path, descriptor.read(path)) for folder in folders for path in sorted(folder.glob("*/dataset.json"))]
    kinds = {(each.kind, tuple(each.classes or ())): path.parent.parent for path, each in listed if each}
    if len(kinds) > 1:
        first, second, *_ = kinds.values()
        fix = "Delete the folder with the parts, and pack them all by one command."
        raise UserError(f"{first.name} and {second.name} are not of one corpus", where=str(folders[0].parent), fix=fix)
    return sorted({path.parent.name for path, _ in listed})


def joining(dst: Path) -> Path:
    """Where the parts are while they are joined; what it holds is gone on with after a kill."""
    return dst.with_name(f".{dst.name}.joining")


def _parts_of(dst: Path) -> Path:
    return dst.with_name(f"{dst.name}.parts")


def _join_split(split: str, folders: Sequence[Path], whole: Path) -> Descriptor:
    entries: list[ShardEntry] = []
    target, first = whole / split, None
    target.mkdir(parents=True, exist_ok=True)
    for folder in folders:
        part = descriptor.read(folder / split / descriptor.FILE_NAME)
        first = first or part
        for entry in part.shards if part else ():
            name = f"{len(entries):06d}.tar"
            index = catalog.index_path(Path(name), Path()).name
            for old, new in ((entry.name, name), (entry.index, index)):
                with suppress(FileNotFoundError):  # moved by a process that was killed
                    (folder / split / old).rename(target / new)
            entries.append(replace(entry, name=name, index=index))
    assert first, "a split has at least one part"
    written = replace(first, shards=entries)
    descriptor.write(written, target)
    return written
