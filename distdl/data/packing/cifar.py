"""CIFAR-10 and CIFAR-100 as they are downloaded: the Python (pickled) or the binary batches, or their .tar.gz.

A pickle can run any code when it is read. This one is read by an unpickler that knows two things: plain values, and an
array of bytes, which it builds itself; whatever else a file asks for is refused.
"""

import io
import pickle
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from distdl.data.packing.corpus import ArrayImages, Corpus, source_folder
from distdl.errors import UserError

_BYTES_OF_IMAGE = 3 * 32 * 32
_LARGEST_FILE = 1 << 28  # bytes; the largest there is, train.bin of CIFAR-100, has 154 million

Labels = Literal["fine", "coarse"]
Files = Mapping[str, bytes]
"""file name -> content"""
Rows = tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]
"""images (N, 3072), red, then green, then blue; labels (N,)"""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Layout:
    """The files of one download; names of CIFAR-10's classes are `label_names`, CIFAR-100 has fine and coarse ones."""

    train: tuple[str, ...]
    test: tuple[str, ...]
    names: tuple[str, ...]
    has_coarse: bool
    pickled: bool

    @property
    def files(self) -> tuple[str, ...]:
        return (*self.train, *self.test, *self.names)


_LAYOUTS = {
    "cifar-10-batches-py": _Layout(
        train=tuple(f"data_batch_{i}" for i in range(1, 6)),
        test=("test_batch",),
        names=("batches.meta",),
        has_coarse=False,
        pickled=True,
    ),
    "cifar-10-batches-bin": _Layout(
        train=tuple(f"data_batch_{i}.bin" for i in range(1, 6)),
        test=("test_batch.bin",),
        names=("batches.meta.txt",),
        has_coarse=False,
        pickled=False,
    ),
    "cifar-100-python": _Layout(train=("train",), test=("test",), names=("meta",), has_coarse=True, pickled=True),
    "cifar-100-binary": _Layout(
        train=("train.bin",),
        test=("test.bin",),
        names=("fine_label_names.txt", "coarse_label_names.txt"),
        has_coarse=True,
        pickled=False,
    ),
}


def cifar(src: Path | None, *, labels: Labels | None = None) -> Corpus:
    """SRC: one of the archives, the folder that it unpacks to, or a folder with one of either.

    `labels`: of CIFAR-100, fine (100 classes, the default) or coarse (20).
    """
    place, layout = _find(src)
    if labels not in (None, "fine", "coarse"):
        raise UserError(f"'{labels}' are no labels of CIFAR-100: fine or coarse", where="command line --labels")
    if labels and not layout.has_coarse:
        raise UserError("CIFAR-10 has one kind of labels", where="command line --labels", fix="Leave it out.")
    files = _read_archive(place, layout) if place.is_file() else _read_folder(place, layout)
    read = _pickled if layout.pickled else _binary
    classes = _class_names(files, layout, labels or "fine", place)
    splits = {}
    for split, names in (("train", layout.train), ("test", layout.test)):
        parts = [read(files[name], layout, labels or "fine", f"{place}/{name}") for name in names]
        images_NCHW = np.concatenate([images for images, _ in parts]).reshape(-1, 3, 32, 32)
        numbers = np.concatenate([numbers for _, numbers in parts])
        if numbers.min(initial=0) < 0 or numbers.max(initial=0) >= len(classes):
            raise UserError(f"there is a label beyond the {len(classes)} classes in {split}", where=str(place))
        splits[split] = ArrayImages(np.ascontiguousarray(images_NCHW.transpose(0, 2, 3, 1)), numbers)
    return Corpus(classes, dict(splits))


# --- which files ---


def _find(src: Path | None) -> tuple[Path, _Layout]:
    """The archive or folder that SRC is or holds, by its files."""
    if src is not None and src.is_file():
        return src, _layout_of(src, _names_in(src))
    src = source_folder(src, "one of CIFAR's archives or what it unpacks to")
    found: list[tuple[Path, _Layout]] = []
    for place in (src, *(src / name for name in _LAYOUTS)):
        there = {entry.name for entry in place.iterdir() if entry.is_file()} if place.is_dir() else set()
        found += [(place, layout) for layout in _LAYOUTS.values() if set(layout.files) <= there]
    if not found:
        archives = sorted(src.glob("cifar-10*.tar.gz"))
        found = [(archive, _layout_of(archive, _names_in(archive))) for archive in archives]
    if len(found) == 1:
        return found[0]
    what = f"{len(found)} of CIFAR's layouts are here" if found else "there are no batches of CIFAR here"
    raise UserError(what, where=str(src), fix=f"Give one of: {', '.join(_LAYOUTS)}, or an archive of it.")


def _layout_of(archive: Path, names: set[str]) -> _Layout:
    for layout in _LAYOUTS.values():
        if set(layout.files) <= names:
            return layout
    raise UserError("these are not CIFAR's batches", where=str(archive), fix=f"Known: {', '.join(_LAYOUTS)}.")


def _names_in(archive: Path) -> set[str]:
    return {Path(member.name).name for member, _ in _members(archive)}


def _members(archive: Path) -> Iterator[tuple[tarfile.TarInfo, tarfile.TarFile]]:
    """The files in it; nothing is extracted, links lead nowhere."""
    try:
        with tarfile.open(archive) as tar:
            for member in tar:
                if member.isreg():
                    yield member, tar
    except (OSError, EOFError, tarfile.TarError) as error:
        raise UserError(
            f"this archive is cut off or damaged: {error}", where=str(archive), fix="Download it again."
        ) from error


def _read_archive(archive: Path, layout: _Layout) -> Files:
    files = {}
    for member, tar in _members(archive):
        name = Path(member.name).name
        if name in layout.files:
            if member.size > _LARGEST_FILE:
                raise UserError(f"{name} is no batch: it has {member.size} bytes", where=str(archive))
            content = tar.extractfile(member)
            assert content is not None, "it is a regular file"
            files[name] = content.read()
    return files


def _read_folder(folder: Path, layout: _Layout) -> Files:
    try:
        return {name: (folder / name).read_bytes() for name in layout.files}
    except OSError as error:
        raise UserError(f"can't read it: {error.strerror}", where=str(error.filename)) from error


# --- what is in them ---


def _binary(content: bytes, layout: _Layout, labels: Labels, where: str) -> Rows:
    """Rows of one label (CIFAR-100: the coarse, then the fine one) and an image."""
    n_labels = 2 if layout.has_coarse else 1
    if len(content) == 0 or len(content) % (n_labels + _BYTES_OF_IMAGE):
        raise UserError(f"{len(content)} bytes are no whole number of images", where=where, fix="Download it again.")
    rows = np.frombuffer(content, np.uint8).reshape(-1, n_labels + _BYTES_OF_IMAGE)
    label = 1 if layout.has_coarse and labels == "fine" else 0
    return rows[:, n_labels:], rows[:, label].astype(np.int64)


def _pickled(content: bytes, layout: _Layout, labels: Labels, where: str) -> Rows:
    batch = _unpickle(content, where)
    name = f"{labels}_labels" if layout.has_coarse else "labels"
    images, numbers = batch.get("data"), batch.get(name)
    if not isinstance(images, np.ndarray) or images.ndim != 2 or images.shape[1] != _BYTES_OF_IMAGE:
        raise UserError("it has no images of 32x32 pixels under 'data'", where=where)
    if not isinstance(numbers, list) or len(numbers) != len(images) or not all(isinstance(n, int) for n in numbers):
        raise UserError(f"it has no label for each image under '{name}'", where=where)
    return images, np.array(numbers, np.int64)


def _class_names(files: Files, layout: _Layout, labels: Labels, place: Path) -> list[str]:
    if layout.pickled:
        name = f"{labels}_label_names" if layout.has_coarse else "label_names"
        names = _unpickle(files[layout.names[0]], f"{place}/{layout.names[0]}").get(name)
    else:
        name = f"{labels}_label_names.txt" if layout.has_coarse else layout.names[0]
        names = files[name].decode("utf-8", "replace").split()
    if not isinstance(names, list) or not names or not all(isinstance(each, str) for each in names):
        raise UserError(f"it has no names of classes under '{name}'", where=str(place))
    return names


class _BytesArray:
    """Stands for a numpy array while it is unpickled; takes the state of one of bytes, and nothing else."""

    array: npt.NDArray[np.uint8]

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, fortran_order, content = state
        if not isinstance(dtype, _BytesType) or not isinstance(content, bytes):
            raise pickle.UnpicklingError("an array that is not made of bytes")
        self.array = np.frombuffer(content, np.uint8).reshape(shape, order="F" if fortran_order else "C")


class _BytesType:
    """Stands for numpy's dtype of uint8."""

    def __init__(self, name: str | bytes, *rest: Any) -> None:
        if name not in ("u1", b"u1", "uint8", b"uint8"):
            raise pickle.UnpicklingError(f"an array of {name!r}")

    def __setstate__(self, state: Any) -> None:
        """Byte order and the like, which a byte has not."""


def _new_array(*arguments: Any) -> _BytesArray:
    return _BytesArray()


def _encode(text: str, encoding: str) -> bytes:
    """How Python 3 writes bytes into a pickle that Python 2 reads."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"text encoded in {encoding!r}")
    return text.encode("latin1")


_KNOWN = {
    ("numpy.core.multiarray", "_reconstruct"): _new_array,
    ("numpy._core.multiarray", "_reconstruct"): _new_array,
    ("numpy", "ndarray"): _BytesArray,
    ("numpy", "dtype"): _BytesType,
    ("_codecs", "encode"): _encode,
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _KNOWN:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which a batch of CIFAR has no use for")
        return _KNOWN[module, name]


def _unpickle(content: bytes, where: str) -> dict[str, Any]:
    """A dictionary, its keys and lists of names as text. Raises UserError for what is not made of plain data."""
    try:
        value = _Unpickler(io.BytesIO(content), encoding="bytes").load()
    except Exception as error:  # a damaged pickle can raise whatever it likes
        raise UserError(
            f"this is no batch of CIFAR: {error}", where=where, fix="Download it again, from a source that you trust."
        ) from error
    if not isinstance(value, dict):
        raise UserError("this is no batch of CIFAR: it is not a dictionary", where=where)
    return {_text(key): _plain(item) for key, item in value.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, _BytesArray):
        return getattr(value, "array", None)
    return [_text(item) for item in value] if isinstance(value, list) else value


def _text(value: Any) -> Any:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value
