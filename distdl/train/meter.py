"""Sums that stay on the device between two log lines, and the clocks of the step."""

import contextlib
import time
from collections.abc import Iterator

import torch
from torch import Tensor

from distdl.comm import collectives


class Meter:
    """Loss sum and count since the last `reduce`, in fp64 on the device; seconds on this worker's clock."""

    def __init__(self, device: torch.device) -> None:
        self._sums = torch.zeros(2, dtype=torch.float64, device=device)
        self._reset()

    def _reset(self) -> None:
        self._sums.zero_()
        self._began = time.perf_counter()
        self._n_steps = 0
        self._samples = 0
        self._wait_s = 0.0

    def add(self, loss_and_count: Tensor, *, samples: int, wait_s: float) -> None:
        """loss_and_count: shape (2,), on the device; samples: positions that all workers advanced by."""
        self._sums += loss_and_count
        self._n_steps += 1
        self._samples += samples
        self._wait_s += wait_s

    def reduce(self) -> dict[str, float]:
        """Mean loss over all workers' rows, and this worker's rates. The one wait for the device outside evaluation."""
        loss_sum, count = collectives.sum_(self._sums.cpu()).tolist()
        elapsed = time.perf_counter() - self._began
        n_steps = max(1, self._n_steps)
        row = {
            "loss": loss_sum / max(1.0, count),
            "samples_per_s": self._samples / max(elapsed, 1e-9),
            "data_wait_s": self._wait_s / n_steps,
            "step_s": elapsed / n_steps,
        }
        self._reset()
        return row

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Leaves the time inside (an evaluation, a save) out of the rates."""
        began = time.perf_counter()
        yield
        self._began += time.perf_counter() - began
