"""Sums that stay on the device between two log lines, and the clocks of the step."""

import contextlib
import math
import time
from collections.abc import Iterator

import torch
from torch import Tensor

from distdl.comm import collectives
from distdl.trainer.phases import Phases

_KEPT = 512  # scalars of a long time between two log lines are added up now and then


class Meter:
    """Loss sum and count since the last `reduce`, added up in fp64; seconds on this worker's clock.

    What a step hands over is only kept, and added up many at a time: a step pays for no operation.
    """

    def __init__(self, phases: Phases, unlogged: tuple[float, float] = (0.0, 0.0)) -> None:
        """`unlogged`: what `settle` returned before the run was stopped; its next row starts from there."""
        self._phases = phases
        self._reset()
        self._hold(torch.tensor(unlogged, dtype=torch.float64))

    def _reset(self) -> None:
        self._phases.take()
        self._sums: list[tuple[Tensor, Tensor]] = []  # (loss sum, count), each of shape (), on the device
        self._began = time.perf_counter()
        self._n_steps = 0
        self._samples = 0
        self._wait_s = 0.0

    def add(self, sums: list[tuple[Tensor, Tensor]], *, samples: int, wait_s: float) -> None:
        """sums: (loss sum, count) of each micro-batch; samples: positions that all workers advanced by."""
        self._sums += sums
        if len(self._sums) >= _KEPT:
            self._sums = [tuple(self._total())]
        self._n_steps += 1
        self._samples += samples
        self._wait_s += wait_s

    def reduce(self) -> dict[str, float]:
        """Mean loss over all workers' rows, and this worker's rates. The one wait for the device outside evaluation.

        Rows whose loss was not finite are left out; if all were, the loss is NaN.
        """
        loss_sum, count = collectives.sum_(self._total().cpu()).tolist()
        phases = {f"{name}_s": seconds for name, seconds in self._phases.take().items()}
        elapsed = time.perf_counter() - self._began
        n_steps = max(1, self._n_steps)
        row = {
            "loss": loss_sum / count if count else math.nan,
            "samples_per_s": self._samples / max(elapsed, 1e-9),
            "data_wait_s": self._wait_s / n_steps,
            **phases,
            "step_s": elapsed / n_steps,
        }
        self._reset()
        return row

    def settle(self) -> tuple[float, float]:
        """(loss sum, count) of all workers since the last row, for a checkpoint. Waits for the device."""
        total = collectives.sum_(self._total().cpu())
        self._hold(total)
        loss_sum, count = total.tolist()
        return loss_sum, count

    def _hold(self, total: Tensor) -> None:
        """Goes on from a total over all workers."""
        self._sums = [tuple(total)] if collectives.rank() == 0 else []

    def _total(self) -> Tensor:
        """fp64 (2,) on the device."""
        if not self._sums:
            return torch.zeros(2, dtype=torch.float64)
        losses, counts = (torch.stack([each.double() for each in column]) for column in zip(*self._sums))
        finite = losses.isfinite()
        return torch.stack([torch.where(finite, column, 0).sum() for column in (losses, counts)])

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Leaves the time inside (an evaluation, a save) out of the rates."""
        began = time.perf_counter()
        yield
        self._began += time.perf_counter() - began
