"""What a decoder found, and the check of what it is given."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from distdl.speech.text import Vocabulary

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Word:
    """`first_frame` to `last_frame`, both within the word; `confidence` from 0 to 1."""

    text: str
    first_frame: int
    last_frame: int
    confidence: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Hypothesis:
    """`score` is a natural logarithm, with the language model's share; `confidence` is from 0 to 1. `others`: the next
    best ones, where they were asked for."""

    text: str
    units: list[int]
    score: float
    confidence: float
    words: list[Word] = field(default_factory=list)
    others: list["Hypothesis"] = field(default_factory=list)


def checked(log_probs: Any, shape: str) -> Floats:
    """As float64 on the CPU. `shape` is "TC" or "BTC". Raises ValueError for another number of dimensions, NaN or +inf.

    -inf, a probability of 0, is one like any other.
    """
    if isinstance(log_probs, torch.Tensor):
        log_probs = log_probs.detach().to("cpu", torch.float64).numpy()
    values: Floats = np.asarray(log_probs, np.float64)
    if values.ndim != len(shape) or values.shape[-1] < 1:
        raise ValueError(f"log_probs are of shape {tuple(shape)}, got {values.shape}")
    wrong = np.isnan(values) | (values == np.inf)
    if wrong.any():
        place = ", ".join(
            f"{name} {at}" for name, at in zip(("row", "frame", "class")[-values.ndim :], np.argwhere(wrong)[0])
        )
        raise ValueError(
            f"log_probs are not finite, first at {place}: the network has diverged, or they are no log-probabilities"
        )
    return values


def text_of(vocabulary: Vocabulary, units: list[int]) -> str:
    """As people write it: a network may well give two spaces."""
    return " ".join(vocabulary.decode(units).split())


def words_of(
    vocabulary: Vocabulary, units: list[int], frames: list[tuple[int, int]], confidences: list[float]
) -> list[Word]:
    """The words that units spell, from the first and last frame and the confidence of each unit.

    A word's confidence is the geometric mean of its units'.
    """
    found: list[Word] = []
    letters: list[int] = []  # places of the units that spell the word

    def close() -> None:
        if letters:
            logs = np.log(np.maximum([confidences[at] for at in letters], 1e-300))
            found.append(
                Word(
                    text="".join(vocabulary.spelling[units[at]] for at in letters),
                    first_frame=frames[letters[0]][0],
                    last_frame=frames[letters[-1]][1],
                    confidence=float(np.exp(logs.mean())),
                )
            )
            letters.clear()

    for place, unit in enumerate(units):
        if vocabulary.begins_word[unit]:
            close()
        if vocabulary.spelling[unit]:
            letters.append(place)
    close()
    return found
