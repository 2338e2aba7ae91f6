"""LAMB: Adam, in which each layer's update is scaled to the norm of its weights (You et al. 2020, algorithm 2).

With the bias correction, and with the identity for the paper's phi. Norms and biases, on which weight decay does not
act, get Adam's update as it is. Where a recipe clips the gradient first, train.clip_norm does.
"""

from typing import Any

import torch

from distdl.trainer.foreach import adam_direction, norms, weights_and_gradients


class Lamb(torch.optim.Optimizer):
    """A group with `decays: False` is not scaled."""

    def __init__(
        self, params: Any, lr: float, betas: tuple[float, float], eps: float, weight_decay: float = 0.0
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "decays": True})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]  # without a closure
        for group in self.param_groups:
            weights, gradients = weights_and_gradients(group)
            if not weights:
                continue
            updates = adam_direction(self.state, weights, gradients, group["betas"], group["eps"])
            torch._foreach_add_(updates, weights, alpha=group["weight_decay"])
            if group["decays"]:
                weight_norm, update_norm = norms(weights), norms(updates)
                ratio = torch.where((weight_norm > 0) & (update_norm > 0), weight_norm / update_norm, 1.0)
                torch._foreach_mul_(updates, ratio.unbind())
            torch._foreach_add_(weights, updates, alpha=-group["lr"])
