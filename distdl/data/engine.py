"""From rows of the sample plan to batches in memory: read, decode, transform, in threads, in the plan's order.

A batch is a dict of CPU tensors: `image` uint8 (rows, height, width, channels), `valid` float32 (rows,), `sample_id`
int64 (rows,), and `label` (rows, ...) as the task's LabelSpec says, unless the task needs none; and `augment_key` int64
(rows,) where transforms draw on the device. Every row is written into its own place by whichever thread comes to it, so
nothing depends on the number of threads. A row that is padding, or that is bad under the policy "mask", has valid 0 and
the label that is ignored.
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
from distdl.data import augment, geometry, transforms
from distdl.data.iterable import Own
from distdl.data.labels import LabelSpec
from distdl.data.order import Rows
from distdl.data.picture import Pictures
from distdl.data.samples import BadSample, Example, ShardSamples, Stored
from distdl.data.stages import StagedSamples
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

    `augmentation_seed` is None where a split is evaluated. `short_side`: of the images, in pixels, for rows that name
    none themselves (None: as the transforms make them). Raises UserError at once if the first sample lacks the image or
    the label component.
    """

    def __init__(
        self,
        dataset: Stored | Own,
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
        short_side: int | None = None,
    ) -> None:
        self.where, self.dataset, self.label = where, dataset, label
        built, self.normalise = transforms.build(split.transforms, where)
        of_images, self.on_device = augment.split(built, where)
        self._augmentation_seed = augmentation_seed
        self._prefetch, self._policy, self._substitute, self._pin = prefetch, bad_sample, substitute, pin_memory
        self._samples = (
            dataset
            if isinstance(dataset, Own)
            else (StagedSamples if split.stages else ShardSamples)(
                dataset, split, where, split.label if label else None
            )
        )
        has_normalise = len(built) < len(split.transforms)
        self._pictures = Pictures(
            self._samples,
            dataset.n_samples,
            geometry.fused(of_images),
            channels=len(self.normalise.mean) if has_normalise else None,
            short_side=short_side,
            where=where,
        )
        self.image_shape = self._pictures.shape()
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
            "image": torch.empty((n, *self._pictures.shape(rows.resolution)), dtype=torch.uint8, pin_memory=self._pin),
            "valid": torch.zeros(n, dtype=torch.float32, pin_memory=self._pin),
            "sample_id": torch.from_numpy(rows.sample_id.copy()),
        }
        if self.label:
            shape, dtype = (n, *self.label.shape), getattr(torch, self.label.dtype)
            tensors["label"] = torch.full(shape, self.label.ignored, dtype=dtype, pin_memory=self._pin)
        if self.on_device:
            tensors["augment_key"] = torch.zeros(n, dtype=torch.int64)  # read on the host alone
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
        keys = arrays.get("augment_key")
        for row in range(begin, end):
            epoch, offset, sample_id = int(rows.epoch[row]), int(rows.offset[row]), int(rows.sample_id[row])
            if sample_id < 0:
                images[row] = 0
                continue
            for attempt in range(10):
                try:
                    key = self._augmentation_seed(epoch, offset, sample_id) if self._augmentation_seed else 0
                    example = self._samples.example(sample_id, key)
                    self._pictures.write(images[row], example, key, rows.resolution)
                    ids[row] = sample_id
                    if keys is not None:
                        keys[row] = key
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
                        images[row] = 0
                        break
                    offset, sample_id = self._substitute(epoch, offset)
        return problems

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
