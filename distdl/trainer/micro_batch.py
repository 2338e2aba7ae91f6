"""train.micro_batch: how many rows go through the network at once; with `auto`, the largest that memory allows. And the
longest sounds, tried before the first step: what does not fit is told at the start, not in the third hour."""

import contextlib
from collections.abc import Iterator

import torch

from distdl.comm import messages
from distdl.data.order import Rows
from distdl.errors import UserError
from distdl.trainer import sounds
from distdl.trainer.setup import Run
from distdl.trainer.step import explained_out_of_memory, is_out_of_memory, loss_of, to_device


def settle(run: Run) -> None:
    """Sets `run.state.micro_batch`. What `auto` found before is kept by a resumed run: it shapes the sums."""
    wanted = run.config.train.micro_batch
    if wanted == "auto":
        if run.state.micro_batch is None:
            run.state.micro_batch = _probe(run)
    else:
        run.state.micro_batch = wanted


def _probe(run: Run) -> int:
    """Halves the rows until a forward and backward fits, on every worker. Raises UserError if a single row does not."""
    rows = -(-run.config.train.global_batch // run.world.world_size)
    while True:
        fits = _fits(run, rows)
        if min(messages.gather_json(fits)):
            return rows
        if rows == 1:
            raise UserError(
                "a single row does not fit into memory",
                where="train.micro_batch: auto",
                fix="Use a smaller network or input, or train.precision: bf16.",
            )
        rows = -(-rows // 2)


def _fits(run: Run, rows: int) -> bool:
    """Whether a forward and backward of so many rows fits."""
    ids = torch.arange(rows) % run.train_loader.dataset.n_samples
    (host,) = run.train_loader.batches([Rows.of(ids.numpy())])
    try:
        with _without_traces(run):
            _forward_and_backward(run, host.tensors)
        return True
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        return False


def try_longest(run: Run) -> None:
    """The forward and backward of the longest sounds that this worker may meet. Raises UserError if memory runs out."""
    loader, of_sounds = run.train_loader, run.train_loader.sounds
    if of_sounds is None:
        return
    rows = sounds.longest(of_sounds, run.config.train.global_batch, run.reduction.parts[0], run.reduction.n_parts)
    (host,) = loader.batches([rows])
    with _without_traces(run), explained_out_of_memory(host.tensors, run.device, "data.sound.at_once_s", len(rows)):
        _forward_and_backward(run, host.tensors)


def _forward_and_backward(run: Run, tensors: dict[str, torch.Tensor]) -> None:
    batch = to_device(tensors, run.train_loader, run.device, run.config.train)
    loss, _ = loss_of(run, run.engine.model, batch, run.reduction.parts[0], 0)
    loss.backward()


@contextlib.contextmanager
def _without_traces(run: Run) -> Iterator[None]:
    """What happens within it leaves no gradient and no statistics behind."""
    buffers = {name: b.clone() for name, b in run.engine.model.named_buffers()}
    try:
        yield
    finally:
        run.engine.optimiser.zero_grad(set_to_none=True)
        with torch.no_grad():
            for name, buffer in run.engine.model.named_buffers():
                buffer.copy_(buffers[name])
        if run.device.type == "cuda":
            torch.cuda.empty_cache()
