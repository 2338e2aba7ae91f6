"""From rows of the sample plan to batches in memory, made ahead by workers, in the plan's order.

    rows  ->  a slot that says which samples are wanted  ->  workers fill it, some rows each  ->  a batch

A batch is a dict of CPU tensors: `image` uint8 (rows, height, width, channels), `valid` float32 (rows,), `sample_id`
int64 (rows,), and `label` (rows, ...) as the task's LabelSpec says, unless the task needs none; and `augment_key` int64
(rows,) where transforms draw on the device. Of sounds, instead of `image`: `sound` int16 (rows, samples) and `length`
int64 (rows,), in samples. Every row is written into its own place by whichever worker comes to it, so
nothing depends on their number.
"""

import time
from collections import deque
from collections.abc import Callable, Generator, Iterable
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import torch

from distdl.config.sources import SplitConfig
from distdl.data.fill import Filler
from distdl.data.mixture import AnyDataset
from distdl.data.order import Rows
from distdl.data.samples import BadRow, BadSample
from distdl.data.slots import Slots
from distdl.data.workers import Part, Workers, recipe_of
from distdl.errors import UserError

_ROWS_PER_TASK = 32
_HOST_ONLY = ("epoch", "offset", "counts")


@dataclass(slots=True)
class HostBatch:
    tensors: dict[str, torch.Tensor]
    n_valid: int
    n_bad: int
    wait_s: float
    """how long the caller waited for it"""
    cuts: tuple[tuple[int, ...], ...] = ()
    """of sounds: for each of the worker's parts of the batch, where its forwards begin, and its end"""
    problems: list[BadRow] = field(default_factory=list)
    """the bad samples; one that stood in for another and was bad as well is one more"""


class Loader:
    """Reads one split of a dataset, which it closes. `open_again` opens that dataset in worker processes.

    The other arguments are those of Filler, with what it raises.
    """

    def __init__(
        self,
        dataset: AnyDataset,
        split: SplitConfig,
        *,
        workers: Workers,
        prefetch: int,
        open_again: Callable[[], AnyDataset] | None = None,
        pin_memory: bool = False,
        **of_filler: Any,
    ) -> None:
        self._filler = Filler(dataset, split, **of_filler)
        self.dataset, self.where, self.label = dataset, self._filler.where, self._filler.label
        self.normalise, self.on_device = self._filler.normalise, self._filler.on_device
        self.image_shape, self.sounds = self._filler.image_shape, self._filler.sounds
        self.chain: Any = None  # of sounds: what makes features of them on the device (distdl.speech.transforms.Chain)
        self._prefetch, self._raises = prefetch, self._filler.policy == "raise"
        self._slots = Slots(pin=pin_memory)
        self._workers = workers
        self._number = workers.add(self._filler, recipe_of(self._filler, open_again, split, of_filler), self._slots)

    def close(self) -> None:
        self._filler.close()  # first: a thread may be waiting for a server
        self._workers.remove(self._number)
        self._slots.close()

    def stream(self, rows: Iterable[Rows]) -> Generator[HostBatch, None, None]:
        """Batches for the given rows, in that order, made up to `prefetch` ahead.

        Raises UserError for a bad sample under the policy "raise".
        """
        with closing(self.batches(rows)) as batches:
            for batch in batches:
                if self._raises and batch.problems:
                    raise refusal(batch.problems[0], self.where, "Repair or repack the shard (`distdl data verify`).")
                yield batch

    def batches(self, rows: Iterable[Rows]) -> Generator[HostBatch, None, None]:
        """As `stream`, for those who see to "raise" themselves, since all workers are to end together: such a row is
        masked."""
        ahead: deque[tuple[Rows, dict[str, torch.Tensor], list[Part]]] = deque()
        upcoming = iter(rows)
        try:
            while True:
                while len(ahead) < self._prefetch and (some := next(upcoming, None)) is not None:
                    ahead.append((some, *self._begin(some)))
                if not ahead:
                    return
                rows_asked, tensors, parts = ahead.popleft()
                began = time.perf_counter()
                problems = [problem for part in parts for problem in part.result()]
                n_valid = int(tensors["valid"].numpy().sum())
                wait_s = time.perf_counter() - began
                yield HostBatch(tensors, n_valid, len(problems), wait_s, rows_asked.cuts, problems)
                del tensors, parts  # its slot is free for the next one as soon as the caller has no use for it
        finally:
            for _, _, parts in ahead:
                for part in parts:
                    part.cancel()

    def _begin(self, rows: Rows) -> tuple[dict[str, torch.Tensor], list[Part]]:
        n = len(rows)
        size = self._filler.size_of(rows)
        place, arrays = self._slots.take(self._filler.fields(n, size))
        self._filler.ask(rows, arrays)
        parts = [
            self._workers.submit(self._number, place, arrays, size, begin, min(begin + _ROWS_PER_TASK, n))
            for begin in range(0, n, _ROWS_PER_TASK)
        ]
        return {name: torch.from_numpy(arrays[name]) for name in arrays if name not in _HOST_ONLY}, parts


def refusal(bad: BadSample | BadRow, where: str, way_out: str) -> UserError:
    """What the policy "raise" ends with. `way_out`: of a sample that is damaged."""
    if bad.own_code:
        way_out = "Mend this code, or what it reads: a dataset or a stage gives a sample for each."
    return UserError(
        "\n".join([f"bad sample: {bad}", *bad.traceback.splitlines()]),
        where=where,
        fix=f"{way_out} Or set data.bad_sample: mask.",
    )
