"""A class for every frame, as acoustic models of hybrid systems learn it (Hinton et al. 2012): phonemes, or characters.

outputs and labels are those of distdl.tasks.ctc, without blanks: class 0 is silence, which begins and ends a sound
where there are frames enough. Which frame belongs to which unit is not in a corpus. A first run takes them to be
equally long; another one that goes on from it has the network itself align them anew in each step (Viterbi training:
Rabiner 1989, section III.B):

    distdl train CONFIG --name first                task: {name: frames, args: {vocabulary: {lexicon: FILE}}}
    distdl train CONFIG --name second --from first --weights-only task.args.alignment=model
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from distdl.data.labels import IGNORED, LabelSpec
from distdl.errors import UserError, did_you_mean
from distdl.speech.decoding.best_paths import best_paths
from distdl.speech.decoding.forced_alignment import monotonic, uniform
from distdl.speech.decoding.hypotheses import Hypothesis
from distdl.speech.search import log_probs
from distdl.speech.text import vocabulary as build_vocabulary
from distdl.tasks import ctc

Batch = dict[str, Tensor]
Outputs = tuple[Tensor, Tensor]

_SILENCE = 0
ALIGNMENTS = ("uniform", "model")


class Frames:
    """`vocabulary`: as ctc's. `alignment`: "uniform", or "model" for the network's own."""

    metric_names = ("frame_accuracy", "wer", "cer", "infeasible")
    lower_is_better = frozenset({"loss", "wer", "cer", "infeasible"})

    def __init__(self, vocabulary: Mapping[str, Any], alignment: str = "uniform") -> None:
        if alignment not in ALIGNMENTS:
            what = f"'{alignment}' is no way to align{did_you_mean(alignment, ALIGNMENTS)}"
            raise UserError(what, where="task.args.alignment", fix=f"Use one of {', '.join(ALIGNMENTS)}.")
        self.vocabulary, self.alignment = build_vocabulary(vocabulary, "task.args.vocabulary"), alignment

    def label(self, n_outputs: int | None) -> LabelSpec:
        """Raises UserError for a network with another number of classes than the vocabulary has, with silence."""
        return ctc.label_of(self.vocabulary, n_outputs)

    def frames_needed(self, label_BU: Tensor) -> Tensor:
        """int64 (rows,): one for each unit."""
        return label_BU[:, 0]

    def loss(self, outputs: Outputs, batch: Batch) -> tuple[Tensor, Tensor]:
        """The cross-entropy, of each valid row a mean over its frames, summed over the rows; and their number."""
        logits_BTC, frames_B = outputs
        target_BT = self._targets(outputs, batch)
        loss_BT = functional.cross_entropy(
            logits_BTC.float().transpose(1, 2), target_BT, reduction="none", ignore_index=IGNORED
        )
        return (loss_BT.sum(1) / frames_B.clamp(min=1)).sum(), batch["valid"].sum()

    def metrics(self, outputs: Outputs, batch: Batch) -> dict[str, Tensor]:
        target_BT = self._targets(outputs, batch)
        hits = (outputs[0].argmax(2) == target_BT).sum()
        counted = (target_BT != IGNORED).sum()
        sums = ctc.errors(self.vocabulary, [each.text for each in self.transcribe(*outputs)], batch)
        infeasible_B = (self.frames_needed(batch["label"]) > outputs[1]) & (batch["valid"] > 0)
        return {"frame_hits": hits, "frames": counted, **sums, "infeasible": infeasible_B.sum()}

    def finish(self, means: Mapping[str, Any], count: int, rows: Mapping[str, Tensor]) -> dict[str, float]:
        accuracy = means["frame_hits"] / max(means["frames"], 1 / max(1, count))
        return {"frame_accuracy": accuracy, **ctc.rates(means, count)}

    def transcribe(self, logits_BTC: Tensor, frames_B: Tensor) -> list[Hypothesis]:
        """The units of the best class of each frame, repeats and silence left out."""
        return [path.hypothesis(self.vocabulary) for path in best_paths(log_probs(logits_BTC), frames_B)]

    def _targets(self, outputs: Outputs, batch: Batch) -> Tensor:
        """int64 (rows, frames): IGNORED behind a row's own, in rows that don't count, and where units are too many."""
        logits_BTC, frames_B = outputs
        target_BT = np.full(tuple(logits_BTC.shape[:2]), IGNORED, np.int64)
        logs = log_probs(logits_BTC.detach()).cpu() if self.alignment == "model" else None
        rows = zip(batch["label"].tolist(), frames_B.tolist(), batch["valid"].tolist())
        for row, (label, n_frames, valid) in enumerate(rows):
            units = label[1 : 1 + label[0]]
            if not valid or not n_frames or len(units) > n_frames:
                continue
            if len(units) + 2 <= n_frames or not units:
                units = [_SILENCE, *units, _SILENCE][: max(1, n_frames)]
            aligned = uniform(n_frames, units) if logs is None else monotonic(logs[row, :n_frames], units)
            target_BT[row, :n_frames] = aligned
        return torch.from_numpy(target_BT).to(logits_BTC.device)
