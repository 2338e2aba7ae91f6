"""What lars, lamb and muon share: many tensors in one call, and a state for each weight by itself.

As no weight's state depends on another's, weights can be updated all at once or a part at a time.
"""

from collections.abc import MutableMapping
from typing import Any

import torch
from torch import Tensor

States = MutableMapping[Any, dict[str, Any]]  # of an optimiser: weight -> key -> value


def weights_and_gradients(group: dict[str, Any]) -> tuple[list[Tensor], list[Tensor]]:
    """Those of a parameter group that have a gradient."""
    weights = [p for p in group["params"] if p.grad is not None]
    return weights, [p.grad for p in weights]


def buffers(states: States, key: str, weights: list[Tensor]) -> list[Tensor]:
    """A tensor of each weight's state, which begins as zeros."""
    for w in weights:
        if key not in states[w]:
            states[w][key] = torch.zeros_like(w)
    return [states[w][key] for w in weights]


def norms(tensors: list[Tensor] | tuple[Tensor, ...]) -> Tensor:
    """The Euclidean norm of each of n tensors, shape (n,)."""
    return torch.stack(torch._foreach_norm(tensors))


def adam_direction(
    states: States, weights: list[Tensor], gradients: list[Tensor], betas: tuple[float, float], eps: float
) -> tuple[Tensor, ...]:
    """m / (sqrt(v) + eps) of Adam, both corrected for their bias (Kingma and Ba 2015, algorithm 1)."""
    beta1, beta2 = betas
    first, second = buffers(states, "exp_avg", weights), buffers(states, "exp_avg_sq", weights)
    for w in weights:
        states[w]["step"] = states[w].get("step", 0) + 1
    torch._foreach_lerp_(first, gradients, 1 - beta1)
    torch._foreach_mul_(second, beta2)
    torch._foreach_addcmul_(second, gradients, gradients, 1 - beta2)
    denominators = torch._foreach_div(second, [1 - beta2 ** states[w]["step"] for w in weights])
    torch._foreach_sqrt_(denominators)
    torch._foreach_add_(denominators, eps)
    directions = torch._foreach_div(first, [1 - beta1 ** states[w]["step"] for w in weights])
    torch._foreach_div_(directions, denominators)
    return directions
