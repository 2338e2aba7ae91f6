"""The most probable class of each frame, with repeats merged and blanks taken out (Graves et al. 2006, section 3.2)."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from distdl.speech.decoding.hypotheses import Hypothesis, text_of, words_of
from distdl.speech.text import BLANK, Vocabulary


@dataclass(frozen=True, slots=True, kw_only=True)
class BestPath:
    """`frames` are the first and the last frame of each unit's run, `confidences` its highest probability in it.

    `score` is the log-probability of the path, `confidence` the geometric mean of the units' (of no unit: of the path's
    frames).
    """

    units: list[int]
    frames: list[tuple[int, int]]
    confidences: list[float]
    score: float
    confidence: float

    def hypothesis(self, vocabulary: Vocabulary) -> Hypothesis:
        return Hypothesis(
            text=text_of(vocabulary, self.units),
            units=self.units,
            score=self.score,
            confidence=self.confidence,
            words=words_of(vocabulary, self.units, self.frames, self.confidences),
        )


def best_paths(log_probs_BTC: Tensor, lengths_B: Tensor) -> list[BestPath]:
    """Of each row's first `lengths_B` frames. Classes are compared on the device; two numbers a frame leave it.

    Raises ValueError where a frame that counts has NaN.
    """
    if log_probs_BTC.ndim != 3:
        raise ValueError(f"log_probs are of shape (B, T, C), got {tuple(log_probs_BTC.shape)}")
    if not log_probs_BTC.shape[1]:
        return [_path(np.zeros(0, np.int64), np.zeros(0)) for _ in range(len(log_probs_BTC))]
    logs_BT, classes_BT = log_probs_BTC.detach().max(dim=2)  # NaN is the highest of all
    # One copy for both: the class numbers are exact in float64.
    both = torch.stack([logs_BT.double(), classes_BT.double()]).cpu().numpy()
    found = []
    for row, length in enumerate(lengths_B.tolist()):
        logs_T, classes_T = both[0, row, :length], both[1, row, :length].astype(np.int64)
        if np.isnan(logs_T).any():
            raise ValueError(
                f"log_probs are NaN at row {row}, frame {int(np.isnan(logs_T).argmax())}: the network has diverged"
            )
        found.append(_path(classes_T, logs_T))
    return found


def _path(classes_T: np.ndarray, logs_T: np.ndarray) -> BestPath:
    if not len(classes_T):
        return BestPath(units=[], frames=[], confidences=[], score=0.0, confidence=1.0)
    begins = np.flatnonzero(np.diff(classes_T, prepend=-1))
    ends = np.append(begins[1:], len(classes_T)) - 1
    highest = np.maximum.reduceat(logs_T, begins)
    spoken = classes_T[begins] != BLANK
    counted = highest[spoken] if spoken.any() else logs_T
    return BestPath(
        units=classes_T[begins][spoken].tolist(),
        frames=list(zip(begins[spoken].tolist(), ends[spoken].tolist())),
        confidences=np.exp(highest[spoken]).tolist(),
        score=float(logs_T.sum()),
        confidence=float(np.exp(counted.mean())),
    )
