"""Engines: how the loss of micro-batches becomes an update of the weights, over all workers.

A step calls `begin`, puts its counts into the status, calls `forward` and `backward` for each micro-batch, then `step`,
which sums the status over the workers together with the gradients. Losses come in as sums over rows;
their gradients are taken over the global batch, so that the sum over micro-batches and workers is the gradient of the
mean. Where rows were masked it is corrected by global_batch / valid rows, which makes unequal shares exact.
"""

import contextlib
import warnings
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from distdl import registry
from distdl.comm import collectives
from distdl.comm.exchange import Exchange
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

    def forward(self, image: Tensor, last: bool) -> Tensor:
        """The model's outputs for a micro-batch; `last` marks the step's last one."""

    def backward(self, loss: Tensor, last: bool) -> None:
        """Adds the gradients of a micro-batch's summed loss, shape (); `last` as in the forward before."""

    def step(self, step: int, lr: float) -> None:
        """Exchanges the gradients and the status, and updates the weights.

        It names its phases, "exchange" and "update", as it comes to them.
        """


def build(
    config: Config,
    model: nn.Module,
    phases: Phases,
    status: Status,
    add_noise: Callable[[int], None] | None = None,
) -> Engine:
    """`add_noise(step)` is called on the final gradients."""
    return registry.resolve(config.dist.engine, registry.ENGINES, "engine")(config, model, phases, status, add_noise)


class ExchangeEngine:
    """Our own exchange: fixed buckets, sent while backward goes on, no wrapper round the model."""

    def __init__(
        self,
        config: Config,
        model: nn.Module,
        phases: Phases,
        status: Status,
        add_noise: Callable[[int], None] | None,
    ) -> None:
        self.model, self._phases, self._status = model, phases, status
        self.optimiser = optim.build(config.optim, model)
        self.update = Update(config, model, self.optimiser, add_noise=add_noise)
        self._trainable = [p for p in model.parameters() if p.requires_grad]
        alone = collectives.world_size() == 1
        self._exchange: Exchange | None = None
        if not alone:
            self._exchange = Exchange(self._trainable, config.dist.bucket_mib, len(status.topics))
            status.use(self._exchange.status)
        self._buffers = Buffers(model)

    def begin(self, n_rows: int) -> None:
        self.update.begin(n_rows)
        self._buffers.begin()
        if self._exchange:
            self._exchange.begin()
        else:
            for parameter in self._trainable:  # zero_grad() takes ten times as long, over what it tells the profiler
                parameter.grad = None

    def forward(self, image: Tensor, last: bool) -> Tensor:
        return self.model(image)

    def backward(self, loss: Tensor, last: bool) -> None:
        if last:
            self._buffers.start()  # which no forward changes any more
            if self._exchange:
                self._exchange.arm()
        self.update.backward(loss)

    def step(self, step: int, lr: float) -> None:
        self._phases.enter("exchange")  # what backward has not hidden
        if self._exchange:
            self._exchange.finish()
        self._status.exchanged()
        self._phases.enter("update")
        self.update(step, lr, self._status.n_valid)
        self._buffers.finish(self.update.skipped.now)


class DDPEngine:
    """torch's DistributedDataParallel, as the reference."""

    def __init__(
        self,
        config: Config,
        model: nn.Module,
        phases: Phases,
        status: Status,
        add_noise: Callable[[int], None] | None,
    ) -> None:
        self.model = self._network = model
        self._phases, self._status = phases, status
        self._world_size = collectives.world_size()
        self._ddp: DistributedDataParallel | None = None
        if self._world_size > 1:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)  # broadcast_buffers' successor is unknown to torch 2.11
                self._ddp = DistributedDataParallel(
                    model,
                    broadcast_buffers=False,  # ours are averaged once a step
                    bucket_cap_mb=config.dist.bucket_mib,
                    find_unused_parameters=True,
                    gradient_as_bucket_view=True,
                )
            self._network = self._ddp
        self.optimiser = optim.build(config.optim, model)
        times = self._world_size  # which DDP divides by
        self.update = Update(config, model, self.optimiser, times=times, add_noise=add_noise)
        self._buffers = Buffers(model)

    def begin(self, n_rows: int) -> None:
        self.update.begin(n_rows)
        self._buffers.begin()
        self.optimiser.zero_grad(set_to_none=True)

    def forward(self, image: Tensor, last: bool) -> Tensor:
        # DDP decides in the forward whether the backward will send gradients. Workers may have unlike numbers of
        # micro-batches: all of them send once, with the last.
        with contextlib.nullcontext() if last or self._ddp is None else self._ddp.no_sync():
            return self._network(image)

    def backward(self, loss: Tensor, last: bool) -> None:
        self.update.backward(loss)

    def step(self, step: int, lr: float) -> None:
        self._phases.enter("exchange")  # what backward has not hidden
        self._buffers.start()
        collectives.sum_(self._status.values)
        self._status.exchanged()
        self._phases.enter("update")
        self.update(step, lr, self._status.n_valid)
        self._buffers.finish(self.update.skipped.now)


class Buffers:
    """Averages the model's floating-point buffers (BatchNorm's running statistics) over the workers, once a step.

    The replicas so stay equal at every step, and evaluating or saving never has to touch the training state. What is
    averaged is the change since `begin`: a buffer that no worker changes keeps its bits, where the mean of three equal
    numbers would be off by a rounding error in every step. A step that is left out leaves them as they were.
    """

    def __init__(self, model: nn.Module) -> None:
        self._buffers = [b for b in model.buffers() if b.is_floating_point()]
        self._alone = collectives.world_size() == 1
        self._pending = collectives.Pending(None)

    def begin(self) -> None:
        if self._buffers:
            self._before = self._flat()

    def start(self) -> None:
        if self._buffers and not self._alone:
            now = self._flat()
            self._change = torch.where(now == self._before, 0, now - self._before)  # infinities have no difference
            self._pending = collectives.start_sum(self._change)

    def finish(self, skipped: Tensor) -> None:
        """`skipped`: shape (), on the device; not 0 if the step was left out."""
        if not self._buffers:
            return
        on_host = skipped.device.type == "cpu"
        if self._alone and on_host:
            if skipped:
                self._set(self._before)
            return
        self._pending.wait()
        after = self._flat() if self._alone else self._before.add(self._change, alpha=1 / collectives.world_size())
        self._set(torch.where(skipped.bool(), self._before, after))

    def _flat(self) -> Tensor:
        return torch.cat([b.reshape(-1) for b in self._buffers])

    def _set(self, values: Tensor) -> None:
        parts = values.split([b.numel() for b in self._buffers])
        torch._foreach_copy_(self._buffers, [p.view_as(b) for p, b in zip(parts, self._buffers)])
