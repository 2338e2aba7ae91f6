"""Adversarial training by the fast gradient sign method (Goodfellow, Shlens and Szegedy 2015, "Explaining and
harnessing adversarial examples", sections 4 and 6): every image is moved, each pixel by at most epsilon, in the
direction that raises its loss, and the network learns from the images and the moved ones alike, in one forward.
"""

import contextlib
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from distdl.data.pictures.transforms import Normalise

_SCALE = 2.0**8  # of the loss: only the gradient's sign counts, and fp16 rounds its small values to 0


def examples(
    model: nn.Module, image_NCHW: Tensor, batch: dict[str, Tensor], task: Any, epsilon: float, normalise: Normalise
) -> Tensor:
    """The images, moved by `epsilon` (white is 1) before their normalisation, and no further than from black to white.

    The gradient is that of the network in evaluation mode: no running statistics move, and nothing is dropped. No
    parameter gets a gradient.
    """
    image_NCHW = image_NCHW.detach().requires_grad_()
    with _evaluating(model):
        loss, _ = task.loss(model(image_NCHW), batch)
    with torch.autocast(image_NCHW.device.type, enabled=False):
        (gradient_NCHW,) = torch.autograd.grad(loss, image_NCHW, torch.full_like(loss, _SCALE))
    black, white = _range(normalise, image_NCHW.device)
    moved_NCHW = image_NCHW.detach() + gradient_NCHW.sign() * (epsilon * (white - black))
    return torch.clamp(moved_NCHW, black, white)


def mixed_loss(task: Any, outputs: Tensor, batch: dict[str, Tensor], weight: float) -> tuple[Tensor, Tensor]:
    """`outputs` of the n images and then of their n examples -> the sum of (1 - weight) times the loss of the images
    and `weight` times that of the examples (the paper's section 6), and the number of valid rows, both of shape ()."""
    of_images, of_examples = outputs.chunk(2)
    loss, count = task.loss(of_images, batch)
    loss_of_examples, _ = task.loss(of_examples, batch)
    return torch.lerp(loss, loss_of_examples, weight), count


@contextlib.contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode; then each module is back in the mode that it was in."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


@lru_cache
def _range(normalise: Normalise, device: torch.device) -> tuple[Tensor, Tensor]:
    """Black and white after normalisation, both (1, C, 1, 1)."""
    mean, std = (torch.tensor(each, device=device).view(1, -1, 1, 1) for each in (normalise.mean, normalise.std))
    return -mean / std, (1 - mean) / std
