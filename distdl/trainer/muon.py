"""Muon: momentum whose update is made orthogonal, for the matrices inside a network (Jordan et al. 2024).

A convolution is the matrix (out, in * height * width). The orthogonal factor of the momentum is found by Newton-Schulz
steps, in bf16 on an accelerator; matrices of one shape go through them together. What is no such matrix stands in a
group with `orthogonal: False` and is updated by AdamW. Published at https://kellerjordan.github.io/posts/muon.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from distdl.errors import UserError, did_you_mean
from distdl.trainer.foreach import adam_direction, buffers, weights_and_gradients

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # Jordan's, for a steep slope at 0
_SCALES = {  # of the update of a matrix (rows, columns); the names are those of torch.optim.Muon
    # An update as large as AdamW's, so that both kinds of parameters share a rate (Liu et al. 2025, equation 4).
    "match_rms_adamw": lambda rows, columns: 0.2 * max(rows, columns) ** 0.5,
    "original": lambda rows, columns: max(1.0, rows / columns) ** 0.5,
}


class Muon(torch.optim.Optimizer):
    """`adjust_lr_fn`: how an update is scaled by the shape of its matrix, match_rms_adamw or original (Jordan's).

    `betas` and `eps` are AdamW's. Weight decay is decoupled in both. Raises UserError for another `adjust_lr_fn`.
    """

    def __init__(
        self,
        params: Any,
        lr: float,
        momentum: float,
        betas: tuple[float, float],
        eps: float,
        weight_decay: float = 0.0,
        nesterov: bool = True,
        ns_steps: int = 5,
        adjust_lr_fn: str = "match_rms_adamw",
    ) -> None:
        if adjust_lr_fn not in _SCALES:
            raise UserError(
                f"muon has no adjust_lr_fn '{adjust_lr_fn}'{did_you_mean(adjust_lr_fn, _SCALES)}",
                where="optim.args",
                fix=f"It has: {', '.join(_SCALES)}.",
            )
        self._nesterov, self._ns_steps, self._scale = nesterov, ns_steps, _SCALES[adjust_lr_fn]
        given = {"lr": lr, "momentum": momentum, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, {**given, "orthogonal": True})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]  # without a closure
        for group in self.param_groups:
            weights, gradients = weights_and_gradients(group)
            if not weights:
                continue
            updates: Sequence[Tensor]
            if group["orthogonal"]:
                updates = self._orthogonal(weights, gradients, group["momentum"])
            else:
                updates = adam_direction(self.state, weights, gradients, group["betas"], group["eps"])
            torch._foreach_mul_(weights, 1 - group["lr"] * group["weight_decay"])
            torch._foreach_add_(weights, list(updates), alpha=-group["lr"])

    def _orthogonal(self, weights: list[Tensor], gradients: list[Tensor], momentum: float) -> list[Tensor]:
        averages = buffers(self.state, "momentum_buffer", weights)
        torch._foreach_lerp_(averages, gradients, 1 - momentum)
        updates = torch._foreach_lerp(gradients, averages, momentum) if self._nesterov else averages
        by_shape: dict[torch.Size, dict[int, Tensor]] = {}
        for number, update in enumerate(updates):
            matrix = update.flatten(1)
            by_shape.setdefault(matrix.shape, {})[number] = matrix
        found = list(updates)
        for shape, matrices in by_shape.items():
            orthogonal = orthogonalise(torch.stack(list(matrices.values())), self._ns_steps) * self._scale(*shape)
            for number, matrix in zip(matrices, orthogonal):
                found[number] = matrix.reshape(weights[number].shape)
        return found


def orthogonalise(matrices: Tensor, n_steps: int) -> Tensor:
    """Nearly U V^T for each U S V^T of shape (n, rows, columns): after 5 steps their singular values are about 1.

    X becomes a X + (b X X^T + c (X X^T)^2) X in each step, and begins at norm 1.
    """
    a, b, c = _COEFFICIENTS
    x = matrices / matrices.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    is_tall = x.size(1) > x.size(2)
    if is_tall:
        x = x.mT
    if x.device.type != "cpu":
        x = x.bfloat16()
    for _ in range(n_steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.mT if is_tall else x).to(matrices.dtype)
