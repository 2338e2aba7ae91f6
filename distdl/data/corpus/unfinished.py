"""A folder appears under its final name only when everything in it is written and on disk; so do files of one folder.

Until then it is `.NAME.unfinished` beside it, locked by the process that fills it. `new_folder` begins anew each time;
`resumable_folder` keeps what a killed process had finished, and holds

    .NAME.unfinished/journal.jsonl    what is packed and how, then a line for each shard that is whole and on disk
    .NAME.unfinished/corpus/          becomes NAME

A shard is whole when the journal says so: its line is written after the shard's own bytes are on disk. Whatever else
lies in the folder is deleted by the process that goes on.

`new_files` are for a folder that exists: they wait in FOLDER/.unfinished until all are written.
"""

import contextlib
import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from distdl.data.corpus import catalog
from distdl.data.corpus.descriptor import ShardEntry
from distdl.errors import UserError
from distdl.run.folder import fsync_folder, write_atomic

Recipe = dict[str, Any]
"""name, as a person would say it -> value: all that decides the bytes of a pack"""


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder to fill, which becomes `path` when the block ends well, and is deleted when it does not.

    What a killed process left of it is deleted. Raises UserError when `path` exists and is not an empty folder, when
    another process is filling it, and for any OSError.
    """
    with _filling(path) as unfinished:
        _delete_contents(unfinished)
        try:
            yield unfinished
            _commit(unfinished, path)
        except BaseException:
            shutil.rmtree(unfinished, ignore_errors=True)
            raise


@contextlib.contextmanager
def resumable_folder(path: Path) -> Iterator["Progress"]:
    """As `new_folder`, but finished shards are kept when the block fails or the process is killed."""
    with _filling(path) as unfinished:
        progress, done = Progress(unfinished), False
        try:
            yield progress
            _commit(progress.folder, path)
            done = True
        except OSError as error:
            fix = f"{progress.kept} kept in {unfinished}: the same command goes on." if progress.n_finished else ""
            raise UserError(f"{error.strerror}: {error.filename or path}", where=str(path), fix=fix) from error
        finally:
            if done or not progress.n_finished:
                shutil.rmtree(unfinished, ignore_errors=True)


@contextlib.contextmanager
def new_files(folder: Path, last: str) -> Iterator[Path]:
    """A folder to fill with files that replace those of `folder` when the block ends well; else nothing changes there.

    The block writes the file `last` when all others are on disk, and it takes its place after them. So where a killed
    process has left one, all others are whole, and those that still wait take their places before the block begins.
    Raises OSError, and UserError when another process is at it.
    """
    unfinished = folder / ".unfinished"
    with _locked(unfinished, folder):
        try:
            _replace(unfinished, folder, last)
            _delete_contents(unfinished)
            yield unfinished
            _replace(unfinished, folder, last)
        finally:
            if not (unfinished / last).exists():
                shutil.rmtree(unfinished, ignore_errors=True)


def _replace(unfinished: Path, folder: Path, last: str) -> None:
    if not (unfinished / last).exists():
        return
    for file in sorted(unfinished.iterdir(), key=lambda file: file.name == last):
        file.rename(folder / file.name)
    fsync_folder(folder)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """A shard that is whole. `end`: how many of the split's source samples it and the shards before it have used."""

    split: str
    entry: ShardEntry
    end: int
    left_out: list[str]  # of the source samples that it used: which could not be packed, and why


class Progress:
    """What is finished of a pack: by an earlier process that was killed, and by this one."""

    def __init__(self, unfinished: Path) -> None:
        self.folder = unfinished / "corpus"
        self._unfinished, self._journal = unfinished, unfinished / "journal.jsonl"
        self._recipe, finished = _read_journal(self._journal)
        self._finished = _whole(finished, self.folder)

    @property
    def n_finished(self) -> int:
        return len(self._finished)

    @property
    def kept(self) -> str:
        return "1 finished shard is" if self.n_finished == 1 else f"{self.n_finished:,} finished shards are"

    def begin(self, recipe: Recipe) -> None:
        """Goes on, or begins where nothing is finished. Raises UserError if what is finished was made otherwise."""
        recipe = json.loads(json.dumps(recipe))
        if self._finished and recipe != self._recipe:
            names = dict.fromkeys([*self._recipe, *recipe])
            changed = [name for name in names if self._recipe.get(name) != recipe.get(name)]
            raise UserError(
                "an unfinished pack is here that was begun otherwise:\n  "
                + "\n  ".join(f"{name}: {self._recipe.get(name)}, now {recipe.get(name)}" for name in changed),
                where=str(self._unfinished),
                fix=f"Give the first command again to go on, or delete that folder to begin anew ({self.kept} in it).",
            )
        _delete_contents(self._unfinished, keep={self._journal, *self._files_of_finished()})
        lines = [{"recipe": recipe}, *map(asdict, self._finished)]
        write_atomic(self._journal, b"".join(map(_line, lines)))

    def of(self, split: str) -> list[Finished]:
        return [each for each in self._finished if each.split == split]

    def add(self, finished: Finished) -> None:
        """`finished.entry` and its index are on disk. Raises OSError."""
        fsync_folder(self.folder / finished.split)
        with self._journal.open("ab") as file:
            file.write(_line(asdict(finished)))
            file.flush()
            os.fsync(file.fileno())
        self._finished.append(finished)

    def _files_of_finished(self) -> set[Path]:
        places = [(self.folder / each.split, each.entry) for each in self._finished]
        files = {folder / name for folder, entry in places for name in (entry.name, entry.index)}
        return files | {folder for folder, _ in places} | ({self.folder} if places else set())


def _line(value: dict[str, Any]) -> bytes:
    return json.dumps(value).encode() + b"\n"


def _read_journal(path: Path) -> tuple[Recipe, list[Finished]]:
    """Up to the first line that is not whole: the process may have been killed while it wrote one."""
    recipe: Recipe = {}
    finished = []
    with contextlib.suppress(FileNotFoundError, ValueError, KeyError, TypeError):
        first, *rest = path.read_bytes().split(b"\n")
        recipe = dict(json.loads(first)["recipe"])
        for line in filter(None, rest):
            value = json.loads(line)
            finished.append(Finished(**(value | {"entry": ShardEntry(**value["entry"])})))
    return recipe, finished


def _whole(finished: list[Finished], folder: Path) -> list[Finished]:
    """Of each split those shards before the first whose files are not what the journal says."""
    kept: list[Finished] = []
    broken: set[str] = set()
    for each in finished:
        place = folder / each.split
        if each.split not in broken and catalog.listed_index(place / each.entry.name, place, each.entry):
            kept.append(each)
        else:
            broken.add(each.split)
    return kept


@contextlib.contextmanager
def _filling(path: Path) -> Iterator[Path]:
    """`.NAME.unfinished`, locked. Raises UserError for any OSError."""
    _check_free(path)
    unfinished = path.with_name(f".{path.name}.unfinished")
    try:
        with _locked(unfinished, path):
            _check_free(path)  # another process may have finished it before we had the lock
            yield unfinished
    except OSError as error:
        raise UserError(f"{error.strerror}: {error.filename or path}", where=str(path)) from error


@contextlib.contextmanager
def _locked(unfinished: Path, path: Path) -> Iterator[None]:
    unfinished.mkdir(parents=True, exist_ok=True)
    lock = os.open(unfinished, os.O_RDONLY | os.O_DIRECTORY)
    try:
        _lock(lock, unfinished, path)
        yield
    finally:
        os.close(lock)


def _check_free(path: Path) -> None:
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise UserError("this exists already", where=str(path), fix="Choose another name for it, or delete it first.")


def _lock(folder: int, unfinished: Path, path: Path) -> None:
    busy = UserError("another process is writing this", where=str(path), fix="Wait until it is done.")
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise busy from None
    if not unfinished.exists() or not os.path.samestat(os.fstat(folder), unfinished.stat()):
        raise busy  # it was renamed or deleted between our opening and our locking it


def _commit(folder: Path, path: Path) -> None:
    fsync_folder(folder)
    folder.rename(path)
    fsync_folder(path.parent)


def _delete_contents(folder: Path, keep: frozenset[Path] | set[Path] = frozenset()) -> None:
    """Deletes what is in the folder, but for the files and the folders in `keep`, of whose contents as well."""
    for entry in folder.iterdir():
        if entry in keep:
            if entry.is_dir():
                _delete_contents(entry, keep)
        elif entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()
