"""Corpora that come as arrays: scikit-learn's digits, and the idx files of MNIST and of its descendants."""

import gzip
import math
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt

from distdl.data.packing.corpus import ArrayImages, Corpus, source_folder
from distdl.errors import UserError

_IDX_FILES = {"train": "train", "test": "t10k"}  # split -> first part of the files' names
_IDX_UINT8 = 0x08

# --- digits: the 1,797 handwritten digits of 8x8 pixels that come with scikit-learn ---


def digits(src: Path | None) -> Corpus:
    """Held out for test: of each class, every fifth of its samples in their order. No source is needed."""
    try:
        from sklearn.datasets import load_digits
    except ModuleNotFoundError:
        raise UserError(
            "the digits come with scikit-learn, which is not installed", fix='pip install "distdl[digits]"'
        ) from None
    bunch = load_digits()
    images_NHW = np.rint(bunch.images * (255 / 16)).astype(np.uint8)  # 0..16 -> 0..255
    labels = bunch.target.astype(np.int64)
    place_in_class = np.zeros(len(labels), np.int64)
    for label in range(10):
        (rows,) = np.nonzero(labels == label)
        place_in_class[rows] = np.arange(len(rows))
    held_out = place_in_class % 5 == 4
    return Corpus(
        classes=[str(label) for label in range(10)],
        splits={
            split: ArrayImages(images_NHW, labels, np.flatnonzero(held_out == (split == "test")))
            for split in ("train", "test")
        },
        notes=("digits: 1,797 of 8x8 pixels; every fifth of each class is held out for test",),
    )


# --- idx: the four files of MNIST and of its descendants, such as Fashion-MNIST ---


def idx(src: Path | None, *, classes: str | None = None) -> Corpus:
    """`classes`: names separated by commas, in the order of the labels; the numbers themselves by default."""
    src = source_folder(src, "the four idx files, train-images-idx3-ubyte.gz and so on")
    arrays = {split: _idx_split(src, prefix) for split, prefix in _IDX_FILES.items()}
    n_classes = 1 + max(int(labels.max()) for _, labels in arrays.values())
    names = classes.split(",") if classes else [str(label) for label in range(n_classes)]
    if len(names) < n_classes:
        raise UserError(
            f"{len(names)} names for {n_classes} classes", fix="Name every class, in the order of the labels."
        )
    return Corpus(
        classes=names,
        splits={split: ArrayImages(images, labels) for split, (images, labels) in arrays.items()},
    )


def _idx_split(src: Path, prefix: str) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    images_path = _idx_file(src, f"{prefix}-images", "idx3-ubyte")
    labels_path = _idx_file(src, f"{prefix}-labels", "idx1-ubyte")
    images_NHW, labels = _read_idx(images_path, n_dims=3), _read_idx(labels_path, n_dims=1)
    if len(images_NHW) != len(labels):
        raise UserError(
            f"{len(images_NHW)} images in {images_path.name}, but {len(labels)} labels in {labels_path.name}",
            where=str(src),
            fix="Download both again: they are not of the same corpus.",
        )
    return images_NHW, labels.astype(np.int64)


def _idx_file(src: Path, stem: str, ending: str) -> Path:
    names = [f"{stem}{joint}{ending}{compressed}" for joint in "-." for compressed in (".gz", "")]
    for name in names:
        if (src / name).is_file():
            return src / name
    there = ", ".join(sorted(entry.name for entry in src.iterdir())[:6]) or "nothing"
    raise UserError(
        f"no {names[0]} (nor {names[1]}) here; there is: {there}", where=str(src), fix="All four are needed."
    )


def _read_idx(path: Path, *, n_dims: int) -> npt.NDArray[np.uint8]:
    """An idx file: two zeros, type, number of dimensions, each dimension as big-endian u32, then the values."""
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(
            f"this gzip file is cut off or damaged: {error}", where=str(path), fix="Download it again."
        ) from None
    except OSError as error:
        raise UserError(f"can't read it: {error.strerror}", where=str(path)) from error
    start = 4 + 4 * n_dims
    if len(content) < start or content[:4] != bytes((0, 0, _IDX_UINT8, n_dims)):
        raise UserError(
            f"not an idx file of bytes in {n_dims} dimensions: it begins with {content[:4].hex(' ') or 'nothing'}",
            where=str(path),
            fix=f"It should begin with 00 00 08 0{n_dims}. Was a web page saved in its place?",
        )
    shape = tuple(int(size) for size in np.frombuffer(content, ">u4", n_dims, 4))
    n_values = math.prod(shape)
    if n_values == 0 or start + n_values != len(content):
        raise UserError(
            f"its header promises {' x '.join(map(str, shape))} values, but {len(content) - start} follow",
            where=str(path),
            fix="Download it again.",
        )
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)
