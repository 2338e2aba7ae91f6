"""Averages of the weights over the steps, evaluated in their place: exponential, or equal from some step on.

Each step moves every average towards the weights by a share that is a function of the step alone, so that a resumed run
needs the averages and nothing else. Floating-point buffers are averaged alike (as timm does): batch norm's running
statistics then fit the averaged weights.
"""

import contextlib
import math
from collections.abc import Callable, Iterator

import torch
from torch import nn

from distdl.config.schema import TrainConfig
from distdl.config.values import parse_period
from distdl.data.order import Plan


def build(config: TrainConfig, model: nn.Module, plan: Plan) -> "AveragedWeights | None":
    if config.ema is not None:
        return AveragedWeights(model, exponential(config.ema))
    if config.average_from is not None:
        amount, unit = parse_period(config.average_from)
        begin = int(amount) if unit == "steps" else plan.n_steps(0, math.ceil(amount * plan.epoch_length - 1e-9))
        return AveragedWeights(model, equal(begin))
    return None


def exponential(decay: float) -> Callable[[int], float]:
    """What the weights count after update `step`, from 0. The decay warms up: min(decay, (1 + step) / (10 + step))."""
    return lambda step: 1 - min(decay, (1 + step) / (10 + step))


def equal(begin: int) -> Callable[[int], float]:
    """The running mean of the weights after update number `begin` and each one since: Polyak & Juditsky 1992, Izmailov
    et al. 2018 (SWA). Before it, the weights themselves."""
    return lambda step: 1 / (max(0, step - begin) + 1)


class AveragedWeights:
    """`averages`: by the names of the model's state_dict; they begin at the weights."""

    def __init__(self, model: nn.Module, share: Callable[[int], float]) -> None:
        self._share = share
        # What is not finite is a constant, such as a mask, and has no mean.
        live = {
            name: tensor
            for name, tensor in model.state_dict(keep_vars=True).items()
            if tensor.is_floating_point() and tensor.isfinite().all()
        }
        averages = {tensor: tensor.detach().clone() for tensor in live.values()}  # a tied weight has one
        self._live, self._averages = list(averages), list(averages.values())
        self.averages = {name: averages[tensor] for name, tensor in live.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """After update number `step` of the weights, counted from 0."""
        torch._foreach_lerp_(self._averages, [tensor.detach() for tensor in self._live], self._share(step))

    @contextlib.contextmanager
    def in_place_of_weights(self) -> Iterator[None]:
        """Within it the model computes with the averages."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def _swap(self) -> None:
        for tensor, average in zip(self._live, self._averages):
            tensor.data, average.data = average.data, tensor.data
