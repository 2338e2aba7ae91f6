"""From a network's outputs to transcripts: how a config's or a command's `decode` says to look for them.

{}                                         the best unit of each frame
{beam: 32}                                 prefix beam search
{beam: 32, lm: FILE, alpha: .., beta: ..}  with a language model of words, in ARPA's or KenLM's format
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from distdl.errors import UserError, did_you_mean
from distdl.speech.decoding.best_paths import best_paths
from distdl.speech.decoding.hypotheses import Hypothesis
from distdl.speech.decoding.kenlm_model import open_language_model
from distdl.speech.decoding.prefix_beam import PrefixBeam
from distdl.speech.text import Vocabulary

Search = Callable[[Tensor, Tensor], list[Hypothesis]]
"""(logits (rows, frames, classes), frames of each row) -> what is found for each row"""

DEFAULT_BEAM, DEFAULT_ALPHA, DEFAULT_BETA = 32, 0.5, 1.0
_KEYS = ("beam", "lm", "alpha", "beta")


def build(decode: Mapping[str, Any], vocabulary: Vocabulary, where: str) -> Search:
    """Raises UserError for unknown keys, a language model that can't be read, and what does not go together."""
    for key in decode:
        if key not in _KEYS:
            what = f"there is no '{key}' in how to decode{did_you_mean(key, _KEYS)}"
            raise UserError(what, where=where, fix=f"It has: {', '.join(_KEYS)}.")
    if not decode:
        return BestPaths(vocabulary)
    beam = decode.get("beam", DEFAULT_BEAM)
    if not isinstance(beam, int) or beam < 1:
        raise UserError(f"the beam is a whole number of at least 1 (got {beam!r})", where=where)
    weights = {"alpha": decode.get("alpha", DEFAULT_ALPHA), "beta": decode.get("beta", DEFAULT_BETA)}
    for name, weight in weights.items():
        if not isinstance(weight, int | float):
            raise UserError(f"{name} is a number (got {weight!r})", where=where)
    if "lm" not in decode:
        if given := [name for name in weights if name in decode]:
            what = f"{given[0]} is the weight of a language model, and there is none"
            raise UserError(what, where=where, fix="Add lm.")
        return Beam(PrefixBeam(vocabulary, beam=beam))
    lm = open_language_model(Path(str(decode["lm"])))
    return Beam(PrefixBeam(vocabulary, beam=beam, lm=lm, **weights))


class BestPaths:
    """The best unit of each frame."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary

    def __call__(self, logits_BTC: Tensor, frames_B: Tensor) -> list[Hypothesis]:
        found = best_paths(log_probs(logits_BTC), frames_B)
        return [path.hypothesis(self._vocabulary) for path in found]


class Beam:
    """The best of the texts that a prefix beam search finds."""

    def __init__(self, search: PrefixBeam) -> None:
        self._search = search

    def __call__(self, logits_BTC: Tensor, frames_B: Tensor) -> list[Hypothesis]:
        logs_BTC = log_probs(logits_BTC).double().cpu()
        return [self._search(logs_TC[:n])[0] for logs_TC, n in zip(logs_BTC, frames_B.tolist())]


def log_probs(logits_BTC: Tensor) -> Tensor:
    """fp32. A network that has diverged says nothing: all classes are alike, and its loss tells."""
    return torch.nan_to_num(logits_BTC.float(), nan=0.0).log_softmax(2)
