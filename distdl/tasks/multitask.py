"""Several questions about one picture, each with classes of its own: multi-task learning with hard parameter sharing
(Caruana 1997, "Multitask learning"). outputs: logits (rows, the sum of all heads' classes), head after head.

Linear heads on shared features are the rows of one matrix: any network with that many classes has them, and a task is
all that it takes. A label has a class number for each head, in their order: "3 0", made of two numbers in a component
such as `cls`.
"""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional

from distdl.data import labels
from distdl.data.labels import IGNORED, LabelSpec
from distdl.errors import UserError

Batch = dict[str, Tensor]


class Multitask:
    """`heads`: name -> number of classes, such as {colour: 8, make: 196}; the network has as many outputs as their sum.

    `weights`: of the heads' losses in their sum, 1 where none is given. Metrics: `top1_NAME` of each head, and
    `accuracy`, the mean over heads.
    """

    lower_is_better = frozenset({"loss"})

    def __init__(
        self, heads: Mapping[str, int], label_smoothing: float = 0.0, weights: Mapping[str, float] | None = None
    ) -> None:
        _check_heads(heads)
        if not isinstance(weights or {}, Mapping):
            raise UserError(
                f"{weights!r} is no mapping", where="task.args.weights", fix="Such as {colour: 1.0, make: 0.5}."
            )
        given = dict(weights or {})
        self.heads, self.label_smoothing = dict(heads), label_smoothing
        self.weights = {name: given.pop(name, 1.0) for name in heads}
        self.metric_names = ("accuracy", *(f"top1_{name}" for name in heads))
        numbers = all(isinstance(weight, int | float) and weight >= 0 for weight in self.weights.values())
        if given or not numbers:
            raise UserError(
                f"there is no head '{next(iter(given))}'" if given else "a weight is a number from 0 on",
                where="task.args.weights",
                fix=f"The heads are {', '.join(heads)}.",
            )

    def label(self, n_outputs: int | None) -> LabelSpec:
        """A vector (heads,) of class numbers."""
        return labels.class_numbers(list(self.heads.values()))

    def loss(self, outputs_BC: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Sum over the valid rows of the weighted sum of the heads' cross-entropies, and the number of these rows."""
        total = outputs_BC.new_zeros((), dtype=outputs_BC.float().dtype)
        for (name, logits_BC), label_B in zip(self._of_heads(outputs_BC), batch["label"].unbind(1)):
            total = total + self.weights[name] * functional.cross_entropy(
                logits_BC.float(),
                label_B,
                reduction="sum",
                ignore_index=IGNORED,
                label_smoothing=self.label_smoothing,
            )
        return total, batch["valid"].sum()

    def metrics(self, outputs_BC: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Number of valid rows whose class is the best of its head, and the mean of these numbers."""
        hits = {
            f"top1_{name}": (logits_BC.argmax(1) == label_B).sum()
            for (name, logits_BC), label_B in zip(self._of_heads(outputs_BC), batch["label"].unbind(1))
        }
        return {"accuracy": torch.stack(list(hits.values())).double().mean(), **hits}

    def _of_heads(self, outputs_BC: Tensor) -> list[tuple[str, Tensor]]:
        n_classes = sum(self.heads.values())
        if outputs_BC.shape[1] != n_classes:
            raise UserError(
                f"the network gives {outputs_BC.shape[1]} values for a sample, the heads have {n_classes} classes",
                where="task.args.heads",
                fix=f"Set model.args.classes={n_classes}.",
            )
        return list(zip(self.heads, outputs_BC.split(list(self.heads.values()), dim=1)))


def _check_heads(heads: Mapping[str, int]) -> None:
    sizes = list(heads.values()) if isinstance(heads, Mapping) else []
    if not sizes or any(isinstance(size, bool) or not isinstance(size, int) or size < 1 for size in sizes):
        raise UserError(
            f"{heads!r} does not say how many classes each head has",
            where="task.args.heads",
            fix="Such as {colour: 8, make: 196}.",
        )
