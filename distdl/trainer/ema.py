"""Exponential moving average of the weights, evaluated in their place (Polyak averaging with exponential decay)."""

import contextlib
from collections.abc import Iterator

import torch
from torch import nn


class Ema:
    """The decay warms up as min(decay, (1 + step) / (10 + step)), a pure function of the step."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.parameters = dict(model.named_parameters())
        self.averages = {name: p.detach().clone() for name, p in self.parameters.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        weight = 1 - min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(self.averages.values()), [p.detach() for p in self.parameters.values()], weight)

    @contextlib.contextmanager
    def in_place_of_weights(self) -> Iterator[None]:
        """Within it the model computes with the averages."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def _swap(self) -> None:
        for name, parameter in self.parameters.items():
            parameter.data, self.averages[name] = self.averages[name], parameter.data
