"""What a kind of corpus gives: the names of the classes, and for each split its samples, made when they are written.

A split is a sequence of samples, of which any may be made at any time by any thread; or, where a source can only be
read from its beginning to its end, an iterable. Either has to give the same samples each time: a pack that goes on
after a kill begins in the middle.
"""

import os
import stat
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import xxhash

from distdl.data.corpus.shards import RawSample, counted
from distdl.data.pictures.image import image_size
from distdl.errors import UserError

IMAGE_FILES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".webp")
SPLITS = ("train", "val", "test")
_MOST_KINDS = 12

Kind = Callable[..., "Corpus"]


@dataclass(frozen=True, slots=True)
class Corpus:
    classes: list[str] | None  # None where labels are numbers of another kind
    splits: dict[str, Iterable[RawSample]]
    notes: tuple[str, ...] = ()  # what the reader should know, such as files left out
    thing: str = "image"  # what a sample is called
    rules: dict[str, Any] | None = None  # what was done to the samples, for dataset.json


class Others:
    """Files of a source that are not packed: how many of each kind, by the ending of their name, and the first one."""

    def __init__(self) -> None:
        self._kinds: dict[str, tuple[int, str]] = {}

    def add(self, name: str, kind: str = "", n: int = 1) -> None:
        kind = kind or PurePosixPath(name).suffix.lower() or "without an ending"
        before, first = self._kinds.get(kind, (0, name))
        self._kinds[kind] = before + n, first

    def extend(self, others: "Others") -> None:
        for kind, (n, first) in others._kinds.items():
            self.add(first, kind, n)

    def __len__(self) -> int:
        return sum(n for n, _ in self._kinds.values())

    def __str__(self) -> str:
        """`12 files that can't be packed: 9 .gif (such as ants/1.gif), 3 .tif (such as bees/7.tif)`"""
        most_first = sorted(self._kinds.items(), key=lambda item: (-item[1][0], item[0]))
        kinds = [f"{n:,} {kind} ({'such as ' * (n > 1)}{first})" for kind, (n, first) in most_first]
        more = f", and {len(kinds) - _MOST_KINDS:,} more kinds" if len(kinds) > _MOST_KINDS else ""
        return f"{counted(len(self), 'file')} that can't be packed: {', '.join(kinds[:_MOST_KINDS])}{more}"

    def note(self, split: str) -> list[str]:
        return [f"{split}: left out {self}"] if len(self) else []


class Unfit(Exception):
    """A source sample that is left out: `name` says which, `reason` why."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(name, reason)
        self.name, self.reason = name, reason

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"


@dataclass(frozen=True, slots=True)
class ImageFile:
    """An image of the source: a file, or a member of a tar."""

    path: Path
    name: str  # class/path/below/it.jpg: key and place in the order are made from it
    label: int | str
    offset: int = 0  # bytes from the start of the file
    size: int | None = None  # bytes; None: the whole file


class ImageFiles(Sequence[RawSample]):
    """Images copied byte by byte, in an order that mixes the classes and depends on the names alone.

    The key is the name without extension and with `_` for dots, which end a key. What doesn't begin as an image is
    unfit.
    """

    def __init__(self, files: Iterable[ImageFile]) -> None:
        self._files = sorted(files, key=shuffled)
        self._keys = _keys(self._files)

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, i: Any) -> Any:
        file = self._files[i]
        content, extension = read(file), _extension(file)
        try:
            image_size(content, extension)
        except ValueError as error:
            raise Unfit(file.name, str(error)) from None
        return {"__key__": self._keys[i], extension: content, "cls": file.label}

    @property
    def fingerprint(self) -> str:
        """Of names, labels and places, not of the pixels, which would have to be read."""
        digest = xxhash.xxh3_64()
        for file in self._files:
            digest.update(os.fsencode(f"{file.name}\0{file.label}\0{file.offset}\0{file.size}\0"))
        return f"{len(self):,} ({digest.hexdigest()})"


def read(file: ImageFile) -> bytes:
    """The image's bytes. Raises UserError where they can't be had."""
    where = str(file.path) if file.size is None else f"{file.path}: {file.name}"
    fix = "Mend or delete it, and give the same command again."
    try:
        # Without O_NONBLOCK a pipe would be waited for.
        with os.fdopen(os.open(file.path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb", buffering=0) as opened:
            if not stat.S_ISREG(os.fstat(opened.fileno()).st_mode):
                raise UserError("this is a pipe or a device, not an image", where=where, fix=fix)
            opened.seek(file.offset)
            content = opened.read(-1 if file.size is None else file.size)
    except OSError as error:
        raise UserError(f"can't read this image: {error.strerror}", where=where, fix=fix) from error
    if file.size not in (None, len(content)):
        raise UserError("its tar became shorter while it was read", where=where, fix="Is the tar still being copied?")
    return content


def shuffled(file: ImageFile) -> tuple[int, str]:
    """Sorted by this, files stand in an order that mixes the classes and depends on the names alone."""
    return xxhash.xxh3_64_intdigest(os.fsencode(file.name)), file.name


def _extension(file: ImageFile) -> str:
    return file.name.rpartition(".")[2].lower()


def _keys(files: list[ImageFile]) -> list[str]:
    taken: set[str] = set()
    keys = []
    for file in files:
        folder, slash, base = file.name.rpartition("/")
        extension = _extension(file)
        key = folder + slash + base[: -len(extension) - 1].replace(".", "_")
        if key in taken:  # a.jpg beside a.png
            key += "_" + extension
        while key in taken:
            key += "_"
        taken.add(key)
        keys.append(key)
    return keys


class ArrayImages(Sequence[RawSample]):
    """Rows of arrays as PNG; `images` is uint8 (N, height, width) or RGB (N, height, width, 3), `labels` int64 (N,).

    The key is the row's number in the source.
    """

    def __init__(
        self, images: npt.NDArray[np.uint8], labels: npt.NDArray[np.int64], rows: npt.NDArray[np.int64] | None = None
    ) -> None:
        self._images, self._labels = images, labels
        self._rows = np.arange(len(images)) if rows is None else rows
        self._key_width = len(str(len(images) - 1))

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, i: Any) -> Any:
        row = int(self._rows[i])
        pixels = self._images[row]
        _, png = cv2.imencode(".png", pixels[:, :, ::-1] if pixels.ndim == 3 else pixels)
        return {"__key__": f"{row:0{self._key_width}d}", "png": png.tobytes(), "cls": int(self._labels[row])}

    @property
    def fingerprint(self) -> str:
        digest = xxhash.xxh3_64()
        for array in (self._images, self._labels, self._rows):
            digest.update(np.ascontiguousarray(array).data)
        return f"{len(self):,} ({digest.hexdigest()})"


def source_folder(src: Path | None, with_what: str) -> Path:
    if src is None or not src.is_dir():
        raise UserError("this is not a folder", where=str(src or "SRC"), fix=f"Expected: a folder with {with_what}.")
    return src


def check_share(holdout: float) -> None:
    if not 0 <= holdout < 1:
        raise UserError(f"holdout is a share from 0 to below 1, not {holdout}")
