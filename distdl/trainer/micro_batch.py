"""train.micro_batch: how many rows go through the network at once; with `auto`, the largest that memory allows."""

import torch

from distdl.comm import messages
from distdl.data.order import Rows
from distdl.errors import UserError
from distdl.trainer.setup import Run
from distdl.trainer.step import is_out_of_memory, loss_of, to_device


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
    """Whether a forward and backward of so many rows fits. Leaves no gradient and no statistics behind."""
    buffers = {name: b.clone() for name, b in run.engine.model.named_buffers()}
    ids = torch.arange(rows) % run.train_loader.dataset.n_samples
    example = Rows.of(ids.numpy())
    try:
        (host,) = run.train_loader.batches([example])
        batch = to_device(host.tensors, run.train_loader, run.device, run.config.train)
        loss, _ = loss_of(run, run.engine.model, batch, run.reduction.parts[0], 0)
        loss.backward()
        return True
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        return False
    finally:
        run.engine.optimiser.zero_grad(set_to_none=True)
        with torch.no_grad():
            for name, buffer in run.engine.model.named_buffers():
                buffer.copy_(buffers[name])
        if run.device.type == "cuda":
            torch.cuda.empty_cache()
