"""Exact evaluation: every sample counted once, the same result to the last bit for any number of workers.

Batches have a fixed shape whatever the world size, and are dealt to the workers in turn. Each batch leaves its fp64
sums in its own row of a table; the table is summed over the workers (every row has one owner) and then, exactly, over
its rows. The last batch is padded with rows that don't count.
"""

import math
from contextlib import closing
from typing import Any

import torch
from torch import nn

from distdl.comm import collectives
from distdl.comm.vote import Vote
from distdl.config.schema import TrainConfig
from distdl.data.engine import Loader
from distdl.data.order import sequential_rows
from distdl.trainer.signals import Stop, StopRequests, agreed_stop
from distdl.trainer.step import forward


class Interrupted(Exception):
    """A stop was agreed on during the evaluation, by all workers at the same batch."""

    def __init__(self, stop: Stop) -> None:
        super().__init__(stop)
        self.stop = stop


def evaluate(
    model: nn.Module,
    task: Any,
    loader: Loader,
    device: torch.device,
    config: TrainConfig,
    stops: StopRequests | None = None,
) -> dict[str, float]:
    """Means over the split: loss, the task's metrics; `count` samples that counted, `bad` ones that could not.

    Raises Interrupted on all workers at once after a stop signal to any of them.
    """
    rank, world_size = collectives.rank(), collectives.world_size()
    n_samples, rows_per_batch = loader.dataset.n_samples, config.eval_batch
    n_batches = math.ceil(n_samples / rows_per_batch)
    mine = range(rank, n_batches, world_size)
    columns = ("loss", *task.metric_names, "count")
    table = torch.zeros(n_batches, len(columns), dtype=torch.float64, device=device)
    n_bad = 0
    vote = Vote("preempted", "interrupted")
    model.eval()
    try:
        batches = loader.stream(sequential_rows(n_samples, batch, rows_per_batch) for batch in mine)
        with torch.inference_mode(), closing(batches):
            for turn in range(math.ceil(n_batches / world_size)):  # as many turns on every worker
                if (host := next(batches, None)) is not None:
                    outputs, batch = forward(model, host.tensors, loader, device, config)
                    loss, count = task.loss(outputs, batch)
                    sums = task.metrics(outputs, batch)
                    values = (loss, *(sums[name] for name in task.metric_names), count)
                    table[mine[turn]] = torch.stack([value.double() for value in values])
                    n_bad += host.n_bad
                if stop := agreed_stop(vote.cast(**(stops.votes() if stops else {}))):
                    raise Interrupted(stop)
            vote.drain()
    finally:
        model.train()
    by_batch = collectives.sum_(table.cpu()).tolist()
    totals = {name: math.fsum(row[column] for row in by_batch) for column, name in enumerate(columns)}
    count = totals.pop("count")
    result = {name: total / max(1.0, count) for name, total in totals.items()} | {"count": int(count)}
    bad = int(collectives.sum_(torch.tensor(n_bad)))
    return result | {"bad": bad} if bad else result
