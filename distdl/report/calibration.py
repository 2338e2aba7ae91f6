"""Whether a network is as sure as it should be (Guo, Pleiss, Sun and Weinberger 2017, "On calibration of modern neural
networks"): of what it says with a probability of 80 %, 80 % should be right."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

N_BINS = 15


@dataclass(frozen=True, slots=True)
class Bin:
    """Samples of about the same confidence."""

    n_samples: int
    confidence: float  # mean
    accuracy: float  # share that is right


@dataclass(frozen=True, slots=True)
class Calibration:
    bins: list[Bin]  # by confidence, without empty ones
    error: float
    """the expected calibration error, equation 3 there: the mean of |accuracy - confidence| over the samples' bins"""


def calibration(confidence: npt.NDArray[Any], is_right: npt.NDArray[Any]) -> Calibration:
    """`confidence` in [0, 1] and `is_right`, both (samples,), over bins of equal width."""
    number = np.clip(np.ceil(confidence * N_BINS).astype(int) - 1, 0, N_BINS - 1)
    counts, sums, rights = (np.bincount(number, weights, N_BINS) for weights in (None, confidence, is_right))
    there = counts > 0
    confidences, accuracies = sums[there] / counts[there], rights[there] / counts[there]
    bins = [Bin(int(n), float(said), float(was)) for n, said, was in zip(counts[there], confidences, accuracies)]
    return Calibration(bins, float((counts[there] * abs(accuracies - confidences)).sum() / max(1, counts.sum())))
