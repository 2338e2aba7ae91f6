"""`distdl data show`: what a corpus holds, as text and as a sheet of its images.

Of one that lies elsewhere little is fetched: its indexes, and some samples. Nothing of it is kept.
"""

import itertools
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from distdl.config.schema import RemoteConfig
from distdl.data import show_sounds
from distdl.data.corpus.dataset import Dataset
from distdl.data.corpus.shards import counted
from distdl.data.inspect import LABEL
from distdl.data.pictures.image import decode_image, image_size, is_image
from distdl.data.remote import listing, places
from distdl.data.remote.places import Shards
from distdl.data.some_samples import READERS, components_of, read, spread_out
from distdl.errors import UserError

_MOST_CLASSES = 20  # each on a line
_SHEET_SIDE, _SHEET_CELL, _SHEET_TEXT = 8, 112, 16  # images a row and column, pixels a cell, pixels of its caption


def show(path: Shards, *, sheet: str | Path | None = None, index_folder: str | Path | None = None) -> str:
    """What a corpus holds, as text; `sheet` names a PNG of up to 64 of its images to write. Raises UserError.

    Labels of all samples are counted where they are on disk; sizes are read from up to 2,000 images or sounds spread
    over the corpus, or 200 where it lies elsewhere.
    """
    listing.check_reachable(places.places(path), index_folder)
    no_cache = RemoteConfig(cache_gb=0)
    with Dataset.open(path, index_folder=index_folder, write_index=False, remote=no_cache) as dataset:
        n_bytes = sum(shard.size_bytes for shard in dataset.shards)
        lines = [
            f"{dataset.path}: {counted(dataset.n_samples, 'sample')} in {counted(len(dataset.shards), 'shard')}, "
            f"{n_bytes / 1e6:,.1f} MB",
            f"identity    {dataset.identity}",
        ]
        extensions, labels = _count_components(dataset)
        lines.append("components  " + ", ".join(f"{name} ({count:,})" for name, count in extensions.items()))
        lines += _size_lines(dataset)
        lines += show_sounds.lines(dataset, extensions)
        lines += _class_lines(labels, dataset.classes)
        keys = [dataset.key(*dataset.locate(i)) for i in range(min(3, dataset.n_samples))]
        lines.append(f"first keys  {', '.join(keys)}")
        if sheet is not None:
            _write_sheet(dataset, Path(sheet))
            lines.append(f"sheet       {sheet}")
    return "\n".join(lines)


def _count_components(dataset: Dataset) -> tuple[Counter[str], Counter[bytes]]:
    """How many samples have each component; and each label, which elsewhere would take a request each."""
    extensions: Counter[str] = Counter()
    labels: Counter[bytes] = Counter()
    with ThreadPoolExecutor(READERS) as pool:
        for shard, shard_index in enumerate(pool.map(dataset.index, dataset.all_shards)):
            for row in range(shard_index.n_samples):
                components = shard_index.components(row)
                extensions.update(components.keys())
                if LABEL in components and not dataset.streaming:
                    labels[read(dataset, shard, row, (LABEL,)).components[LABEL].strip()] += 1
    return extensions, labels


def _size_lines(dataset: Dataset) -> list[str]:
    sizes, unreadable = [], 0
    for _, extension, data in components_of(dataset, spread_out(dataset), is_image):
        try:
            sizes.append(image_size(data, extension))
        except ValueError:
            unreadable += 1
    lines = []
    if sizes:
        heights, widths = zip(*sizes)
        of = "" if len(sizes) == dataset.n_samples else f", of {len(sizes):,} images"
        lines.append(f"images      height {_spread(heights)}, width {_spread(widths)} (min/median/max{of})")
    if unreadable:
        lines.append(f"unreadable  {unreadable} images: `distdl data verify {dataset.path}`")
    return lines


def _spread(values: tuple[int, ...]) -> str:
    return f"{min(values)}/{int(np.median(values))}/{max(values)}"


def _class_lines(labels: Counter[bytes], classes: list[str] | None) -> list[str]:
    """A line for each class, or for the first of many and a summary; names alone where labels were not counted."""
    if not labels:
        names = ", ".join((classes or [])[:_MOST_CLASSES]) + (", ..." if len(classes or []) > _MOST_CLASSES else "")
        return [f"classes     {len(classes)}: {names}"] if classes else []
    counts = {_class_name(label, classes): n for label, n in sorted(labels.items(), key=lambda item: _number(item[0]))}
    for name in classes or []:
        counts.setdefault(name, 0)
    rarest, commonest = min(counts, key=counts.__getitem__), max(counts, key=counts.__getitem__)
    fewest, most = f"{rarest} ({counts[rarest]:,})", f"{commonest} ({counts[commonest]:,})"
    lines = [f"classes     {len(counts)}; fewest samples: {fewest}, most: {most}"]
    width = max(map(len, itertools.islice(counts, _MOST_CLASSES)))
    lines += [f"  {name:<{width}}  {n:,}" for name, n in itertools.islice(counts.items(), _MOST_CLASSES)]
    if len(counts) > _MOST_CLASSES:
        lines.append(f"  and {len(counts) - _MOST_CLASSES} more")
    return lines


def _number(label: bytes) -> tuple[int, bytes]:
    return (int(label), b"") if label.isdigit() else (-1, label)


def _class_name(label: bytes, classes: list[str] | None) -> str:
    if classes is not None and label.isdigit() and int(label) < len(classes):
        return classes[int(label)]
    return label.decode("utf-8", "replace")


def _write_sheet(dataset: Dataset, path: Path) -> None:
    """A contact sheet: images spread over the corpus, each with its class."""
    n_images = _SHEET_SIDE * _SHEET_SIDE
    cells = []
    for sample, extension, data in components_of(dataset, spread_out(dataset, n_images), is_image):
        try:
            pixels = decode_image(data, extension)
        except ValueError:
            continue
        label = sample.components.get(LABEL, b"").strip()
        cells.append(_cell(pixels, _class_name(label, dataset.classes)))
    if not cells:
        raise UserError("there is no image that can be shown", where=dataset.path)
    blank = np.full_like(cells[0], 255)
    cells += [blank] * (-len(cells) % _SHEET_SIDE)
    rows = [np.hstack(cells[start : start + _SHEET_SIDE]) for start in range(0, len(cells), _SHEET_SIDE)]
    _, png = cv2.imencode(".png", cv2.cvtColor(np.vstack(rows), cv2.COLOR_RGB2BGR))
    try:
        path.write_bytes(png.tobytes())
    except OSError as error:
        raise UserError(f"can't write the sheet: {error.strerror}", where=str(path)) from error


def _cell(pixels_HWC: npt.NDArray[np.uint8], caption: str) -> npt.NDArray[np.uint8]:
    """An image, RGB, scaled to fit a cell, with a caption below it."""
    cell = np.full((_SHEET_CELL + _SHEET_TEXT, _SHEET_CELL, 3), 255, np.uint8)
    height, width = pixels_HWC.shape[:2]
    scale = (_SHEET_CELL - 4) / max(height, width)
    new_height, new_width = max(1, round(height * scale)), max(1, round(width * scale))
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST
    scaled = cv2.resize(pixels_HWC, (new_width, new_height), interpolation=method)
    top, left = (_SHEET_CELL - new_height) // 2, (_SHEET_CELL - new_width) // 2
    cell[top : top + new_height, left : left + new_width] = scaled if scaled.ndim == 3 else scaled[:, :, None]
    text = caption.encode("ascii", "replace").decode()[:18]
    cv2.putText(cell, text, (2, _SHEET_CELL + 11), cv2.FONT_HERSHEY_SIMPLEX, 0.36, (0, 0, 0), 1, cv2.LINE_AA)
    return cell
