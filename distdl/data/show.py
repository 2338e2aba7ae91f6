"""`distdl data show`: what a corpus holds, as text and as a sheet of its images.

Of one that lies elsewhere little is fetched: its indexes, and some samples. Nothing of it is kept.
"""

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from distdl.config.schema import RemoteConfig
from distdl.data.audio import audio_length, is_audio
from distdl.data.corpus.dataset import CorruptSample, Dataset, Sample
from distdl.data.corpus.shards import counted
from distdl.data.inspect import LABEL
from distdl.data.pictures.image import decode_image, image_size, is_image
from distdl.data.remote import listing, places
from distdl.data.remote.places import Shards
from distdl.errors import UserError

_MOST_SIZES, _MOST_SIZES_ELSEWHERE = 2000, 200  # images or sounds whose size is read
_READERS = 8  # threads: what is waited for is the network
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
        lines += _length_lines(dataset, sum(n for name, n in extensions.items() if is_audio(name)))
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
    with ThreadPoolExecutor(_READERS) as pool:
        for shard, shard_index in enumerate(pool.map(dataset.index, dataset.all_shards)):
            for row in range(shard_index.n_samples):
                components = shard_index.components(row)
                extensions.update(components.keys())
                if LABEL in components and not dataset.streaming:
                    labels[_read(dataset, shard, row, (LABEL,)).components[LABEL].strip()] += 1
    return extensions, labels


def _read(dataset: Dataset, shard: int, row: int, only: Iterable[str]) -> Sample:
    try:
        return dataset.read(shard, row, tuple(only))
    except CorruptSample as error:
        raise UserError(
            str(error), where=dataset.path, fix=f"`distdl data verify {dataset.path}` lists all that is damaged."
        ) from None


def _size_lines(dataset: Dataset) -> list[str]:
    sizes, unreadable = [], 0
    for _, extension, data in _components(dataset, _spread_out(dataset), is_image):
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


def _length_lines(dataset: Dataset, n_sounds: int) -> list[str]:
    """Hours, lengths and rates, where there are sounds; extrapolated where there are many."""
    lengths, unreadable = [], 0
    for _, _, data in _components(dataset, _spread_out(dataset), is_audio):
        try:
            lengths.append(audio_length(data))
        except ValueError:
            unreadable += 1
    lines = []
    if lengths:
        seconds = sorted(length.seconds for length in lengths)
        spread = f"{seconds[0]:.2f}/{seconds[len(seconds) // 2]:.2f}/{seconds[-1]:.2f} s (min/median/max)"
        rates = ", ".join(f"{rate_hz} Hz" for rate_hz in sorted({length.rate_hz for length in lengths}))
        hours = sum(seconds) / 3600
        total = f"{hours:,.2f} hours"
        if len(lengths) + unreadable < n_sounds:
            total = f"about {hours * n_sounds / len(lengths):,.1f} hours, from {len(lengths):,} sounds"
        lines.append(f"sounds      {total}; {spread}; {rates}")
    if unreadable:
        lines.append(f"unreadable  {unreadable} sounds: `distdl data verify {dataset.path}`")
    return lines


def _spread_out(dataset: Dataset, most: int | None = None) -> list[int]:
    """Sample ids from all over the corpus."""
    most = most or (_MOST_SIZES_ELSEWHERE if dataset.streaming else _MOST_SIZES)
    return np.unique(np.linspace(0, dataset.n_samples - 1, most).astype(np.int64)).tolist()


def _components(
    dataset: Dataset, sample_ids: list[int], is_kind: Callable[[str], bool]
) -> Iterator[tuple[Sample, str, bytes]]:
    """(sample with that component and its label, extension, bytes) of those that have an image, or a sound."""

    def read(sample_id: int) -> tuple[Sample, str, bytes] | None:
        shard, row = dataset.locate(sample_id)
        extension = next(filter(is_kind, dataset.index(shard).components(row)), None)
        if extension is None:
            return None
        sample = _read(dataset, shard, row, (extension, LABEL))
        return sample, extension, sample.components[extension]

    with ThreadPoolExecutor(_READERS) as pool:
        yield from filter(None, pool.map(read, sample_ids))


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
    for sample, extension, data in _components(dataset, _spread_out(dataset, n_images), is_image):
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
