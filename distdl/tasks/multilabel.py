"""Several classes at once: binary cross-entropy for each. outputs: logits (rows, classes); label: 0 or 1 for each.

Metrics: `mAP`, the mean over classes of the average precision, and `f1`, of all decisions taken together (micro) at a
probability of 0.5.
"""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
from torch import Tensor
from torch.nn import functional

from distdl.data import labels
from distdl.data.labels import LabelSpec
from distdl.errors import UserError
from distdl.tasks.checks import check_outputs

Batch = dict[str, Tensor]


class Multilabel:
    """`classes`: their number, where it can't be told from the network."""

    metric_names = ("mAP", "f1")
    lower_is_better = frozenset({"loss"})

    def __init__(self, classes: int | None = None) -> None:
        self.classes = classes

    def label(self, n_outputs: int | None) -> LabelSpec:
        """A vector (classes,) of zeros and ones, written as the numbers of the classes that apply."""
        n_classes = self.classes or n_outputs
        if n_classes is None:
            raise UserError("the number of classes is not known", where="task.args", fix="Set task.args.classes.")
        return labels.class_set(n_classes)

    def loss(self, outputs_BC: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Sum over the valid rows of the mean over classes, and the number of these rows, both of shape ()."""
        check_outputs(outputs_BC, batch["label"], "multilabel")
        loss_BC = functional.binary_cross_entropy_with_logits(outputs_BC.float(), batch["label"], reduction="none")
        return (loss_BC.mean(dim=1) * batch["valid"]).sum(), batch["valid"].sum()

    def metrics(self, outputs_BC: Tensor, batch: Batch) -> dict[str, Tensor]:
        said_BC, true_BC = outputs_BC > 0, batch["label"] > 0.5
        counts_BC = batch["valid"][:, None].bool()
        return {
            "hits": (said_BC & true_BC & counts_BC).sum(),
            "said": (said_BC & counts_BC).sum(),
            "true": (true_BC & counts_BC).sum(),
        }

    def rows(self, outputs_BC: Tensor, batch: Batch) -> dict[str, Tensor]:
        return {"score": outputs_BC, "label": batch["label"]}

    def finish(self, means: Mapping[str, float], count: int, rows: Mapping[str, Tensor]) -> dict[str, float]:
        """mAP is over the classes that have a positive, NaN if none has; f1 is 0 where nothing is said or true."""
        precisions = [
            average_precision(score, label)
            for score, label in zip(rows["score"].numpy().T, rows["label"].numpy().T)
            if label.any()
        ]
        decided = means["said"] + means["true"]
        return {
            "mAP": float(np.mean(precisions)) if precisions else float("nan"),
            "f1": 2 * means["hits"] / decided if decided else 0.0,
        }


def average_precision(score: npt.NDArray[np.float32], label: npt.NDArray[np.float32]) -> float:
    """Sum over thresholds of (rise in recall) * precision, as scikit-learn's average_precision_score; both (rows,).

    Rows of equal score pass a threshold together. At least one label is 1.
    """
    order = np.argsort(-score)
    hits = np.cumsum(label[order], dtype=np.float64)
    last_of_equals = np.append(np.flatnonzero(np.diff(score[order])), len(score) - 1)
    hits = hits[last_of_equals]
    return float((np.diff(hits, prepend=0) / hits[-1] * hits / (last_of_equals + 1)).sum())
