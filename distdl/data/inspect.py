"""`distdl data verify` and `distdl data show`: is a corpus what was packed, and what is in it?

verify reads every byte. Shards are compared with the checksums in their indexes and dataset.json, those with their own,
images and sounds are decoded and labels compared with the list of classes; whatever is wrong is named by shard, key and
component.
"""

import hashlib
import itertools
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import xxhash

from distdl.data import catalog, descriptor, index, labels
from distdl.data.audio import audio_length, decode_audio, is_audio
from distdl.data.dataset import CorruptSample, Dataset, Sample, read_component
from distdl.data.descriptor import Descriptor, ShardEntry
from distdl.data.image import decode_image, image_size, is_image
from distdl.data.index import Component, ShardIndex
from distdl.data.shards import counted
from distdl.errors import UserError
from distdl.track.progress import Advance, progress

LABEL = "cls"
_LONGEST_LABEL = 20  # bytes
_MOST_PRINTED = 100
_MOST_SIZES = 2000  # images or sounds whose size is read by show
_KINDS = {"image": is_image, "sound": is_audio}
_MOST_CLASSES = 20  # printed by show, each on a line
_SHEET_SIDE, _SHEET_CELL, _SHEET_TEXT = 8, 112, 16  # images a row and column, pixels a cell, pixels of its caption


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    shard: str  # file name of the tar, of its index, or of dataset.json
    key: str = ""
    component: str = ""
    reason: str

    def __str__(self) -> str:
        sample = f" sample '{self.key}'" if self.key else ""
        component = f" component '{self.component}'" if self.component else ""
        return f"{self.shard}:{sample}{component} {self.reason}"


@dataclass(slots=True)
class Report:
    path: str
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    n_shards: int = 0
    n_samples: int = 0
    n_bytes: int = 0
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        return not self.problems

    def __str__(self) -> str:
        lines = [*self.notes, *map(str, self.problems[:_MOST_PRINTED])]
        if len(self.problems) > _MOST_PRINTED:
            lines.append(f"... and {len(self.problems) - _MOST_PRINTED:,} more problems")
        read = f"{counted(self.n_samples, 'sample')} in {counted(self.n_shards, 'shard')}, {self.n_bytes / 1e6:,.1f} MB"
        verdict = "no problem found" if self.ok else counted(len(self.problems), "problem")
        return "\n".join([*lines, f"{self.path}: {verdict} ({read}, {self.seconds:.1f} s)"])


def verify(path: str | Path, index_folder: str | Path | None = None) -> Report:
    """Checks every byte of a folder of tars, or of one tar. Raises UserError only when there is nothing to check."""
    began, path = time.perf_counter(), Path(path)
    tars, folders = catalog.find_tars(path), catalog.index_folders(path, index_folder)
    report = Report(str(path), n_shards=len(tars))
    listed = _verify_descriptor(path, tars, folders, report)
    classes = listed.classes if listed else None
    entries = {entry.name: entry for entry in listed.shards} if listed else {}
    n_listed = sum(entry.n_samples for entry in listed.shards) if listed else None
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool, progress("verifying", n_listed) as advance:
        for tar in tars:
            shard_index = _verify_shard(tar, folders, entries.get(tar.name), report)
            if shard_index is not None:
                report.n_samples += shard_index.n_samples
                report.problems += _verify_samples(tar, shard_index, classes, pool, advance)
    report.seconds = time.perf_counter() - began
    return report


def _verify_descriptor(path: Path, tars: list[Path], folders: list[Path], report: Report) -> Descriptor | None:
    for folder in folders:
        try:
            listed = descriptor.read(folder / descriptor.FILE_NAME)
            if listed is not None:
                catalog.listed_shards(path, tars, [folder])  # do its counts and names fit the files?
                return listed
        except UserError as error:
            report.problems.append(Problem(shard=descriptor.FILE_NAME, reason=error.what))
            return descriptor.read_unchecked(folder / descriptor.FILE_NAME)
    report.notes.append(f"no {descriptor.FILE_NAME}: labels can't be compared with a list of classes")
    return None


def _verify_shard(tar: Path, folders: list[Path], listed: ShardEntry | None, report: Report) -> ShardIndex | None:
    """The whole file against its checksums. Returns its index: a new one where there is none or it is damaged."""
    size, xxh3, md5 = _hash_file(tar)
    report.n_bytes += size
    path = next((path for folder in folders if (path := catalog.index_path(tar, folder)).exists()), None)
    shard_index = None
    if path is None and listed is not None:
        report.problems.append(Problem(shard=tar.name, reason=f"its index {tar.name}{index.SUFFIX} is missing"))
    elif path is None:
        report.notes.append(f"{tar.name} has no index, so its data can't be compared with a checksum")
    else:
        try:
            shard_index = index.read(path)
        except UserError as error:
            report.problems.append(Problem(shard=path.name, reason=error.what))
    expected = {
        entry_xxh3 for entry_xxh3 in (listed and listed.xxh3, shard_index and shard_index.tar_xxh3) if entry_xxh3
    }
    if expected - {xxh3}:
        reason = (
            f"the file is not what was indexed: its xxh3-128 is {xxh3}, recorded is {' and '.join(sorted(expected))}"
        )
        if shard_index and shard_index.tar_size != size:
            reason = f"the file has {size} bytes; when it was indexed it had {shard_index.tar_size}"
        report.problems.append(Problem(shard=tar.name, reason=reason))
    elif listed and listed.md5 != md5:
        reason = f"its md5, by which wids knows it, is {md5}; {descriptor.FILE_NAME} has {listed.md5}"
        report.problems.append(Problem(shard=tar.name, reason=reason))
    if listed and shard_index and shard_index.n_samples != listed.n_samples:
        reason = f"it has {shard_index.n_samples} samples; {descriptor.FILE_NAME} has {listed.n_samples}"
        report.problems.append(Problem(shard=f"{tar.name}{index.SUFFIX}", reason=reason))
    if listed and listed.excluded:
        report.notes.append(f"{tar.name}: {counted(len(listed.excluded), 'sample')} left out on purpose, not looked at")
    if shard_index is None:
        try:
            shard_index = index.build(tar)
        except UserError as error:
            report.problems.append(Problem(shard=tar.name, reason=error.what))
    return shard_index


def _verify_samples(
    tar: Path, shard_index: ShardIndex, classes: list[str] | None, pool: ThreadPoolExecutor, advance: Advance
) -> Iterator[Problem]:
    """Every component against its checksum; images and sounds are decoded, labels compared with the classes."""
    labelled = LABEL in shard_index.extensions
    kinds = {kind: is_kind for kind, is_kind in _KINDS.items() if any(map(is_kind, shard_index.extensions))}
    file = os.open(tar, os.O_RDONLY)
    try:

        def check(row: int) -> list[Problem]:
            key, components = shard_index.key(row), shard_index.components(row)
            found = [
                Problem(shard=tar.name, key=key, component=extension, reason=reason)
                for extension, component in components.items()
                if (reason := _what_is_wrong(file, extension, component, classes))
            ]
            if labelled and LABEL not in components:
                found.append(
                    Problem(shard=tar.name, key=key, component=LABEL, reason="is missing; other samples have it")
                )
            for kind, is_kind in kinds.items():
                if not any(map(is_kind, components)):
                    found.append(Problem(shard=tar.name, key=key, reason=f"has no {kind}; other samples have one"))
            return found

        for found in pool.map(check, range(shard_index.n_samples)):
            advance()
            yield from found
    finally:
        os.close(file)


def _what_is_wrong(file: int, extension: str, component: Component, classes: list[str] | None) -> str:
    try:
        data = read_component(file, component)
        if is_image(extension):
            decode_image(data, extension)
        elif is_audio(extension):
            decode_audio(data)
    except (ValueError, OSError) as error:
        return str(error)
    if extension != LABEL:
        return ""
    if classes is None:  # class numbers, or what another task learns
        return "" if labels.are_numbers(data) else f"is not made of numbers: {data[:20]!r}"
    if not data.strip().removeprefix(b"-").isdigit() or len(data) > _LONGEST_LABEL:
        return f"is not a whole number: {data[:20]!r}"
    label = int(data)
    return "" if 0 <= label < len(classes) else f"is the label {label}, but there are {len(classes)} classes"


def _hash_file(path: Path) -> tuple[int, str, str]:
    """(size in bytes, xxh3-128, md5) of a file."""
    digest, md5, size = xxhash.xxh3_128(), hashlib.md5(usedforsecurity=False), 0
    with path.open("rb") as file:
        while chunk := file.read(4 << 20):
            digest.update(chunk)
            md5.update(chunk)
            size += len(chunk)
    return size, digest.hexdigest(), md5.hexdigest()


def show(path: str | Path, *, sheet: str | Path | None = None, index_folder: str | Path | None = None) -> str:
    """What a corpus holds, as text; `sheet` names a PNG of up to 64 of its images to write. Raises UserError.

    Labels of all samples are counted; sizes are read from up to 2,000 images or sounds spread over the corpus.
    """
    with Dataset.open(path, index_folder=index_folder, write_index=False) as dataset:
        n_bytes = sum(shard.size_bytes for shard in dataset.shards)
        lines = [
            f"{path}: {counted(dataset.n_samples, 'sample')} in {counted(len(dataset.shards), 'shard')}, "
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
    """How many samples have each component, and each label."""
    extensions: Counter[str] = Counter()
    labels: Counter[bytes] = Counter()
    for shard, size in enumerate(dataset.sizes.tolist()):
        for row in range(size):
            components = dataset.index(shard).components(row)
            extensions.update(components.keys())
            if LABEL in components:
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
    for _, extension, data in _components(dataset, _spread_out(dataset, _MOST_SIZES), is_image):
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
    for _, _, data in _components(dataset, _spread_out(dataset, _MOST_SIZES), is_audio):
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


def _spread_out(dataset: Dataset, most: int) -> list[int]:
    """Sample ids from all over the corpus."""
    return np.unique(np.linspace(0, dataset.n_samples - 1, most).astype(np.int64)).tolist()


def _components(
    dataset: Dataset, sample_ids: list[int], is_kind: Callable[[str], bool]
) -> Iterator[tuple[Sample, str, bytes]]:
    """(sample with that component and its label, extension, bytes) of those that have an image, or a sound."""
    for sample_id in sample_ids:
        shard, row = dataset.locate(sample_id)
        extension = next(filter(is_kind, dataset.index(shard).components(row)), None)
        if extension is not None:
            sample = _read(dataset, shard, row, (extension, LABEL))
            yield sample, extension, sample.components[extension]


def _spread(values: tuple[int, ...]) -> str:
    return f"{min(values)}/{int(np.median(values))}/{max(values)}"


def _class_lines(labels: Counter[bytes], classes: list[str] | None) -> list[str]:
    """A line for each class, or for the first of many and a summary."""
    if not labels:
        return []
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
