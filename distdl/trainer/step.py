"""One step: a worker's rows of a global batch, in micro-batches, to one update of the weights."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import lru_cache, partial
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from distdl.config.schema import TrainConfig
from distdl.data.engine import HostBatch, Loader
from distdl.data.order import seed_of
from distdl.data.pictures import augment
from distdl.data.pictures.transforms import Normalise
from distdl.errors import UserError
from distdl.trainer import adversarial, mixup, sounds
from distdl.trainer.setup import Run

_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


def train_step(run: Run, host: HostBatch, lr: float, **counts: int) -> list[tuple[Tensor, Tensor]]:
    """Updates the weights once. Returns (loss sum, valid rows) of each micro-batch, scalars still on the device.

    `counts`: what this worker adds to `run.status`, besides its valid rows.
    Raises UserError when memory runs out, with what was on its way through the network and the key to lower.
    """
    config, state, engine, phases = run.config.train, run.state, run.engine, run.phases
    forwards = _forwards(run.reduction.parts, len(host.tensors["valid"]), state.micro_batch, host.cuts)
    memory_key = "data.sound.at_once_s" if host.cuts else "train.micro_batch"
    sums = []
    engine.begin(run.global_batch)
    run.status.put(valid=host.n_valid, **counts)
    with explained_out_of_memory(host.tensors, run.device, memory_key, forwards[0].n_rows):
        with run.noise.weights(state.step):
            for each in forwards:
                if each.begin == 0:
                    seed_everything(run.device, config.seed, state.step, each.part)
                last = each is forwards[-1]
                phases.enter("forward")
                rows = host.tensors
                if len(forwards) > 1:
                    rows = {name: tensor[each.rows] for name, tensor in rows.items()}
                batch = to_device(rows, run.train_loader, run.device, config)
                loss, count = loss_of(run, partial(engine.forward, last=last), batch, each.part, each.begin)
                phases.enter("backward")
                engine.backward(loss, last)
                sums.append((loss.detach(), count))
                if each.ends_part and not last:
                    engine.keep(each.part)
        engine.step(state.step, lr)
    if run.ema:
        run.ema.update(state.step)
    phases.leave()
    return sums


class Forward(NamedTuple):
    """A micro-batch."""

    part: int  # of the global batch
    begin: int  # first row among those of its part
    rows: slice  # among the worker's
    ends_part: bool

    @property
    def n_rows(self) -> int:
        return int(self.rows.stop - self.rows.start)


@lru_cache
def _forwards(
    parts: range, n_rows: int, micro_batch: int | None, cuts: tuple[tuple[int, ...], ...] = ()
) -> tuple[Forward, ...]:
    """The worker's `n_rows`, part by part: one part, or leaves of one size. `cuts` of each part as in HostBatch."""
    each = n_rows // len(parts)
    if cuts:
        return tuple(
            Forward(part, begin, slice(first + begin, first + end), end == of_part[-1])
            for part, first, of_part in zip(parts, range(0, n_rows, each), cuts)
            for begin, end in pairwise(of_part)
        )
    at_once = min(micro_batch or each, each)
    return tuple(
        Forward(part, begin, slice(first + begin, first + min(begin + at_once, each)), begin + at_once >= each)
        for part, first in zip(parts, range(0, n_rows, each))
        for begin in range(0, each, at_once)
    )


def loss_of(
    run: Run, forward: Callable[..., Any], batch: dict[str, Tensor], part: int, begin: int
) -> tuple[Tensor, Tensor]:
    """The loss that is trained on, summed over a micro-batch, and its valid rows, both of shape ().

    `forward` maps inputs to outputs; `begin` is the micro-batch's first row among those of its part of the batch.
    """
    config, task = run.config.train, run.task
    first, *others = inputs_of(batch)
    image = run.noise.input(first, run.state.step, part, begin)
    if others:  # what follows belongs to images
        with autocast(config, run.device):
            loss, count = task.loss(forward(image, *others), batch)
            return loss, count
    with autocast(config, run.device):
        if config.mixup or config.cutmix:
            image, partners, share = mixup.mix(image, batch, config, run.state.step, part, begin)
            outputs = forward(image)
            loss, count = task.loss(outputs, batch)
            loss = torch.lerp(task.loss(outputs, partners)[0], loss, share)
        elif config.adversarial is None:
            outputs = forward(image)
            loss, count = task.loss(outputs, batch)
        else:
            normalise, epsilon = run.train_loader.normalise, config.adversarial.epsilon
            moved = adversarial.examples(run.engine.model, image, batch, task, epsilon, normalise)
            outputs = forward(torch.cat([image, moved]))
            loss, count = adversarial.mixed_loss(task, outputs, batch, config.adversarial.weight)
            outputs = outputs[: len(image)]
        if run.teacher:
            loss = run.teacher.loss(outputs, image, batch, loss)
    return loss, count


def is_out_of_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator: can't allocate memory" in str(error)


@contextmanager
def explained_out_of_memory(tensors: dict[str, Tensor], device: torch.device, key: str, n_rows: int) -> Iterator[None]:
    """Raises UserError when memory runs out within it, on a batch of `tensors` that is computed `n_rows` at a time."""
    try:
        yield
    except RuntimeError as error:  # torch.OutOfMemoryError is one, and so is what the CPU's allocator raises
        if not is_out_of_memory(error):
            raise
        ids = tensors["sample_id"].tolist()
        shapes = ", ".join(f"{name} {'x'.join(map(str, t.shape))} {str(t.dtype)[6:]}" for name, t in tensors.items())
        which = ", ".join(map(str, ids[:8])) + (", ..." if len(ids) > 8 else "")
        raise UserError(
            f"out of memory on {device} with {min(n_rows, len(ids))} rows at a time of {shapes} (samples {which}): "
            + str(error).partition("\n")[0],
            where=key if "sound" in tensors else f"{key}: {n_rows}",
            fix=_smaller(tensors, key, n_rows),
        ) from error


def _smaller(tensors: dict[str, Tensor], key: str, n_rows: int) -> str:
    """What to set instead."""
    if "sound" in tensors:
        return f"Lower {key}, the seconds of sound in a forward, or leave out the longest: data.sound.longest_s."
    return f"Set {key}={max(1, n_rows // 2)}. The result stays that of the whole batch."


def forward(
    model: nn.Module, tensors: dict[str, Tensor], loader: Loader, device: torch.device, config: TrainConfig
) -> tuple[Any, dict[str, Tensor]]:
    """The model's outputs for a batch without an update, and the batch on the device."""
    batch = to_device(tensors, loader, device, config)
    with autocast(config, device):
        return model(*inputs_of(batch)), batch


def inputs_of(batch: dict[str, Tensor]) -> tuple[Tensor, ...]:
    """What the network is called with: images, or features and how many frames of them are each row's own."""
    return (batch["features"], batch["frames"]) if "features" in batch else (batch["image"],)


def to_device(
    tensors: dict[str, Tensor], loader: Loader, device: torch.device, config: TrainConfig
) -> dict[str, Tensor]:
    """The batch on the device, its image as fp32 NCHW, after the transforms that run there, normalised; or the features
    of its sounds (distdl.trainer.sounds.features)."""
    if loader.sounds:
        return sounds.features(tensors, loader.chain, loader.sounds.config.rate_hz, device)
    batch = {name: tensor for name, tensor in tensors.items() if name not in ("sample_id", "augment_key")}
    if device.type != "cpu":
        batch = {name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}
    scale, shift = _scale_and_shift(loader.normalise, device)
    image_NCHW = batch["image"].permute(0, 3, 1, 2).float()  # NHWC in memory: channels_last as it comes
    if not config.channels_last:
        image_NCHW = image_NCHW.contiguous()
    if loader.on_device:
        image_NCHW = augment.augmented(image_NCHW, loader.on_device, tensors["augment_key"], loader.normalise)
        if config.channels_last:
            image_NCHW = image_NCHW.contiguous(memory_format=torch.channels_last)
    batch["image"] = image_NCHW.mul_(scale).add_(shift)
    return batch


@lru_cache
def _scale_and_shift(normalise: Normalise, device: torch.device) -> tuple[Tensor, Tensor]:
    """(x / 255 - mean) / std as x * scale + shift, both (1, C, 1, 1)."""
    mean, std = torch.tensor(normalise.mean), torch.tensor(normalise.std)
    return (1 / (255 * std)).view(1, -1, 1, 1).to(device), (-mean / std).view(1, -1, 1, 1).to(device)


def autocast(config: TrainConfig, device: torch.device) -> AbstractContextManager[Any]:
    return nullcontext() if config.precision == "fp32" else torch.autocast(device.type, _AUTOCAST[config.precision])


def seed_everything(device: torch.device, seed: int, step: int, part: int) -> None:
    """Dropout and the like, as a function of (seed, step, part of the batch): a resumed run draws what it would have
    drawn."""
    key = seed_of(seed, 7, step, part)
    torch.default_generator.manual_seed(key)
    if device.type == "cuda":
        torch.cuda.manual_seed(key)
