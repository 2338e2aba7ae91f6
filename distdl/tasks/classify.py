"""Classification: cross-entropy, and top-1 / top-5 accuracy. outputs: logits (rows, classes)."""

from torch import Tensor
from torch.nn import functional

from distdl.data.engine import IGNORED

Batch = dict[str, Tensor]


class Classify:
    """`label_smoothing`: the share of each target spread evenly over all classes (Szegedy et al. 2015, section 7)."""

    metric_names = ("top1", "top5")
    lower_is_better = frozenset({"loss"})

    def __init__(self, label_smoothing: float = 0.0) -> None:
        self.label_smoothing = label_smoothing

    def loss(self, outputs_BC: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Sum of the loss over the valid rows (the others have IGNORED as label) and their number, both of shape ()."""
        loss = functional.cross_entropy(
            outputs_BC.float(),
            batch["label"],
            reduction="sum",
            ignore_index=IGNORED,
            label_smoothing=self.label_smoothing,
        )
        return loss, batch["valid"].sum()

    def metrics(self, outputs_BC: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Number of valid rows whose label is the best, or among the best five (all classes if fewer)."""
        k = min(5, outputs_BC.shape[1])
        hits_BK = outputs_BC.float().topk(k, dim=1).indices == batch["label"][:, None]
        return {"top1": hits_BK[:, 0].sum(), "top5": hits_BK.any(dim=1).sum()}
