"""From rows of the sample plan to batches in memory: read, decode, transform, in threads, in the plan's order.

A batch is a dict of CPU tensors: `image` uint8 (rows, height, width, channels), `valid` float32 (rows,), `sample_id`
int64 (rows,), and `label` (rows, ...) as the task's LabelSpec says, unless the task needs none. Every row is written
into its own place by whichever thread comes to it, so nothing depends on the number of threads. A row that is padding,
or that is bad under the policy "mask", has valid 0 and the label that is ignored.
"""

import time
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch

from distdl.config.schema import SplitConfig
from distdl.data import transforms
from distdl.data.dataset import Dataset
from distdl.data.image import Pixels
from distdl.data.labels import LabelSpec
from distdl.data.order import Rows
from distdl.data.own import OwnDataset
from distdl.data.samples import BadSample, Example, ShardSamples
from distdl.errors import UserError

_ROWS_PER_TASK = 32

# (epoch, offset) -> (offset, sample id): the plan's next sample of the same lane
Substitute = Callable[[int, int], tuple[int, int]]
# (epoch, offset, sample id) -> the seed of a sample's augmentation
AugmentationSeed = Callable[[int, int, int], int]


@dataclass(slots=True)
class HostBatch:
    tensors: dict[str, torch.Tensor]
    n_valid: int
    n_bad: int
    wait_s: float
    """how long the caller waited for it"""
    problems: list[str] = field(default_factory=list)
    """of the bad samples, one each"""


class Loader:
    """Reads one split of a dataset, which it closes. `label`: None if the task needs none.

    `augmentation_seed` is None where a split is evaluated. Raises UserError at once if the first sample lacks the image
    or the label component.
    """

    def __init__(
        self,
        dataset: Dataset | OwnDataset,
        split: SplitConfig,
        *,
        where: str,
        label: LabelSpec | None,
        augmentation_seed: AugmentationSeed | None,
        workers: int,
        prefetch: int,
        bad_sample: Literal["raise", "mask", "substitute"],
        substitute: Substitute | None = None,
        pin_memory: bool = False,
    ) -> None:
        self.where, self.dataset, self.label = where, dataset, label
        self.transforms, self.normalise = transforms.build(split.transforms, where)
        self._augmentation_seed = augmentation_seed
        self._prefetch, self._policy, self._substitute, self._pin = prefetch, bad_sample, substitute, pin_memory
        self._samples = (
            dataset
            if isinstance(dataset, OwnDataset)
            else ShardSamples(dataset, split, where, split.label if label else None)
        )
        has_normalise = bool(split.transforms) and len(self.transforms) < len(split.transforms)
        self._channels = len(self.normalise.mean) if has_normalise else None
        self.image_shape = self._first_shape()
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix=f"decode-{where}")

    def close(self) -> None:
        self.dataset.close()  # first: a thread may be waiting for a server
        self._pool.shutdown(wait=True, cancel_futures=True)

    def stream(self, rows: Iterable[Rows]) -> Generator[HostBatch, None, None]:
        """Batches for the given rows, in that order, made up to `prefetch` ahead."""
        ahead: deque[tuple[dict[str, torch.Tensor], list[Future[list[str]]]]] = deque()
        upcoming = iter(rows)
        try:
            while True:
                while len(ahead) < self._prefetch and (some := next(upcoming, None)) is not None:
                    ahead.append(self._begin(some))
                if not ahead:
                    return
                tensors, parts = ahead.popleft()
                began = time.perf_counter()
                problems = [problem for part in parts for problem in part.result()]
                n_valid = int(tensors["valid"].numpy().sum())
                yield HostBatch(tensors, n_valid, len(problems), time.perf_counter() - began, problems)
        finally:
            for _, parts in ahead:
                for part in parts:
                    part.cancel()

    def _begin(self, rows: Rows) -> tuple[dict[str, torch.Tensor], list[Future[list[str]]]]:
        n = len(rows)
        self._samples.announce(rows.sample_id[rows.sample_id >= 0].tolist())
        tensors = {
            "image": torch.zeros((n, *self.image_shape), dtype=torch.uint8, pin_memory=self._pin),
            "valid": torch.zeros(n, dtype=torch.float32, pin_memory=self._pin),
            "sample_id": torch.from_numpy(rows.sample_id.copy()),
        }
        if self.label:
            shape, dtype = (n, *self.label.shape), getattr(torch, self.label.dtype)
            tensors["label"] = torch.full(shape, self.label.ignored, dtype=dtype, pin_memory=self._pin)
        arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
        parts = [
            self._pool.submit(self._fill, rows, arrays, begin, min(begin + _ROWS_PER_TASK, n))
            for begin in range(0, n, _ROWS_PER_TASK)
        ]
        return tensors, parts

    def _fill(self, rows: Rows, arrays: dict[str, np.ndarray], begin: int, end: int) -> list[str]:
        """Writes rows begin..end of a batch; returns what was wrong with those that were bad."""
        problems: list[str] = []
        images, valid, ids, labels = arrays["image"], arrays["valid"], arrays["sample_id"], arrays.get("label")
        for row in range(begin, end):
            epoch, offset, sample_id = int(rows.epoch[row]), int(rows.offset[row]), int(rows.sample_id[row])
            if sample_id < 0:
                continue
            for attempt in range(10):
                try:
                    example = self._samples.example(sample_id)
                    images[row] = self._transformed(example, epoch, offset, sample_id)
                    ids[row] = sample_id
                    if rows.valid[row]:
                        valid[row] = 1.0
                        if labels is not None:
                            labels[row] = self._parse_label(example)
                    break
                except BadSample as error:
                    if rows.valid[row]:
                        problems.append(str(error))
                    if self._policy == "raise":
                        raise UserError(
                            f"bad sample: {error}",
                            where=self.where,
                            fix="Repair or repack the shard (`distdl data verify`), or set data.bad_sample: mask.",
                        ) from error
                    if self._policy == "mask" or self._substitute is None or attempt == 9:
                        break
                    offset, sample_id = self._substitute(epoch, offset)
        return problems

    def _transformed(self, example: Example, epoch: int, offset: int, sample_id: int) -> Pixels:
        image = self._with_channels(example)
        key = self._augmentation_seed(epoch, offset, sample_id) if self._augmentation_seed else 0
        draws = transforms.Draws(key)
        for transform in self.transforms:
            image = transform(image, draws)
        if image.shape != self.image_shape:
            raise UserError(
                f"images of different sizes: {example.name} is {_shape(image.shape)}, "
                f"the first is {_shape(self.image_shape)}",
                where=self.where,
                fix="Add a transform that makes them equal, such as {resize: [32, 32]} or {random_resized_crop: 224}.",
            )
        return image

    def _with_channels(self, example: Example) -> Pixels:
        """The image with as many channels as normalise has, or else the first image."""
        channels = example.image.shape[2]
        wanted = self._channels or channels
        if channels == 1 and wanted == 3:
            return np.repeat(example.image, 3, axis=2)
        if channels != wanted:
            raise UserError(
                f"{example.name} has {channels} channels, {wanted} are expected",
                where=self.where,
                fix="Give normalise one mean and std per channel of the images (3 turns grey images into RGB).",
            )
        return example.image

    def _parse_label(self, example: Example) -> Any:
        assert self.label, "the task asked for labels"
        try:
            return self.label.parse(example.label)
        except ValueError as error:
            label = example.label
            shown = label.decode("utf-8", "replace").strip() if isinstance(label, bytes) else repr(label)
            raise UserError(
                f"the label {shown[:40]} of {example.name} {error}",
                where=self.where,
                fix=f"Labels are {self.label.expected}: repack the data, name another component ({self.where}.label), "
                "or fit model.args.classes.",
            ) from None

    def _first_shape(self) -> tuple[int, int, int]:
        """Shape (height, width, channels) after the transforms, from the first sample that can be decoded."""
        problem = ""
        for sample_id in range(min(self.dataset.n_samples, 100)):
            try:
                image = self._with_channels(self._samples.example(sample_id))
            except BadSample as error:
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
