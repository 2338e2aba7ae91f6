"""Gaussian noise as a regulariser: on the input, on the weights, on the gradients.

Every draw comes from a generator of its own, seeded by what it is for: a resumed run draws the same, and noise that is
switched on changes no draw of dropout. Weights and gradients get the same noise on all workers, so that these stay
replicas of each other; that holds where their devices are of one model, since draws on a GPU depend on its size.
"""

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from distdl.config.schema import NoiseConfig
from distdl.data.order import seed_of

_INPUT, _WEIGHTS, _GRADIENTS = 11, 12, 13  # purposes of draws, as in seed_of(seed, purpose, step, ...)


class Noise:
    """Owns the generator of the device that the model is on. What has size 0 costs nothing."""

    def __init__(self, config: NoiseConfig, model: nn.Module, seed: int) -> None:
        self._config, self._seed = config, seed
        self._parameters = [p for p in model.parameters() if p.requires_grad]
        self._generator = torch.Generator(self._parameters[0].device)

    def input(self, image: Tensor, step: int, part: int, begin: int) -> Tensor:
        """A noisy copy of the normalised `image` of a micro-batch whose first row is row `begin` of its part of the
        batch."""
        if not self._config.input:
            return image
        self._seed_by(_INPUT, step, part, begin)
        return self._draw(image, self._config.input).add_(image)

    @contextlib.contextmanager
    def weights(self, step: int) -> Iterator[None]:
        """Within it the network computes, forward and backward, with noisy copies of its weights (Graves 2011,
        "Practical variational inference for neural networks"). The weights themselves are never written to."""
        if not self._config.weight:
            yield
            return
        exact = [parameter.data for parameter in self._parameters]
        self._seed_by(_WEIGHTS, step)
        try:
            for parameter in self._parameters:
                parameter.data = self._draw(parameter, self._config.weight).add_(parameter.data)
            yield
        finally:
            for parameter, weights in zip(self._parameters, exact):
                parameter.data = weights

    def gradients_(self, step: int) -> None:
        """Adds noise of variance eta / (1 + step) ** 0.55 to the summed gradients (Neelakantan et al. 2015, "Adding
        gradient noise improves learning for very deep networks", equation 1)."""
        if not self._config.gradient:
            return
        deviation = (self._config.gradient / (1 + step) ** 0.55) ** 0.5
        self._seed_by(_GRADIENTS, step)
        for parameter in self._parameters:
            if parameter.grad is not None:
                parameter.grad.add_(self._draw(parameter.grad, deviation))

    def _seed_by(self, *key: int) -> None:
        self._generator.manual_seed(seed_of(self._seed, *key))

    def _draw(self, like: Tensor, deviation: float) -> Tensor:
        """Noise of that shape and memory format."""
        return torch.empty_like(like.detach()).normal_(0, deviation, generator=self._generator)
