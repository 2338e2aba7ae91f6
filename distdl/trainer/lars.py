"""LARS: SGD with momentum, in which each layer has a rate of its own (You, Gitman and Ginsburg 2017, algorithm 1).

The rate of a layer is in proportion to the norm of its weights over that of its gradient, so that a large batch can be
trained at a large rate. Norms and biases, on which weight decay does not act, keep the global rate, as in MLPerf.
"""

from typing import Any

import torch
from torch import Tensor

from distdl.trainer.foreach import buffers, norms, weights_and_gradients


class Lars(torch.optim.Optimizer):
    """`trust_coefficient`: eta of the paper. As there, the rate goes into the momentum buffer, not out of it.

    A group with `decays: False` is not adapted.
    """

    def __init__(
        self, params: Any, lr: float, momentum: float, weight_decay: float = 0.0, trust_coefficient: float = 0.001
    ) -> None:
        given = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "trust_coefficient": trust_coefficient}
        super().__init__(params, {**given, "decays": True})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]  # without a closure
        for group in self.param_groups:
            weights, gradients = weights_and_gradients(group)
            if not weights:
                continue
            updates = torch._foreach_add(gradients, weights, alpha=group["weight_decay"])
            if group["decays"]:
                torch._foreach_mul_(updates, _ratios(weights, gradients, group).unbind())
            momentum = buffers(self.state, "momentum_buffer", weights)
            torch._foreach_mul_(momentum, group["momentum"])
            torch._foreach_add_(momentum, updates, alpha=group["lr"])
            torch._foreach_sub_(weights, momentum)


def _ratios(weights: list[Tensor], gradients: list[Tensor], group: dict[str, Any]) -> Tensor:
    """The local rate of n layers (equation 6), shape (n,); 1 for a layer of zeros or without a gradient."""
    weight_norm, gradient_norm = norms(weights), norms(gradients)
    ratio = group["trust_coefficient"] * weight_norm / (gradient_norm + group["weight_decay"] * weight_norm)
    return torch.where((weight_norm > 0) & (gradient_norm > 0), ratio, 1.0)
