"""From a network's outputs to transcripts: how a config's or a command's `decode` says to look for them.

{}                                                the best unit of each frame
{beam: 32}                                        prefix beam search
{beam: 32, lm: FILE, alpha: 0.5, beta: 1.0}       with a language model of words, in ARPA's or KenLM's format
{beam: 32, words: FILE}, {beam: 32, lexicon: FILE}  with nothing but the words of a file
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from distdl.speech.decoding.best_paths import best_paths
from distdl.speech.decoding.build import Decoder, decode_batch, decoder
from distdl.speech.decoding.hypotheses import Hypothesis
from distdl.speech.text import Vocabulary

Search = Callable[[Tensor, Tensor], list[Hypothesis]]
"""(logits (rows, frames, classes), frames of each row) -> what is found for each row"""


def build(decode: Mapping[str, Any], vocabulary: Vocabulary, where: str) -> Search:
    """Raises UserError for unknown keys, files that can't be read, and what does not go together."""
    if not decode:
        return BestPaths(vocabulary)
    kind = "lexicon" if "words" in decode or "lexicon" in decode else "beam"
    return Best(decoder({"kind": kind, **decode}, vocabulary, where))


class BestPaths:
    """The best unit of each frame."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary

    def __call__(self, logits_BTC: Tensor, frames_B: Tensor) -> list[Hypothesis]:
        found = best_paths(log_probs(logits_BTC), frames_B)
        return [path.hypothesis(self._vocabulary) for path in found]


class Best:
    """The best of what a decoder finds, with the others."""

    def __init__(self, decode: Decoder) -> None:
        self._decode = decode

    def __call__(self, logits_BTC: Tensor, frames_B: Tensor) -> list[Hypothesis]:
        found = decode_batch(self._decode, log_probs(logits_BTC), frames_B)
        return [replace(best, others=others) for best, *others in found]


def log_probs(logits_BTC: Tensor) -> Tensor:
    """fp32. A network that has diverged says nothing: all classes are alike, and its loss tells."""
    return torch.nan_to_num(logits_BTC.float(), nan=0.0).log_softmax(2)
