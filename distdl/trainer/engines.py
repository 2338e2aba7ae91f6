"""Engines: how the loss of micro-batches becomes an update of the weights, over all workers.

A step calls `begin`, then `backward` for each micro-batch, then `step`. Losses come in as sums over rows; their
gradients are taken over the global batch, so that the sum over micro-batches and workers is the gradient of the mean.
Where rows were masked it is corrected by global_batch / valid rows, which makes unequal shares exact.
"""

import contextlib
import warnings
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from distdl import registry
from distdl.comm import collectives
from distdl.comm.exchange import Exchange
from distdl.config.schema import Config
from distdl.trainer import optim


class Engine(Protocol):
    model: nn.Module  # what holds the weights, whose state is saved
    optimiser: torch.optim.Optimizer
    update: "Update"

    def begin(self) -> None:
        """Clears the gradients."""

    def forward(self, image: Tensor, last: bool) -> Tensor:
        """The model's outputs for a micro-batch; `last` marks the step's last one."""

    def backward(self, loss: Tensor, last: bool) -> None:
        """Adds the gradients of a micro-batch's summed loss, shape (); `last` as in the forward before."""

    def step(self, lr: float, n_valid: int) -> None:
        """Exchanges the gradients and updates the weights. `n_valid`: this worker's rows that counted."""


def build(config: Config, model: nn.Module) -> Engine:
    return registry.resolve(config.dist.engine, registry.ENGINES, "engine")(config, model)


class ExchangeEngine:
    """Our own exchange: fixed buckets, no wrapper round the model."""

    def __init__(self, config: Config, model: nn.Module) -> None:
        self.model = model
        self.optimiser = optim.build(config.optim, model)
        self.update = Update(config, model, self.optimiser)
        trainable = [p for p in model.parameters() if p.requires_grad]
        alone = collectives.world_size() == 1
        self._exchange = None if alone else Exchange(trainable, config.dist.bucket_mib)
        self._buffers = Buffers(model)

    def begin(self) -> None:
        self._buffers.begin()
        if self._exchange:
            self._exchange.attach()
        else:
            self.optimiser.zero_grad(set_to_none=True)

    def forward(self, image: Tensor, last: bool) -> Tensor:
        return self.model(image)

    def backward(self, loss: Tensor, last: bool) -> None:
        self.update.backward(loss)

    def step(self, lr: float, n_valid: int) -> None:
        if self._exchange is None:
            self.update(lr, n_valid)
            return
        self._buffers.start()
        count = self._exchange.all_reduce(n_valid)
        self.update(lr, count)
        self._buffers.finish()


class DDPEngine:
    """torch's DistributedDataParallel, as the reference."""

    def __init__(self, config: Config, model: nn.Module) -> None:
        self.model = self._network = model
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
        self.update = Update(config, model, self.optimiser, times=self._world_size)  # which DDP divides by
        self._buffers = Buffers(model)

    def begin(self) -> None:
        self._buffers.begin()
        self.optimiser.zero_grad(set_to_none=True)

    def forward(self, image: Tensor, last: bool) -> Tensor:
        # DDP decides in the forward whether the backward will send gradients. Workers may have unlike numbers of
        # micro-batches: all of them send once, with the last.
        with contextlib.nullcontext() if last or self._ddp is None else self._ddp.no_sync():
            return self._network(image)

    def backward(self, loss: Tensor, last: bool) -> None:
        self.update.backward(loss)

    def step(self, lr: float, n_valid: int) -> None:
        self._buffers.start()
        count = collectives.sum_(torch.tensor(float(n_valid)))
        self.update(lr, float(count))
        self._buffers.finish()


class Update:
    """What every engine does with a loss and, once the gradients are summed, with them: mean over the valid rows,
    unscale, clip, optimiser step. `times`: a factor of the loss that the engine takes back."""

    def __init__(self, config: Config, model: nn.Module, optimiser: torch.optim.Optimizer, *, times: int = 1) -> None:
        self._optimiser = optimiser
        self._parameters = [p for p in model.parameters() if p.requires_grad]
        self._global_batch = config.train.global_batch
        self._clip_norm, self._clip_value = config.train.clip_norm, config.train.clip_value
        device = self._parameters[0].device
        self.scaler = torch.amp.GradScaler(device.type) if config.train.precision == "fp16" else None
        self._share = torch.tensor(times / self._global_batch, device=device)

    def backward(self, loss: Tensor) -> None:
        # What backward starts from, instead of 1: cheaper than a division in the graph.
        loss.backward(gradient=self.scaler.scale(self._share) if self.scaler else self._share)

    @torch.no_grad()
    def __call__(self, lr: float, count: Tensor | float) -> None:
        """`count`: valid rows over all workers, a number or a tensor of shape () on the device."""
        # A parameter that nothing used gets the same update whatever the engine and the number of workers.
        for parameter in self._parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        if self.scaler:
            self.scaler.unscale_(self._optimiser)
        self._correct_for_masked_rows(count)
        if self._clip_value:
            nn.utils.clip_grad_value_(self._parameters, self._clip_value)
        if self._clip_norm:
            nn.utils.clip_grad_norm_(self._parameters, self._clip_norm)
        optim.set_lr(self._optimiser, lr)
        if self.scaler:
            self.scaler.step(self._optimiser)
            self.scaler.update()
        else:
            self._optimiser.step()

    def _correct_for_masked_rows(self, count: Tensor | float) -> None:
        if isinstance(count, Tensor) and count.device.type != "cpu":
            factor: Any = self._global_batch / count.clamp(min=1)  # stays on the device: no wait in the step
        elif float(count) == self._global_batch:
            return
        else:
            factor = self._global_batch / max(1.0, float(count))
        torch._foreach_mul_([p.grad for p in self._parameters if p.grad is not None], factor)


class Buffers:
    """Averages the model's floating-point buffers (BatchNorm's running statistics) over the workers, once a step.

    The replicas so stay equal at every step, and evaluating or saving never has to touch the training state. What is
    averaged is the change since `begin`: a buffer that no worker changes keeps its bits, where the mean of three equal
    numbers would be off by a rounding error in every step.
    """

    def __init__(self, model: nn.Module) -> None:
        alone = collectives.world_size() == 1
        self._buffers = [] if alone else [b for b in model.buffers() if b.is_floating_point()]
        self._pending = collectives.Pending(None)

    @torch.no_grad()
    def begin(self) -> None:
        if self._buffers:
            self._before = self._flat()

    @torch.no_grad()
    def start(self) -> None:
        if self._buffers:
            now = self._flat()
            self._change = torch.where(now == self._before, 0, now - self._before)  # infinities have no difference
            self._pending = collectives.start_sum(self._change)

    @torch.no_grad()
    def finish(self) -> None:
        if self._buffers:
            self._pending.wait()
            mean = self._before.add_(self._change, alpha=1 / collectives.world_size())
            parts = mean.split([b.numel() for b in self._buffers])
            torch._foreach_copy_(self._buffers, [p.view_as(b) for p, b in zip(parts, self._buffers)])

    def _flat(self) -> Tensor:
        return torch.cat([b.reshape(-1) for b in self._buffers])
