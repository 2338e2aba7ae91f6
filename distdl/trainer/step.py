"""One step: a worker's rows of a global batch, in micro-batches, to one update of the weights."""

from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from distdl.config.schema import TrainConfig
from distdl.data.engine import HostBatch, Loader
from distdl.data.order import seed_of
from distdl.data.transforms import Normalise
from distdl.trainer.setup import Run

_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


def train_step(run: Run, host: HostBatch) -> list[tuple[Tensor, Tensor]]:
    """Updates the weights once. Returns (loss sum, valid rows) of each micro-batch, scalars still on the device."""
    config, state, engine = run.config.train, run.state, run.engine
    seed_everything(run.device, config.seed, state.step, run.world.rank)
    n_rows = len(host.tensors["label"])
    micro_batch = state.micro_batch or n_rows
    sums = []
    engine.begin()
    for begin in range(0, n_rows, micro_batch):
        rows = host.tensors
        if micro_batch < n_rows:
            rows = {name: tensor[begin : begin + micro_batch] for name, tensor in rows.items()}
        batch = to_device(rows, run.train_loader, run.device, config)
        last = begin + micro_batch >= n_rows
        with autocast(config, run.device):
            outputs = engine.forward(batch["image"], last)
            loss, count = run.task.loss(outputs, batch)
        engine.backward(loss, last)
        sums.append((loss.detach(), count))
    engine.step(run.lr(state.step, run.total_steps), host.n_valid)
    if run.ema:
        run.ema.update(state.step)
    return sums


def forward(
    model: nn.Module, tensors: dict[str, Tensor], loader: Loader, device: torch.device, config: TrainConfig
) -> tuple[Tensor, dict[str, Tensor]]:
    """The model's outputs for a batch without an update, and the batch on the device."""
    batch = to_device(tensors, loader, device, config)
    with autocast(config, device):
        return model(batch["image"]), batch


def to_device(
    tensors: dict[str, Tensor], loader: Loader, device: torch.device, config: TrainConfig
) -> dict[str, Tensor]:
    """The batch on the device, its image as normalised fp32 NCHW."""
    batch = {name: tensor.to(device, non_blocking=True) for name, tensor in tensors.items() if name != "sample_id"}
    scale, shift = _scale_and_shift(loader.normalise, device)
    image_NCHW = batch["image"].permute(0, 3, 1, 2).float()  # NHWC in memory: channels_last as it comes
    if not config.channels_last:
        image_NCHW = image_NCHW.contiguous()
    batch["image"] = image_NCHW.mul_(scale).add_(shift)
    return batch


@lru_cache
def _scale_and_shift(normalise: Normalise, device: torch.device) -> tuple[Tensor, Tensor]:
    """(x / 255 - mean) / std as x * scale + shift, both (1, C, 1, 1)."""
    mean, std = torch.tensor(normalise.mean), torch.tensor(normalise.std)
    return (1 / (255 * std)).view(1, -1, 1, 1).to(device), (-mean / std).view(1, -1, 1, 1).to(device)


def autocast(config: TrainConfig, device: torch.device) -> AbstractContextManager[Any]:
    return nullcontext() if config.precision == "fp32" else torch.autocast(device.type, _AUTOCAST[config.precision])


def seed_everything(device: torch.device, seed: int, step: int, rank: int) -> None:
    """Dropout and the like, as a function of (seed, step, rank): a resumed run draws what it would have drawn."""
    key = seed_of(seed, 7, step, rank)
    torch.default_generator.manual_seed(key)
    if device.type == "cuda":
        torch.cuda.manual_seed(key)
