"""Regression: numbers from an image. outputs: (rows, values); label: (rows, values), fp32.

Metrics: `mae`, the mean absolute error, and `r2`, the share of the variance that is explained, a mean over the values.
"""

import math
from collections.abc import Callable, Mapping, Sequence

from torch import Tensor
from torch.nn import functional

from distdl.data import labels
from distdl.data.labels import LabelSpec
from distdl.errors import UserError, did_you_mean
from distdl.tasks.checks import check_outputs

Batch = dict[str, Tensor]

LOSSES: dict[str, Callable[..., Tensor]] = {
    "mse": functional.mse_loss,
    "l1": functional.l1_loss,
    "huber": functional.huber_loss,
}


class Regress:
    """`loss`: mse, l1 or huber (Huber 1964; quadratic up to an error of 1). `values`: their number, where it can't be
    told from the network."""

    metric_names = ("mae", "r2")
    lower_is_better = frozenset({"loss", "mae"})

    def __init__(self, loss: str = "mse", values: int | None = None) -> None:
        if loss not in LOSSES:
            raise UserError(
                f"unknown loss '{loss}'{did_you_mean(str(loss), LOSSES)}",
                where="task.args.loss",
                fix=f"It is one of: {', '.join(LOSSES)}.",
            )
        self._loss, self.values = LOSSES[loss], values

    def label(self, n_outputs: int | None) -> LabelSpec:
        n_values = self.values or n_outputs
        if n_values is None:
            raise UserError("the number of values is not known", where="task.args", fix="Set task.args.values.")
        return labels.numbers(n_values)

    def loss(self, outputs_BK: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Sum over the valid rows of the mean over values, and the number of these rows, both of shape ()."""
        check_outputs(outputs_BK, batch["label"], "regress")
        loss_BK = self._loss(outputs_BK.float().view_as(batch["label"]), batch["label"], reduction="none")
        return (loss_BK.mean(dim=1) * batch["valid"]).sum(), batch["valid"].sum()

    def metrics(self, outputs_BK: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Sums in fp64, those of a shape (values,) for r2."""
        valid_B1 = batch["valid"].double()[:, None]
        label_BK = batch["label"].double() * valid_B1
        error_BK = (outputs_BK.double().view_as(label_BK) - batch["label"]) * valid_B1
        return {
            "mae": error_BK.abs().mean(dim=1).sum(),
            "error_squared": error_BK.square().sum(dim=0),
            "label": label_BK.sum(dim=0),
            "label_squared": label_BK.square().sum(dim=0),
        }

    def finish(self, means: Mapping[str, Sequence[float]], count: int, rows: Mapping[str, Tensor]) -> dict[str, float]:
        """r2 = 1 - (mean squared error) / (variance of the label), a mean over the values; NaN without a variance."""
        columns = zip(means["error_squared"], means["label"], means["label_squared"])
        shares = [1 - error / (square - mean**2) if square > mean**2 else math.nan for error, mean, square in columns]
        return {"r2": math.fsum(shares) / len(shares)}
