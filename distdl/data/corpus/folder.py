"""A folder per class with image files in it, trained on as it lies: PATH/<class>/.../*.jpg, as of ImageNet's wnids.

Files are listed once, in an index that is kept in this user's cache folder and made anew when a folder in the tree has
changed. In the plan's eyes 1000 files that follow one another are a shard. A sample has its file and the component
`cls`, the number of its class in the sorted names of all.

Files are not compared with a checksum, as shards are; a file of another size than was listed is a bad sample.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import xxhash
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from distdl.data.corpus.dataset import CorruptSample, Sample
from distdl.data.pictures.image import is_image
from distdl.errors import UserError
from distdl.run.folder import write_atomic
from distdl.run.places import user_cache

LABEL = "cls"
_SHARD = 1000  # files
_VERSION = "2"
_SPLITS = {"train", "val", "validation", "test"}

Columns = dict[str, npt.NDArray[np.generic]]


class FolderDataset:
    """The samples of one split. Made by `open`; `read` may be called from any number of threads."""

    def __init__(self, path: Path, classes: list[str], columns: Columns) -> None:
        self.path, self.classes = str(path), classes
        self._root = path
        self._place = str(self._root.absolute())
        self._names, self._ends = columns["names"].tobytes(), columns["ends"]
        self._sizes = columns["sizes"]
        self.labels: npt.NDArray[np.int64] = columns["labels"].astype(np.int64)
        self.n_samples = len(self._sizes)
        self.sizes = np.diff([*range(0, self.n_samples, _SHARD), self.n_samples]).astype(np.int64)
        digest = xxhash.xxh3_128(self._names)
        digest.update(np.ascontiguousarray(self._sizes).tobytes())
        self.identity = digest.hexdigest()

    @classmethod
    def open(cls, path: str | Path) -> "FolderDataset":
        """Raises UserError where no class has an image, the classes are splits, or the tree can't be read."""
        path = Path(path)
        kept = _kept_at(path)
        found = _read(kept, path)
        if found is None:
            classes, columns, folders = _listed(path)
            found = classes, columns
            with contextlib.suppress(OSError):  # where nothing can be kept it is listed again the next time
                kept.parent.mkdir(parents=True, exist_ok=True)
                about = {"version": _VERSION, "classes": json.dumps(classes), "folders": json.dumps(folders)}
                write_atomic(kept, save(columns, metadata=about))
        return cls(path, *found)

    def read(self, shard: int, row: int, only: Collection[str] | None = None) -> Sample:
        """Raises CorruptSample when the file can't be read or has another size than was listed."""
        sample_id = self.sample_id(shard, row)
        name = self._name(sample_id)
        stem, _, extension = name.rpartition(".")
        components = {LABEL: b"%d" % self.labels[sample_id]}
        extension = extension.lower()
        if only is None or extension in only:
            try:
                components[extension] = (self._root / name).read_bytes()
            except OSError as error:
                raise CorruptSample(self.path, stem, extension, f"can't be read: {error.strerror}") from error
            size, listed = len(components[extension]), int(self._sizes[sample_id])
            if size != listed:
                raise CorruptSample(self.path, stem, extension, f"it has {size} bytes, {listed} when it was listed")
        return Sample(stem, self.path, components)

    def extensions(self, shard: int) -> tuple[str, ...]:
        return self._name(self.sample_id(shard, 0)).rpartition(".")[2].lower(), LABEL

    def key(self, shard: int, row: int) -> str:
        return self._name(self.sample_id(shard, row)).rpartition(".")[0]

    def place(self, shard: int) -> str:
        return self._place

    def locate(self, sample_id: int) -> tuple[int, int]:
        """Sample id -> (shard, row). Raises IndexError unless 0 <= sample_id < n_samples."""
        if not 0 <= sample_id < self.n_samples:
            raise IndexError(f"sample {sample_id} of {self.n_samples}")
        return divmod(sample_id, _SHARD)

    def sample_id(self, shard: int, row: int) -> int:
        """(shard, row) -> sample id. Raises IndexError where there is no such row."""
        if not (0 <= shard < len(self.sizes) and 0 <= row < self.sizes[shard]):
            raise IndexError(f"shard {shard}, row {row}")
        return shard * _SHARD + row

    def file(self, sample_id: int) -> Path:
        return self._root / self._name(sample_id)

    def announce(self, sample_ids: Iterable[int], only: Collection[str] | None) -> None:
        """Files come when they are asked for."""

    def advance(self) -> None:
        """Files and items come when they are asked for."""

    def close(self) -> None:
        """No file stays open."""

    def _name(self, sample_id: int) -> str:
        return os.fsdecode(self._names[int(self._ends[sample_id]) : int(self._ends[sample_id + 1])])


# --- the list of files ---


def _listed(path: Path) -> tuple[list[str], Columns, dict[str, int]]:
    """The classes, a row for each file, and when each folder of the tree was changed (ns), by its name below `path`."""
    folders: dict[str, int] = {}
    try:
        folders[""] = path.stat().st_mtime_ns
        classes = sorted(entry.name for entry in os.scandir(path) if entry.is_dir() and not entry.name.startswith("."))
        rows = [
            (name, size, label) for label, of in enumerate(classes) for name, size in sorted(_files(path, of, folders))
        ]
    except OSError as error:
        fix = "Is the path right, and relative to the folder you start in?"
        raise UserError(f"can't list this folder: {error.strerror}", where=str(error.filename), fix=fix) from error
    if not rows:
        raise UserError(
            "no images here",
            where=str(path),
            fix="Expected is a folder per class with images in it: PATH/<class>/*. Of splits, give one: PATH/train.",
        )
    _refuse_splits(path, [name for name, _, _ in rows])
    names = [os.fsencode(name) for name, _, _ in rows]
    columns: Columns = {
        "names": np.frombuffer(b"".join(names), np.uint8),
        "ends": np.cumsum([0, *map(len, names)], dtype=np.int64),
        "sizes": np.array([size for _, size, _ in rows], np.int64),
        "labels": np.array([label for _, _, label in rows], np.int32),
    }
    return classes, columns, folders


def _refuse_splits(path: Path, names: list[str]) -> None:
    """Raises UserError where all folders are called as splits are, and one of them holds no images but in folders.

    A class may be called "train" too, beside "bus" and "tram".
    """
    with_images = {name.partition("/")[0] for name in names}
    with_folders = {name.partition("/")[0] for name in names if name.count("/") > 1}
    of_images_alone = {name.partition("/")[0] for name in names if name.count("/") == 1}
    if {name.lower() for name in with_images} <= _SPLITS and with_folders - of_images_alone:
        inside = ", ".join(str(path / name) for name in sorted(with_folders))
        raise UserError(
            f"these are splits, not classes: {', '.join(sorted(with_images))}",
            where=str(path),
            fix=f"Give one that has a folder per class: {inside}.",
        )


def _files(root: Path, folder: str, folders: dict[str, int]) -> Iterator[tuple[str, int]]:
    """(name below root, size in bytes) of the images in a folder and below it; what is hidden is left out."""
    folders[folder] = (root / folder).stat().st_mtime_ns
    for entry in os.scandir(root / folder):
        name = f"{folder}/{entry.name}"
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            yield from _files(root, name, folders)
        elif is_image(entry.name.rpartition(".")[2].lower()):
            yield name, entry.stat().st_size


def _kept_at(path: Path) -> Path:
    name = hashlib.sha256(os.fsencode(path.absolute())).hexdigest()[:32]
    return user_cache() / "folders" / f"{name}.safetensors"


def _read(kept: Path, path: Path) -> tuple[list[str], Columns] | None:
    """The list that was kept; None if there is none, it is damaged, or the tree has changed since."""
    try:
        with safe_open(kept, framework="numpy") as file:
            about = file.metadata() or {}
            if about.get("version") != _VERSION:
                return None
            for folder, changed_ns in json.loads(about["folders"]).items():
                if (path / folder).stat().st_mtime_ns != changed_ns:
                    return None
            return json.loads(about["classes"]), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, ValueError, KeyError):
        return None
