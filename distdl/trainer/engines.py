"""Engines: how the loss of micro-batches becomes an update of the weights, over all workers.

A step calls `begin`, puts its counts into the status, calls `forward` and `backward` for each micro-batch, and `keep`
between two parts of the batch; then `step`, which sums the status over the workers together with the gradients. Losses
come in as sums over rows; their gradients are taken over the global batch, so that the sum over micro-batches and
workers is the gradient of the mean. Where rows were masked it is corrected by global_batch / valid rows, which makes
unequal shares exact.
"""

import contextlib
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from distdl import registry
from distdl.comm import collectives
from distdl.comm.exchange import Exchange
from distdl.comm.reduction import Reduction
from distdl.comm.status import Status
from distdl.config.schema import Config
from distdl.trainer import optim
from distdl.trainer.phases import Phases
from distdl.trainer.update import Update


class Engine(Protocol):
    model: nn.Module  # what holds the weights, whose state is saved
    optimiser: torch.optim.Optimizer
    update: Update

    def begin(self, n_rows: int) -> None:
        """Clears the gradients for a step whose global batch has `n_rows` rows."""

    def forward(self, *inputs: Tensor, last: bool) -> Any:
        """The model's outputs for a micro-batch; `last` marks the step's last one."""

    def backward(self, loss: Tensor, last: bool) -> None:
        """Adds the gradients of a micro-batch's summed loss, shape (); `last` as in the forward before."""

    def keep(self, part: int) -> None:
        """Ends a part of the batch that is not the worker's last one: its gradients are kept by themselves."""

    def step(self, step: int, lr: float) -> None:
        """Exchanges the gradients and the status, and updates the weights.

        It names its phases, "exchange" and "update", as it comes to them.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """What an engine is given. `add_noise(step)` is called on the final gradients."""

    config: Config
    model: nn.Module
    reduction: Reduction
    status: Status
    phases: Phases
    add_noise: Callable[[int], None] | None = None


def build(given: Given) -> Engine:
    return registry.resolve(given.config.dist.engine, registry.ENGINES, "engine")(given)


class ExchangeEngine:
    """Our own exchange: fixed buckets, sent while backward goes on, no wrapper round the model."""

    def __init__(self, given: Given) -> None:
        self.model, self._phases, self._status = given.model, given.phases, given.status
        self.optimiser = optim.build(given.config.optim, given.model)
        self.update = Update(given.config, given.model, self.optimiser, add_noise=given.add_noise)
        self._trainable = [p for p in given.model.parameters() if p.requires_grad]
        self._buffers = Buffers(given.model)
        self._n_parts, self._has_several_parts = given.reduction.n_parts, len(given.reduction.parts) > 1
        self._exchange: Exchange | None = None
        if self._n_parts > 1:
            self._exchange = Exchange(
                self._trainable,
                bucket_mib=given.config.dist.bucket_size_mib,
                n_status=len(given.status.values),
                reduction=given.reduction,
                others=self._buffers.flat(),
                seal=given.status.seal,
            )
            given.status.use(self._exchange.status)

    def begin(self, n_rows: int) -> None:
        self.update.begin(n_rows)
        self._buffers.begin()
        if self._exchange:
            self._exchange.begin()
        else:
            for parameter in self._trainable:  # zero_grad() takes ten times as long, over what it tells the profiler
                parameter.grad = None

    def forward(self, *inputs: Tensor, last: bool) -> Any:
        return self.model(*inputs)

    def backward(self, loss: Tensor, last: bool) -> None:
        if self._exchange:
            if last or self._has_several_parts:  # before backward, which may run a part of the forward again
                self._buffers.change(out=self._exchange.others)
            if last:
                self._exchange.arm()
        self.update.backward(loss)

    def keep(self, part: int) -> None:
        assert self._exchange, "several parts need a sum"
        self._buffers.reset()
        self._exchange.keep(part)

    def step(self, step: int, lr: float) -> None:
        self._phases.enter("exchange")  # what backward has not hidden
        if self._exchange:
            self._exchange.finish()
        self._status.exchanged()
        self._phases.enter("update")
        self.update(step, lr, self._status.n_valid)
        if self._exchange:
            self._buffers.set(self._exchange.others, self._n_parts, self.update.skipped.now)
        else:
            self._buffers.undo(self.update.skipped.now)


class DDPEngine:
    """torch's DistributedDataParallel, as the reference."""

    def __init__(self, given: Given) -> None:
        self.model = self._network = given.model
        self._phases, self._status = given.phases, given.status
        self._world_size = collectives.world_size()
        self._ddp: DistributedDataParallel | None = None
        if self._world_size > 1:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)  # broadcast_buffers' successor is unknown to torch 2.11
                self._ddp = DistributedDataParallel(
                    given.model,
                    process_group=collectives.new_group([range(self._world_size)]).handle,
                    broadcast_buffers=False,  # ours are averaged once a step
                    bucket_cap_mb=given.config.dist.bucket_size_mib,
                    find_unused_parameters=True,
                    gradient_as_bucket_view=True,
                )
            self._network = self._ddp
        self.optimiser = optim.build(given.config.optim, given.model)
        times = self._world_size  # which DDP divides by
        self.update = Update(given.config, given.model, self.optimiser, times=times, add_noise=given.add_noise)
        self._buffers = Buffers(given.model)

    def begin(self, n_rows: int) -> None:
        self.update.begin(n_rows)
        self._buffers.begin()
        self.optimiser.zero_grad(set_to_none=True)

    def forward(self, *inputs: Tensor, last: bool) -> Any:
        # DDP decides in the forward whether the backward will send gradients. Workers may have unlike numbers of
        # micro-batches: all of them send once, with the last.
        with contextlib.nullcontext() if last or self._ddp is None else self._ddp.no_sync():
            return self._network(*inputs)

    def backward(self, loss: Tensor, last: bool) -> None:
        self.update.backward(loss)

    def keep(self, part: int) -> None:
        raise AssertionError("DDP knows one part a worker")

    def step(self, step: int, lr: float) -> None:
        self._phases.enter("exchange")  # what backward has not hidden
        self._status.seal()
        status = collectives.start_sum(self._status.values)
        change = self._buffers.change() if self._ddp and self._buffers else None
        if change is not None:
            collectives.start_sum(change).wait()
        status.wait()
        self._status.exchanged()
        self._phases.enter("update")
        self.update(step, lr, self._status.n_valid)
        if change is not None:
            self._buffers.set(change, self._world_size, self.update.skipped.now)
        else:
            self._buffers.undo(self.update.skipped.now)


class Buffers:
    """Averages the model's floating-point buffers (BatchNorm's running statistics) over the parts of a batch, once a
    step.

    The replicas so stay equal at every step, and evaluating or saving never has to touch the training state. What is
    averaged is the change since `begin`: a buffer that nothing changes keeps its bits, where the mean of three equal
    numbers would be off by a rounding error in every step. A step that is left out leaves them as they were.
    """

    def __init__(self, model: nn.Module) -> None:
        held = {
            id(buffer): (module._buffers, name, buffer.is_floating_point())
            for module in model.modules()
            for name, buffer in module._buffers.items()
            if buffer is not None
        }
        # Where they are kept, as a forward may put a new tensor in one's place: self.seen = 0.9 * self.seen + ...
        self._floats_at = [(buffers, name) for buffers, name, is_float in held.values() if is_float]
        self._others_at = [(buffers, name) for buffers, name, is_float in held.values() if not is_float]

    @property
    def _floats(self) -> list[Tensor]:
        return [buffers[name] for buffers, name in self._floats_at]  # type: ignore[misc]  # they are not None

    @property
    def _others(self) -> list[Tensor]:
        return [buffers[name] for buffers, name in self._others_at]  # type: ignore[misc]

    def __bool__(self) -> bool:
        return bool(self._floats_at)

    def flat(self) -> Tensor:
        """All values, shape (n,)."""
        return torch.cat([b.reshape(-1) for b in self._floats]) if self else torch.empty(0)

    def begin(self) -> None:
        self._before = self.flat()
        self._others_before = [b.clone() for b in self._others]

    def change(self, out: Tensor | None = None) -> Tensor:
        """Since `begin`, shape (n,)."""
        now = self.flat()
        return torch.sub(now, self._before, out=out).masked_fill_(now == self._before, 0)  # infinities: no difference

    def reset(self) -> None:
        """As they were at `begin`, for the next part of the batch."""
        self._set(self._before)
        if self._others:
            torch._foreach_copy_(self._others, self._others_before)

    def set(self, change: Tensor, n_parts: int, skipped: Tensor) -> None:
        """`change`: the sum over `n_parts`; `skipped`: shape (), on the device; not 0 if the step was left out."""
        if self._floats:
            self._set(torch.where(skipped.bool(), self._before, self._before.add(change, alpha=1 / n_parts)))

    def undo(self, skipped: Tensor) -> None:
        """With one part there is no mean to take."""
        if not self:
            return
        if skipped.device.type != "cpu":
            self._set(torch.where(skipped.bool(), self._before, self.flat()))
        elif skipped:
            self._set(self._before)

    def _set(self, values: Tensor) -> None:
        parts = values.split([b.numel() for b in self._floats])
        if self._floats:
            torch._foreach_copy_(self._floats, [p.view_as(b) for p, b in zip(parts, self._floats)])
