"""From rows of the sample plan to batches in memory: read, decode, transform, in threads, in the plan's order.

A batch is a dict of CPU tensors: `image` uint8 (rows, height, width, channels), `label` int64 (rows,), `valid` float32
(rows,), `sample_id` int64 (rows,). Every row is written into its own place by whichever thread comes to it, so nothing
depends on the number of threads. A row that is padding, or that is bad under the policy "mask", has valid 0 and the
label IGNORED.
"""

import time
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from distdl.config.schema import SplitConfig
from distdl.data import transforms
from distdl.data.dataset import CorruptSample, Dataset, Sample
from distdl.data.image import IMAGE_EXTENSIONS, decode_image, is_image
from distdl.data.order import Rows, seed_of
from distdl.errors import UserError

IGNORED = -100  # label of rows that don't count; torch's losses leave it out by default

_ROWS_PER_TASK = 32

# (epoch, offset) -> (offset, sample id): the plan's next sample of the same lane
Substitute = Callable[[int, int], tuple[int, int]]


@dataclass(slots=True)
class HostBatch:
    tensors: dict[str, torch.Tensor]
    n_valid: int
    n_bad: int
    wait_s: float
    """how long the caller waited for it"""


class _BadSample(Exception):
    """A sample that can't be used, with what a person needs to find it."""


class Loader:
    """Reads one split. `n_classes` bounds the labels; `seed` keys the augmentation (None: the split is evaluated).

    Raises UserError at once if the first sample lacks the image or the label component.
    """

    def __init__(
        self,
        split: SplitConfig,
        *,
        where: str,
        n_classes: int | None,
        seed: int | None,
        workers: int,
        prefetch: int,
        bad_sample: Literal["raise", "mask", "substitute"],
        substitute: Substitute | None = None,
        pin_memory: bool = False,
        dataset: Dataset | None = None,
    ) -> None:
        self.where = where
        self.dataset = dataset or Dataset.open(split.source, index_folder=split.index)
        self.transforms, self.normalise = transforms.build(split.transforms, where)
        self._n_classes, self._seed = n_classes, seed
        self._prefetch, self._policy, self._substitute, self._pin = prefetch, bad_sample, substitute, pin_memory
        self._label = split.label
        self._images = (split.image,) if split.image else self._find_image_components()
        has_normalise = bool(split.transforms) and len(self.transforms) < len(split.transforms)
        self._channels = len(self.normalise.mean) if has_normalise else None
        self.image_shape = self._first_shape()
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix=f"decode-{where}")

    def close(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)
        self.dataset.close()

    def stream(self, rows: Iterable[Rows]) -> Generator[HostBatch, None, None]:
        """Batches for the given rows, in that order, made up to `prefetch` ahead."""
        ahead: deque[tuple[dict[str, torch.Tensor], list[Future[int]]]] = deque()
        upcoming = iter(rows)
        try:
            while True:
                while len(ahead) < self._prefetch and (some := next(upcoming, None)) is not None:
                    ahead.append(self._begin(some))
                if not ahead:
                    return
                tensors, parts = ahead.popleft()
                began = time.perf_counter()
                n_bad = sum(part.result() for part in parts)
                n_valid = int(tensors["valid"].numpy().sum())
                yield HostBatch(tensors, n_valid, n_bad, time.perf_counter() - began)
        finally:
            for _, parts in ahead:
                for part in parts:
                    part.cancel()

    def _begin(self, rows: Rows) -> tuple[dict[str, torch.Tensor], list[Future[int]]]:
        n = len(rows)
        tensors = {
            "image": torch.zeros((n, *self.image_shape), dtype=torch.uint8, pin_memory=self._pin),
            "label": torch.full((n,), IGNORED, dtype=torch.int64, pin_memory=self._pin),
            "valid": torch.zeros(n, dtype=torch.float32, pin_memory=self._pin),
            "sample_id": torch.from_numpy(rows.sample_id.copy()),
        }
        arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
        parts = [
            self._pool.submit(self._fill, rows, arrays, begin, min(begin + _ROWS_PER_TASK, n))
            for begin in range(0, n, _ROWS_PER_TASK)
        ]
        return tensors, parts

    def _fill(self, rows: Rows, arrays: dict[str, np.ndarray], begin: int, end: int) -> int:
        """Writes rows begin..end of a batch; returns how many of them were bad."""
        n_bad = 0
        images, labels, valid, ids = arrays["image"], arrays["label"], arrays["valid"], arrays["sample_id"]
        for row in range(begin, end):
            epoch, offset, sample_id = int(rows.epoch[row]), int(rows.offset[row]), int(rows.sample_id[row])
            if sample_id < 0:
                continue
            for attempt in range(10):
                try:
                    images[row], label = self._load(sample_id, epoch)
                    ids[row] = sample_id
                    if rows.valid[row]:
                        labels[row], valid[row] = label, 1.0
                    break
                except _BadSample as error:
                    n_bad += int(rows.valid[row])
                    if self._policy == "raise":
                        raise UserError(
                            f"bad sample: {error}",
                            where=self.where,
                            fix="Repair or repack the shard (`distdl data verify`), or set data.bad_sample: mask.",
                        ) from error
                    if self._policy == "mask" or self._substitute is None or attempt == 9:
                        break
                    offset, sample_id = self._substitute(epoch, offset)
        return n_bad

    def _load(self, sample_id: int, epoch: int) -> tuple[np.ndarray, int]:
        sample = self._read(sample_id)
        image = self._decode(sample)
        draws = transforms.Draws(seed_of(self._seed, epoch, sample_id) if self._seed is not None else 0)
        for transform in self.transforms:
            image = transform(image, draws)
        if image.shape != self.image_shape:
            raise UserError(
                f"images of different sizes: {sample.key} in {sample.shard} is {_shape(image.shape)}, "
                f"the first is {_shape(self.image_shape)}",
                where=self.where,
                fix="Add a transform that makes them equal, such as {resize: [32, 32]} or {random_resized_crop: 224}.",
            )
        return image, self._parse_label(sample)

    def _read(self, sample_id: int) -> Sample:
        try:
            return self.dataset.read(*self.dataset.locate(sample_id), only=(*self._images, self._label))
        except CorruptSample as error:
            raise _BadSample(str(error)) from error

    def _decode(self, sample: Sample) -> np.ndarray:
        extension = next((each for each in self._images if each in sample.components), None)
        if extension is None:
            raise _BadSample(f"{sample.key} in {sample.shard} has no component '{self._images[0]}'")
        try:
            image = decode_image(sample.components[extension], extension)
        except ValueError as error:
            raise _BadSample(f"{sample.key}.{extension} in {sample.shard}: {error}") from error
        channels = image.shape[2]
        wanted = self._channels or channels
        if channels == 1 and wanted == 3:
            return np.repeat(image, 3, axis=2)
        if channels != wanted:
            raise UserError(
                f"{sample.key} in {sample.shard} has {channels} channels, {wanted} are expected",
                where=self.where,
                fix="Give normalise one mean and std per channel of the images (3 turns grey images into RGB).",
            )
        return image

    def _parse_label(self, sample: Sample) -> int:
        content = sample.components.get(self._label)
        if content is None:
            raise _BadSample(f"{sample.key} in {sample.shard} has no component '{self._label}'")
        try:
            label = int(content)
        except ValueError:
            # Not damage, which the checksum would have shown, but a mistake in packing.
            raise UserError(
                f"the label {content[:40]!r} of {sample.key} in {sample.shard} is not a whole number",
                where=self.where,
                fix=f"Repack with class numbers as '{self._label}', or name another component: {self.where}.label.",
            ) from None
        if self._n_classes is not None and not 0 <= label < self._n_classes:
            raise UserError(
                f"label {label} of {sample.key} in {sample.shard} is out of range: the network has "
                f"{self._n_classes} classes (0 to {self._n_classes - 1})",
                where=self.where,
                fix="Set model.args.classes to the number of classes, or repack the data.",
            )
        return label

    def _find_image_components(self) -> tuple[str, ...]:
        """The first sample's image component; and the other formats, for corpora that mix jpg, jpeg and png."""
        there = self.dataset.extensions(0)
        found = next((extension for extension in there if is_image(extension)), None)
        if found is None or self._label not in there:
            missing = "an image" if found is None else f"'{self._label}'"
            raise UserError(
                f"the first sample has no component for {missing} (it has: {', '.join(there)})",
                where=f"{self.where}: {self.dataset.path}",
                fix=f"Name the components by {self.where}.image and {self.where}.label.",
            )
        return (found, *(each for each in IMAGE_EXTENSIONS if each != found))

    def _first_shape(self) -> tuple[int, int, int]:
        """Shape (height, width, channels) after the transforms, from the first sample that can be decoded."""
        problem = ""
        for sample_id in range(min(self.dataset.n_samples, 100)):
            try:
                image: Any = self._decode(self._read(sample_id))
            except _BadSample as error:
                problem = problem or str(error)
                continue
            if self._channels is None:
                self._channels = image.shape[2]
            for transform in self.transforms:
                image = transform(image, transforms.Draws(0))
            return image.shape
        raise UserError(f"none of the first samples can be decoded; the first: {problem}", where=self.where)


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))
