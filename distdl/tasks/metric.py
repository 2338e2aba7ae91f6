"""Metric learning: the triplet loss on embeddings beside the cross-entropy of classify, with the same metrics.

outputs: logits (rows, classes), and next to them in training an embedding of unit length, (rows, classes + length). So
does the zoo's `facenet`, as in this config:

    model: {name: facenet, args: {classes: 8631, append_embedding: true}}
    task: {name: metric, args: {classes: 8631}}
    data: {train: {folder: data/faces}, lanes: 16, window: 16}

A folder has a person's pictures one after another, and few lanes with short windows leave them so: 16 rows of a batch
of 256 are neighbours.
"""

import torch
from torch import Tensor

from distdl.data import labels
from distdl.data.labels import IGNORED, LabelSpec
from distdl.errors import UserError
from distdl.tasks.classify import Classify

Batch = dict[str, Tensor]


class Metric:
    """`margin` and `weight` of the triplet loss; 0.2 is the paper's margin. Its triplets are of one micro-batch on one
    worker, which should thus hold several pictures of each person (Schroff et al. 2015, section 3.2: about 40)."""

    metric_names = Classify.metric_names
    learns_from_mixtures = False  # of two images: a triplet is of one person's and of another's
    lower_is_better = Classify.lower_is_better

    def __init__(self, classes: int, margin: float = 0.2, weight: float = 1.0, label_smoothing: float = 0.0) -> None:
        for name, number in {"margin": margin, "weight": weight}.items():
            if not isinstance(number, int | float) or number < 0:
                raise UserError(f"{number!r} is not a number from 0 on", where=f"task.args.{name}")
        if not isinstance(classes, int) or classes < 1:
            raise UserError(f"{classes!r} is not a whole number of at least 1", where="task.args.classes")
        self.classes, self.margin, self.weight = classes, margin, weight
        self._classify = Classify(label_smoothing)

    def label(self, n_outputs: int | None) -> LabelSpec:
        return labels.class_number(self.classes)

    def loss(self, outputs_BX: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Sum over the valid rows of cross-entropy + weight * triplet loss, and their number, both of shape ()."""
        loss, count = self._classify.loss(self._logits(outputs_BX), batch)
        embedding_BD = outputs_BX[:, self.classes :]
        if torch.is_grad_enabled() and not embedding_BD.shape[1]:  # in evaluation there is none
            raise UserError(
                "the network gives no embeddings, from which triplets are made",
                where="task.name: metric",
                fix="Set model.args.append_embedding=true, if it is facenet.",
            )
        if embedding_BD.shape[1]:
            loss = loss + self.weight * triplet_loss(embedding_BD, batch["label"], self.margin).sum()
        return loss, count

    def metrics(self, outputs_BX: Tensor, batch: Batch) -> dict[str, Tensor]:
        return self._classify.metrics(self._logits(outputs_BX), batch)

    def _logits(self, outputs_BX: Tensor) -> Tensor:
        if outputs_BX.shape[1] < self.classes:
            raise UserError(
                f"the network gives {outputs_BX.shape[1]} values for a sample, fewer than there are classes",
                where="task.args.classes",
                fix="Set task.args.classes to the network's number of classes.",
            )
        return outputs_BX[:, : self.classes]


def triplet_loss(embedding_BD: Tensor, label_B: Tensor, margin: float = 0.2) -> Tensor:
    """Semi-hard triplets of a batch (Schroff et al. 2015, equation 3, section 3.2) -> for each row as the anchor, the
    mean over its positives of max(0, d(anchor, positive) - d(anchor, negative) + margin), fp32 (B,).

    d is the squared distance. A pair's negative is the nearest of those that are farther from the anchor than the
    positive is; where all are nearer, the farthest of them, since the nearest one would make training collapse. Rows
    whose label is IGNORED take no part, and those without a positive or without a negative have a loss of 0.
    """
    distance_BB = _squared_distances(embedding_BD.float())
    counts_B = label_B != IGNORED
    both_count_BB = counts_B[:, None] & counts_B
    same_BB = label_B[:, None] == label_B
    itself_BB = torch.eye(len(label_B), dtype=torch.bool, device=label_B.device)
    is_negative_BB = both_count_BB & ~same_BB
    n_negatives_B1 = is_negative_BB.sum(1, keepdim=True)
    is_pair_BB = both_count_BB & same_BB & ~itself_BB & (n_negatives_B1 > 0)

    # In each row the negatives by distance, then infinities: a positive's place among them is that of its negative.
    negatives_BB = distance_BB.masked_fill(~is_negative_BB, torch.inf).sort(dim=1).values
    place_BB = torch.searchsorted(negatives_BB.detach(), distance_BB.detach(), right=True)
    negative_BB = negatives_BB.gather(1, place_BB.minimum(n_negatives_B1 - 1).clamp(min=0))
    loss_BB = torch.where(is_pair_BB, (distance_BB - negative_BB + margin).relu(), 0.0)
    return loss_BB.sum(1) / is_pair_BB.sum(1).clamp(min=1)


def _squared_distances(embedding_BD: Tensor) -> Tensor:
    """(B, B) of rows of unit length: |a - b|^2 = 2 - 2 a.b."""
    with torch.autocast(embedding_BD.device.type, enabled=False):  # in bf16, near ones would all be at 0
        return 2 - 2 * embedding_BD @ embedding_BD.T
