"""`distdl data pack KIND SRC DST`: converts a corpus into shards, DST/train and DST/test or DST/val.

A kind is a function that reads SRC and returns a Corpus: the names of the classes, and for each split its samples, made
one by one while they are written. All splits appear together, when the last one is written.
"""

import csv
import gzip
import math
import os
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import xxhash

from distdl.data import labels, shards
from distdl.data.shards import RawSample
from distdl.errors import UserError, did_you_mean
from distdl.registry import call_with_args
from distdl.track.progress import Advance, is_drawn, progress

IMAGE_FILES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".webp")
SPLITS = ("train", "val", "test")
_IDX_FILES = {"train": "train", "test": "t10k"}  # split -> first part of the files' names
_IDX_UINT8 = 0x08
_PROGRESS_EVERY_S = 5.0

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Corpus:
    classes: list[str] | None  # None where labels are numbers of another kind
    splits: dict[str, Iterable[RawSample]]
    notes: tuple[str, ...] = ()  # what the reader should know, such as files left out


def pack(
    kind: str,
    src: str | Path | None,
    dst: str | Path,
    *,
    say: Say = print,
    shard_bytes: int = shards.DEFAULT_SHARD_BYTES,
    shard_samples: int | None = None,
    **options: Any,
) -> int:
    """Packs SRC (not used by "digits") into DST; `options` are those of the kind. Returns the exit code.

    Raises UserError for an unknown kind or option, an unreadable source, and a destination that exists.
    """
    if kind not in KINDS:
        known = ", ".join(KINDS)
        raise UserError(f"unknown kind of corpus '{kind}'{did_you_mean(kind, KINDS)}", fix=f"Known kinds: {known}.")
    dst, began = Path(dst), time.perf_counter()
    with shards.new_folder(dst) as unfinished:
        corpus = call_with_args(KINDS[kind], options, f"data pack {kind}", src=Path(src) if src is not None else None)
        for note in corpus.notes:
            say(note)
        total_samples = total_bytes = 0
        for split, samples in corpus.splits.items():
            with progress(f"packing {split}") as advance:
                written = shards.write_shards(
                    _told(samples, split, say, advance),
                    unfinished / split,
                    classes=corpus.classes,
                    kind=kind,
                    shard_bytes=shard_bytes,
                    shard_samples=shard_samples,
                )
            n_samples = sum(shard.n_samples for shard in written.shards)
            n_bytes = sum(shard.size_bytes for shard in written.shards)
            in_shards = shards.counted(len(written.shards), "shard")
            say(f"{split}: {n_samples:,} samples in {in_shards}, {n_bytes / 1e6:,.1f} MB")
            total_samples, total_bytes = total_samples + n_samples, total_bytes + n_bytes
    seconds = time.perf_counter() - began
    classes = f"{len(corpus.classes)} classes, " if corpus.classes else ""
    size = f"{total_samples:,} samples, {classes}{total_bytes / 1e6:,.1f} MB"
    say(f"packed {size} in {seconds:.1f} s: {', '.join(str(dst / split) for split in corpus.splits)}")
    return 0


def _told(samples: Iterable[RawSample], split: str, say: Say, advance: Advance) -> Iterator[RawSample]:
    """The samples, with a bar on a terminal, and elsewhere a line every few seconds."""
    last = time.monotonic()
    for n_samples, sample in enumerate(samples):
        if time.monotonic() - last > _PROGRESS_EVERY_S and not is_drawn():
            last = time.monotonic()
            say(f"{split}: {n_samples:,} samples ...")
        advance()
        yield sample


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
            split: _png_samples(images_NHW, labels, np.flatnonzero(held_out == (split == "test")))
            for split in ("train", "test")
        },
        notes=("digits: 1,797 of 8x8 pixels; every fifth of each class is held out for test",),
    )


def _png_samples(
    images_NHW: npt.NDArray[np.uint8], labels: npt.NDArray[np.int64], rows: npt.NDArray[np.int64]
) -> Iterator[RawSample]:
    """PNG and label; the key is the row's number in the source."""
    width = len(str(len(images_NHW) - 1))
    for row in rows.tolist():
        _, png = cv2.imencode(".png", images_NHW[row])
        yield {"__key__": f"{row:0{width}d}", "png": png.tobytes(), "cls": int(labels[row])}


# --- idx: the four files of MNIST and of its descendants, such as Fashion-MNIST ---


def idx(src: Path | None, *, classes: str | None = None) -> Corpus:
    """`classes`: names separated by commas, in the order of the labels; the numbers themselves by default."""
    src = _folder(src, "the four idx files, train-images-idx3-ubyte.gz and so on")
    arrays = {split: _idx_split(src, prefix) for split, prefix in _IDX_FILES.items()}
    n_classes = 1 + max(int(labels.max()) for _, labels in arrays.values())
    names = classes.split(",") if classes else [str(label) for label in range(n_classes)]
    if len(names) < n_classes:
        raise UserError(
            f"{len(names)} names for {n_classes} classes", fix="Name every class, in the order of the labels."
        )
    return Corpus(
        classes=names,
        splits={
            split: _png_samples(images, labels, np.arange(len(images))) for split, (images, labels) in arrays.items()
        },
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


# --- imagefolder: a folder per class, perhaps below a folder per split ---


@dataclass(frozen=True, slots=True)
class _ImageFile:
    path: Path
    name: str  # class/path/below/it.jpg
    label: int | str


def imagefolder(src: Path | None, *, holdout: float = 0.0) -> Corpus:
    """SRC/<split>/<class>/... or SRC/<class>/...; files are copied byte by byte.

    `holdout`: the share of each class that becomes the split test, where SRC has no splits of its own. Samples are in
    an order that mixes the classes and depends on the names alone.
    """
    src = _folder(src, "a folder per class, or train/, val/ and test/ with a folder per class in each")
    _check_share(holdout)
    # "train" may also be a class, between "bus" and "tram": a split has folders in it.
    folders = {split: src / split for split in SPLITS if any(entry.is_dir() for entry in src.glob(f"{split}/*"))}
    besides = sorted(entry.name for entry in src.iterdir() if entry.name not in folders and entry.is_dir())
    notes = [f"left out what is beside {', '.join(folders)}: {', '.join(besides[:5])}"] if folders and besides else []
    folders = folders or {"train": src}
    if holdout and set(folders) != {"train"}:
        raise UserError(
            f"the source has its own splits: {', '.join(folders)}", where=str(src), fix="Leave out the holdout."
        )
    found = {split: _class_files(folder) for split, folder in folders.items()}
    classes = sorted({name for by_class, _ in found.values() for name in by_class})
    if not classes:
        raise UserError(
            f"no images here ({', '.join(IMAGE_FILES)})",
            where=str(src),
            fix="Expected: SRC/<class>/* or SRC/train/<class>/*.",
        )
    notes += [
        f"{split}: left out {n_others} files that are no images" for split, (_, n_others) in found.items() if n_others
    ]
    for split, (by_class, _) in found.items():
        if missing := [name for name in classes if name not in by_class]:
            notes.append(f"{split}: has no images of {len(missing)} of the classes: {', '.join(missing[:5])}")
    splits: dict[str, list[_ImageFile]] = {}
    for split, (by_class, _) in found.items():
        for label, name in enumerate(classes):
            files = [_ImageFile(path, f"{name}/{inside}", label) for inside, path in by_class.get(name, {}).items()]
            files.sort(key=_shuffled)
            n_held_out = round(len(files) * holdout)
            splits.setdefault(split, []).extend(files[n_held_out:])
            if n_held_out:
                splits.setdefault("test", []).extend(files[:n_held_out])
    empty = [split for split, files in splits.items() if not files]
    if empty:
        raise UserError(f"the split {empty[0]} has no images", where=str(folders.get(empty[0], src)))
    return Corpus(classes, {split: _file_samples(files) for split, files in splits.items()}, tuple(notes))


def _class_files(folder: Path) -> tuple[dict[str, dict[str, Path]], int]:
    """Class -> path inside the class's folder -> file, for classes that have images; and the number of other files."""
    by_class: dict[str, dict[str, Path]] = {}
    n_others = 0
    for entry in sorted(folder.iterdir()):
        if entry.name.startswith("."):
            continue
        if not entry.is_dir():
            n_others += 1
            continue
        for parent, subfolders, names in os.walk(entry):
            subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
            for name in sorted(names):
                file = Path(parent, name)
                if file.suffix.lower() in IMAGE_FILES and not name.startswith("."):
                    by_class.setdefault(entry.name, {})[file.relative_to(entry).as_posix()] = file
                else:
                    n_others += 1
    return by_class, n_others


def _shuffled(file: _ImageFile) -> tuple[int, str]:
    return xxhash.xxh3_64_intdigest(os.fsencode(file.name)), file.name


def _file_samples(files: list[_ImageFile]) -> Iterator[RawSample]:
    """The key is the file's name without extension and with `_` for dots, which end a key."""
    taken: set[str] = set()
    for file in sorted(files, key=_shuffled):
        extension = file.path.suffix.lower()
        folder, slash, base = file.name.rpartition("/")
        key = folder + slash + base[: -len(extension)].replace(".", "_")
        if key in taken:  # a.jpg beside a.png
            key += "_" + extension[1:]
        while key in taken:
            key += "_"
        taken.add(key)
        try:
            content = file.path.read_bytes()
        except OSError as error:
            raise UserError(f"can't read this image: {error.strerror}", where=str(file.path)) from error
        yield {"__key__": key, extension[1:]: content, "cls": file.label}


def _folder(src: Path | None, with_what: str) -> Path:
    if src is None or not src.is_dir():
        raise UserError("this is not a folder", where=str(src or "SRC"), fix=f"Expected: a folder with {with_what}.")
    return src


def _check_share(holdout: float) -> None:
    if not 0 <= holdout < 1:
        raise UserError(f"holdout is a share from 0 to below 1, not {holdout}")


# --- table: a CSV that names images and their labels ---


def table(src: Path | None, *, holdout: float = 0.0) -> Corpus:
    """SRC is a CSV, or a folder with train.csv and perhaps val.csv and test.csv: a head, then path and label(s) a line.

    Paths start at the table's folder. Labels are numbers, in one column or several: a class number, "3 17" for several
    classes, "0.5,1.2" for two numbers to be predicted; or else class names, in one column. `holdout`: the share of the
    rows that becomes the split test, where there is one table.
    """
    _check_share(holdout)
    tables = {"train": src} if src and src.is_file() else {}
    if src and not tables:
        tables = {split: src / f"{split}.csv" for split in SPLITS if (src / f"{split}.csv").is_file()}
    if not tables:
        raise UserError(
            "there is no table", where=str(src or "SRC"), fix="Expected: a CSV, or a folder with train.csv."
        )
    if holdout and set(tables) != {"train"}:
        raise UserError(
            f"the source has its own splits: {', '.join(tables)}", where=str(src), fix="Leave out the holdout."
        )
    splits = {split: sorted(_table_rows(path), key=_shuffled) for split, path in tables.items()}
    if n_held_out := round(len(splits["train"]) * holdout) if holdout else 0:
        splits = {"train": splits["train"][n_held_out:], "test": splits["train"][:n_held_out]}
    names = sorted({str(file.label) for files in splits.values() for file in files})
    if all(labels.are_numbers(name.encode()) for name in names):
        return Corpus(None, {split: _file_samples(files) for split, files in splits.items()})
    if "" in names:
        raise UserError("there are class names and empty labels in it", where=str(src), fix="Name every image's class.")
    numbers = {name: number for number, name in enumerate(names)}
    named = {
        split: [_ImageFile(file.path, file.name, numbers[str(file.label)]) for file in files]
        for split, files in splits.items()
    }
    return Corpus(names, {split: _file_samples(files) for split, files in named.items()})


def _table_rows(path: Path) -> list[_ImageFile]:
    files = []
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.reader(file)
            head = next(rows, [])
            for row in filter(None, rows):
                where, label = f"{path}:{rows.line_num}", " ".join(cell.strip() for cell in row[1:])
                image = path.parent / row[0]
                if len(row) != len(head) or len(row) < 2:
                    raise UserError(f"{len(row)} columns; the head has {len(head)}: path, label, ...", where=where)
                if image.suffix.lower() not in IMAGE_FILES or not image.is_file():
                    raise UserError(f"there is no image '{row[0]}' ({', '.join(IMAGE_FILES)})", where=where)
                if len(row) > 2 and not labels.are_numbers(label.encode()):
                    raise UserError(
                        f"'{label}' is not made of numbers", where=where, fix="Class names need one column."
                    )
                files.append(_ImageFile(image, os.path.normpath(row[0]).lstrip("./"), label))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"can't read it: {error}", where=str(path)) from error
    if head and (path.parent / head[0]).is_file():
        raise UserError("its first line is an image, not a head", where=str(path), fix="Begin it with: path,label")
    if not files:
        raise UserError("there are no images in it", where=str(path))
    return files


KINDS: dict[str, Callable[..., Corpus]] = {"digits": digits, "idx": idx, "imagefolder": imagefolder, "table": table}
