"""Classification: cross-entropy, and top-1 / top-5 accuracy. outputs: logits (rows, classes), or in training those of
auxiliary heads behind the network's own, (rows, 1 + heads, classes)."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from distdl.data.labels import IGNORED
from distdl.errors import UserError

Batch = dict[str, Tensor]

_SMALLEST = 1e-8  # of 1 - p: a power below 1 has no gradient at 0


class Classify:
    """`label_smoothing`: the share of each target spread evenly over all classes (Szegedy et al. 2015, section 7).

    `class_weights`: a number for each class, or for some of them by class number, 1 for the others. They are scaled to
    a mean of 1, and the sum of weighted losses is divided by the number of rows: sums of any rows add up.
    `focal_gamma`: the focal loss (Lin et al. 2017, equation 4; 5 with class weights), without label smoothing.
    `auxiliary_weight`: of the loss of each auxiliary head (0.3: Szegedy et al. 2014, section 5; 0.4 for Inception-v3).
    """

    metric_names = ("top1", "top5")
    lower_is_better = frozenset({"loss"})

    def __init__(
        self,
        label_smoothing: float = 0.0,
        class_weights: Sequence[float] | Mapping[int | str, float] | None = None,
        focal_gamma: float = 0.0,
        auxiliary_weight: float = 0.3,
    ) -> None:
        if not isinstance(auxiliary_weight, int | float) or auxiliary_weight < 0:
            raise UserError(f"{auxiliary_weight} is not a number from 0 on", where="task.args.auxiliary_weight")
        if not isinstance(focal_gamma, int | float) or focal_gamma < 0:
            raise UserError(f"{focal_gamma} is not a number from 0 on", where="task.args.focal_gamma")
        if focal_gamma and label_smoothing:
            raise UserError("the focal loss is not defined for smoothed labels", where="task.args.focal_gamma")
        self.label_smoothing, self.focal_gamma, self.auxiliary_weight = label_smoothing, focal_gamma, auxiliary_weight
        self._given_weights = class_weights
        self._weights_C: Tensor | None = None

    def loss(self, outputs: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Sum of the loss over the valid rows (the others have IGNORED as label) and their number, both of shape ()."""
        if outputs.dim() < 3:
            return self._loss(outputs, batch), batch["valid"].sum()
        main, *heads = (self._loss(logits_BC, batch) for logits_BC in outputs.unbind(1))
        return main + self.auxiliary_weight * sum(heads), batch["valid"].sum()

    def _loss(self, outputs_BC: Tensor, batch: Batch) -> Tensor:
        logits_BC, label_B, weights_C = outputs_BC.float(), batch["label"], self._weights(outputs_BC)
        if not self.focal_gamma:
            return functional.cross_entropy(
                logits_BC,
                label_B,
                weight=weights_C,
                reduction="sum",
                ignore_index=IGNORED,
                label_smoothing=self.label_smoothing,
            )
        loss_B = functional.cross_entropy(logits_BC, label_B, reduction="none", ignore_index=IGNORED)
        doubt_B = (-torch.expm1(-loss_B)).clamp(min=_SMALLEST)  # 1 - p of the right class
        loss_B = doubt_B**self.focal_gamma * loss_B
        if weights_C is not None:
            loss_B = weights_C[label_B.clamp(min=0)] * loss_B  # 0 where the label is ignored
        return loss_B.sum()

    def metrics(self, outputs_BC: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Number of valid rows whose label is the best, or among the best five (all classes if fewer)."""
        k = min(5, outputs_BC.shape[1])
        hits_BK = outputs_BC.float().topk(k, dim=1).indices == batch["label"][:, None]
        return {"top1": hits_BK[:, 0].sum(), "top5": hits_BK.any(dim=1).sum()}

    def _weights(self, outputs_BC: Tensor) -> Tensor | None:
        """fp32 (C,) with mean 1, on the device of the outputs; made when the number of classes is known."""
        if self._given_weights is not None and self._weights_C is None:
            weights = _in_order(self._given_weights, outputs_BC.shape[1])
            mean = sum(weights) / len(weights)
            with torch.inference_mode(False):  # an evaluation may come first, and training uses it all the same
                self._weights_C = torch.tensor([weight / mean for weight in weights], device=outputs_BC.device)
        return self._weights_C


def _in_order(given: Sequence[float] | Mapping[int | str, float], n_classes: int) -> list[float]:
    """Raises UserError for weights of other classes than there are, and for negative ones."""
    if isinstance(given, Mapping):
        named = {str(name): weight for name, weight in given.items()}  # YAML's keys may be numbers or texts
        weights = [named.pop(str(number), 1.0) for number in range(n_classes)]
        unknown = list(named)
    else:
        weights, unknown = list(given) if isinstance(given, Sequence) else [], []
    numbers = all(isinstance(weight, int | float) and weight >= 0 for weight in weights)
    if unknown or len(weights) != n_classes or not numbers or not sum(weights):
        raise UserError(
            f"these are not weights of {n_classes} classes" + (f": there is no class {unknown[0]}" if unknown else ""),
            where="task.args.class_weights",
            fix="Give a number from 0 on for each class, or {class number: weight} for some.",
        )
    return weights
