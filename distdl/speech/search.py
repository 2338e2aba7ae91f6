"""From a network's outputs to transcripts: how a config's or a command's `decode` says to look for them.

{}                                        the best unit of each frame
{beam: 32}                                prefix beam search
{beam: 32, lm: FILE, alpha: .., beta: ..} with a language model of words, in ARPA's or KenLM's format
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from distdl.errors import UserError, did_you_mean
from distdl.speech.decoding.best_paths import best_paths
from distdl.speech.decoding.hypotheses import Hypothesis
from distdl.speech.text import Vocabulary

Search = Callable[[Tensor, Tensor], list[Hypothesis]]
"""(logits (rows, frames, classes), frames of each row) -> what is found for each row"""

_KEYS = ("beam", "lm", "alpha", "beta", "lexicon")


def build(decode: Mapping[str, Any], vocabulary: Vocabulary, where: str) -> Search:
    """Raises UserError for unknown keys, files that can't be read, and what does not go together."""
    for key in decode:
        if key not in _KEYS:
            what = f"there is no '{key}' in how to decode{did_you_mean(key, _KEYS)}"
            raise UserError(what, where=where, fix=f"It has: {', '.join(_KEYS)}.")
    return BestPaths(vocabulary)


class BestPaths:
    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary

    def __call__(self, logits_BTC: Tensor, frames_B: Tensor) -> list[Hypothesis]:
        found = best_paths(log_probs(logits_BTC), frames_B)
        return [path.hypothesis(self._vocabulary) for path in found]


def log_probs(logits_BTC: Tensor) -> Tensor:
    """fp32. A network that has diverged says nothing: all classes are alike, and its loss tells."""
    return torch.nan_to_num(logits_BTC.float(), nan=0.0).log_softmax(2)
