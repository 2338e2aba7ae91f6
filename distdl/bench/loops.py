"""The loops that are compared: distdl's own on batches that are in memory already, and a bare one.

`fit_steps` is the whole loop as it trains: sample plan, seeding, learning rate, masks, exact sums, meter, votes, what
is due, progress. `BareLoop` is what a person would write for the same network, loss, optimiser and precision, on one
worker.
"""

import contextlib
import itertools
import os
import statistics
from collections.abc import Generator, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from distdl.data.engine import HostBatch
from distdl.data.fill import SoundRows
from distdl.data.order import Rows
from distdl.data.pictures.of_batches import OnDevice
from distdl.data.pictures.transforms import Normalise
from distdl.track import NullTracker
from distdl.track.jsonl import Row
from distdl.trainer import loop, optim, setup, step
from distdl.trainer.quarantine import Quarantine
from distdl.trainer.setup import Run
from distdl.trainer.signals import StopRequests


class MemoryLoader:
    """Stands in for a run's loader: batches that are there already, without end. What rows they are is ignored."""

    def __init__(
        self,
        batches: Iterator[HostBatch],
        normalise: Normalise,
        on_device: Sequence[OnDevice] = (),
        sounds: SoundRows | None = None,
        chain: Any = None,
    ) -> None:
        self._batches, self.normalise, self.on_device = batches, normalise, on_device
        self.sounds, self.chain = sounds, chain

    def batches(self, rows: Iterable[Rows]) -> Generator[HostBatch, None, None]:
        for _, batch in zip(rows, self._batches):
            yield batch

    def close(self) -> None: ...


@contextlib.contextmanager
def in_memory(run: Run, most_batches: int) -> Iterator[list[HostBatch]]:
    """The run's first batches, which within it take the place of its loader."""
    loader = run.train_loader
    batches = list(itertools.islice(run.host_batches(), most_batches))
    without_wait = [HostBatch(each.tensors, each.n_valid, 0, 0.0, each.cuts) for each in batches]
    endless = itertools.cycle(without_wait)
    in_place = MemoryLoader(endless, loader.normalise, loader.on_device, loader.sounds, loader.chain)
    run.train_loader = in_place  # type: ignore[assignment]
    try:
        yield batches
    finally:
        run.train_loader = loader


class NoCheckpoints:
    def prepare(self, *arguments: Any) -> None: ...

    def save(self, *arguments: Any, **options: Any) -> None: ...


class TrainRows(NullTracker):
    """Keeps the rows of training."""

    def __init__(self) -> None:
        self.rows: list[Row] = []

    def log(self, row: Row) -> None:
        if row["kind"] == "train":
            self.rows.append(row)

    def median(self, key: str) -> float:
        return statistics.median(row[key] for row in self.rows)


def fit_steps(run: Run, n_steps: int, track: NullTracker) -> None:
    """Trains on from where the run is."""
    run.end = run.state.position + n_steps * run.global_batch
    nothing_bad = Quarantine(Path(os.devnull), "")
    loop.fit(run, track, NoCheckpoints(), StopRequests(), nothing_bad)  # type: ignore[arg-type]  # it calls nothing else


class BareLoop:
    """Trains a network of its own on a worker's share of the batches, without the other workers' gradients."""

    def __init__(self, run: Run, batches: Sequence[HostBatch]) -> None:
        self._run, self._batches = run, itertools.cycle(batches)
        self._network = setup.build_model(run.config, run.device)
        self._optimiser = optim.build(run.config.optim, self._network)
        self._scaler = torch.amp.GradScaler(run.device.type, enabled=run.config.train.precision == "fp16")

    def train(self, n_steps: int) -> None:
        run, config = self._run, self._run.config.train
        for host in itertools.islice(self._batches, n_steps):
            n_rows = len(host.tensors["valid"])
            micro_batch = run.state.micro_batch or n_rows
            self._optimiser.zero_grad()
            for begin in range(0, n_rows, micro_batch):
                rows = {name: tensor[begin : begin + micro_batch] for name, tensor in host.tensors.items()}
                batch = step.to_device(rows, run.train_loader, run.device, config)
                with step.autocast(config, run.device):
                    loss_sum, _ = run.task.loss(self._network(*step.inputs_of(batch)), batch)
                self._scaler.scale(loss_sum / n_rows).backward()
            self._scaler.step(self._optimiser)
            self._scaler.update()
