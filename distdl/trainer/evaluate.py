"""Exact evaluation: every sample counted once, the same result to the last bit for any number of workers.

Batches have a fixed shape whatever the world size, and are dealt to the workers in turn. Each batch leaves its fp64
sums in its own row of a table; the table is summed over the workers (every row has one owner) and then, exactly, over
its rows. The last batch is padded with rows that don't count. What a task has to see row by row comes together on
rank 0 in the same way, a piece of the table at a time, and what the task makes of it is told to all.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import torch
from torch import Tensor, nn

from distdl.comm import collectives, messages
from distdl.comm.vote import Vote
from distdl.config.schema import TrainConfig
from distdl.data.engine import Loader
from distdl.data.length_order import sequential_by_length
from distdl.data.order import Rows, sequential_rows
from distdl.data.samples import BadRow
from distdl.errors import UserError
from distdl.trainer import sounds
from distdl.trainer.signals import Stop, StopRequests, agreed_stop
from distdl.trainer.step import explained_out_of_memory, forward

_PIECE_BYTES = 16 << 20

Progress = Callable[[int, int], None]
Note = Callable[[list[BadRow]], None]


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
    progress: Progress = lambda done, n_batches: None,
    note: Note | None = None,
    most_batches: int | None = None,
) -> dict[str, float]:
    """Loss and the task's metrics over the split; `count` samples that counted, `bad` ones that could not.

    `progress(done, n_batches)` is called after each turn of all workers. `note` is given a batch's bad samples, under
    whatever policy; without it a worker that meets one under "raise" raises UserError. `most_batches`: only so many, to
    try it out.
    Raises Interrupted on all workers at once after a stop signal to any of them, UserError when memory runs out.
    """
    rank, world_size = collectives.rank(), collectives.world_size()
    n_samples, rows_per_batch = loader.dataset.n_samples, config.eval_batch
    n_batches = math.ceil(n_samples / rows_per_batch)
    n_batches = min(n_batches, most_batches or n_batches)
    mine = range(rank, n_batches, world_size)
    sums, rows = Table(torch.float64), Table(torch.float32)
    n_bad = 0
    vote = Vote("preempted", "interrupted")
    model.eval()
    try:
        stream = loader.batches if note else loader.stream
        batches = stream(_rows(loader, mine, rows_per_batch))
        with torch.inference_mode(), closing(batches):
            for turn in range(math.ceil(n_batches / world_size)):  # as many turns on every worker
                if (host := next(batches, None)) is not None:
                    with explained_out_of_memory(host.tensors, device, "train.eval_batch", rows_per_batch):
                        found = [
                            _evaluated(model, task, piece, loader, device, config)
                            for piece in sounds.pieces(host.tensors, loader.sounds)
                        ]
                    of_batch = {name: sum(of[name] for of, _ in found) for name in found[0][0]}
                    sums.add(mine[turn], {name: value[None] for name, value in of_batch.items()})
                    if of_rows := found[0][1]:
                        rows.add(mine[turn], {name: torch.cat([each[name] for _, each in found]) for name in of_rows})
                    n_bad += host.n_bad
                    if note:
                        note(host.problems)
                if stop := agreed_stop(vote.cast(**(stops.votes() if stops else {}))):
                    raise Interrupted(stop)
                progress(min((turn + 1) * world_size, n_batches), n_batches)
            vote.drain()
    finally:
        model.train()
    totals = sums.totals(n_batches)
    count = totals.pop("count")
    means = {name: _divided(total, max(1.0, count)) for name, total in totals.items()}
    if hasattr(task, "finish"):
        means |= _finish(task, means, int(count), rows, n_batches)
    result = {name: means[name] for name in ("loss", *task.metric_names)} | {"count": int(count)}
    bad = int(collectives.sum_(torch.tensor(n_bad)))
    return result | {"bad": bad} if bad else result


def _rows(loader: Loader, batches: range, rows_per_batch: int) -> Iterator[Rows]:
    """Of these batches: sounds of like length together."""
    if loader.sounds:
        return sequential_by_length(loader.sounds.lengths, batches, rows_per_batch)
    return (sequential_rows(loader.dataset.n_samples, batch, rows_per_batch) for batch in batches)


def _evaluated(
    model: nn.Module,
    task: Any,
    tensors: dict[str, Tensor],
    loader: Loader,
    device: torch.device,
    config: TrainConfig,
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Sums over the rows of a batch, or a piece of it, in fp64; and what the task has to see row by row, on the CPU."""
    outputs, batch = forward(model, tensors, loader, device, config)
    loss, count = task.loss(outputs, batch)
    of_batch = {"loss": loss, **task.metrics(outputs, batch), "count": count}
    _check_metrics(task, of_batch)
    of_rows = {"valid": batch["valid"], **task.rows(outputs, batch)} if hasattr(task, "rows") else {}
    sums = {name: value.double() for name, value in of_batch.items()}
    return sums, {name: value.cpu() for name, value in of_rows.items()}


def _check_metrics(task: Any, of_batch: dict[str, Any]) -> None:
    """Raises UserError for what a task of one's own may have forgotten."""
    where = f"task {type(task).__name__}"
    for name, value in of_batch.items():
        if not isinstance(value, Tensor):
            what = f"its '{name}' is a {type(value).__name__}, not a tensor"
            raise UserError(what, where=where, fix="loss() and metrics() return sums over the rows, as tensors.")
    missing = [name for name in task.metric_names if name not in of_batch]
    if missing and not hasattr(task, "finish"):
        what = f"metrics() lacks '{missing[0]}', which metric_names lists"
        raise UserError(what, where=where, fix=f"It returned: {', '.join(of_batch)}.")


def _divided(total: Any, count: float) -> Any:
    return [each / count for each in total] if isinstance(total, list) else total / count


def _finish(task: Any, means: dict[str, Any], count: int, rows: "Table", n_batches: int) -> dict[str, float]:
    """What the task makes of the whole set. Rank 0 computes it for all, since their decisions rest on it."""
    kept: dict[str, list[Tensor]] = {}
    for piece in rows.pieces(n_batches) if hasattr(task, "rows") else ():
        if collectives.rank() == 0:  # rank 0 only
            counts = piece.pop("valid") > 0
            for name, values in piece.items():
                kept.setdefault(name, []).append(values[counts])
    whole = {name: torch.cat(values) for name, values in kept.items()}
    return messages.on_rank0(lambda: {name: float(value) for name, value in task.finish(means, count, whole).items()})


class Table:
    """Rows that batches leave, as many each. Every batch has one owner, and rank 0 has the first."""

    def __init__(self, dtype: torch.dtype) -> None:
        self._dtype = dtype
        self._shapes: dict[str, list[int]] = {}  # of one row, by name, in the order of the columns
        self._mine: dict[int, Tensor] = {}  # batch -> (rows, columns), where the batch was computed

    def add(self, batch: int, values: dict[str, Tensor]) -> None:
        """`values`: name -> (rows, ...), of the same shapes in every batch."""
        self._shapes = {name: list(value.shape[1:]) for name, value in values.items()}
        columns = [value.to(self._dtype).reshape(len(value), -1) for value in values.values()]
        self._mine[batch] = torch.cat(columns, dim=1)

    def pieces(self, n_batches: int) -> Iterator[dict[str, Tensor]]:
        """The rows of all workers by name, (rows, ...) on the CPU, a number of batches at a time. Empties the table."""
        n_rows = len(self._mine[0]) if 0 in self._mine else 0
        n_rows, shapes = messages.broadcast_json((n_rows, self._shapes))  # others may have had no batch
        widths = [math.prod(shape) for shape in shapes.values()]
        at_once = max(1, _PIECE_BYTES // (n_rows * sum(widths) * self._dtype.itemsize))
        for begin in range(0, n_batches, at_once):
            piece = torch.zeros(min(at_once, n_batches - begin), n_rows, sum(widths), dtype=self._dtype)
            mine = [batch for batch in range(begin, begin + len(piece)) if batch in self._mine]
            if mine:
                piece[[batch - begin for batch in mine]] = torch.stack([self._mine.pop(batch) for batch in mine]).cpu()
            columns = collectives.sum_(piece).flatten(0, 1).split(widths, dim=1)
            yield {name: column.reshape(-1, *shape) for column, (name, shape) in zip(columns, shapes.items())}

    def totals(self, n_batches: int) -> dict[str, Any]:
        """Exact sums over all rows by name: a float, or a list of them."""
        pieces = list(self.pieces(n_batches))
        whole = {name: torch.cat([piece[name] for piece in pieces]).tolist() for name in pieces[0]}
        return {
            name: [math.fsum(column) for column in zip(*rows)] if isinstance(rows[0], list) else math.fsum(rows)
            for name, rows in whole.items()
        }
