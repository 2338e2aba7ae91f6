"""Decoders as a config names them, and a batch of outputs through one."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from distdl.data.arguments import count, number
from distdl.errors import UserError, did_you_mean
from distdl.speech.decoding.best_paths import best_paths
from distdl.speech.decoding.hypotheses import Hypothesis
from distdl.speech.decoding.kenlm_model import open_language_model
from distdl.speech.decoding.lexicon import Lexicon, pronounced, spelled
from distdl.speech.decoding.lexicon_search import LexiconSearch
from distdl.speech.decoding.prefix_beam import PrefixBeam
from distdl.speech.text import Vocabulary

Decoder = Callable[[Any], list[Hypothesis]]

_NUMBERS = {  # the least and the most that each may be
    "alpha": (0.0, 100.0),
    "beta": (-100.0, 100.0),
    "token_threshold": (float("-inf"), 0.0),
    "beam_threshold": (0.0, float("inf")),
    "unknown_word": (float("-inf"), 100.0),
}
_OF_BOTH = ("lm", "beam", "n_best", *_NUMBERS)
_KEYS = {"greedy": (), "beam": (*_OF_BOTH, "lm_over"), "lexicon": (*_OF_BOTH, "words", "lexicon")}


class Greedy:
    """The best path alone."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary

    def __call__(self, log_probs_TC: Any) -> list[Hypothesis]:
        logs_TC = torch.as_tensor(log_probs_TC)
        (path,) = best_paths(logs_TC[None], torch.tensor([len(logs_TC)]))
        return [path.hypothesis(self._vocabulary)]


def decoder(args: Mapping[str, Any], vocabulary: Vocabulary, where: str) -> Decoder:
    """{kind: greedy}, or {kind: beam, lm: FILE, ...}, or {kind: lexicon, words: FILE or lexicon: FILE, lm: FILE, ...}.

    The other keys are the arguments of PrefixBeam and LexiconSearch. `words` is a file with a word a line, which are
    spelled with the vocabulary's units; `lexicon` one of pronunciations. Raises UserError, for keys below `where`.
    """
    given = dict(args)
    kind = given.pop("kind", "greedy")
    if kind not in _KEYS:
        fix = f"It is one of {', '.join(_KEYS)}."
        raise UserError(f"{kind!r} is no decoder{did_you_mean(str(kind), _KEYS)}", where=f"{where}.kind", fix=fix)
    for key in given:
        if key not in _KEYS[kind]:
            fix = f"Known are {', '.join(_KEYS[kind]) or 'none'}."
            near = did_you_mean(key, _KEYS[kind])
            raise UserError(f"unknown key {key!r} of the {kind} decoder{near}", where=where, fix=fix)
    if kind == "greedy":
        return Greedy(vocabulary)
    settings = {key: _number(key, value, where) for key, value in given.items() if key in ("beam", "n_best", *_NUMBERS)}
    if "lm" in given:
        settings["lm"] = open_language_model(_file(given, "lm", where))
    if kind == "lexicon":
        return LexiconSearch(vocabulary, _lexicon(given, vocabulary, where), **settings)
    if given.get("lm_over", "words") not in ("words", "units"):
        raise UserError(f"got {given['lm_over']!r}", where=f"{where}.lm_over", fix="It is words or units.")
    try:
        return PrefixBeam(vocabulary, lm_over=given.get("lm_over", "words"), **settings)
    except ValueError as error:
        fix = "`distdl lm` learns one from texts: in the case and the letters of the vocabulary."
        raise UserError(str(error), where=f"{where}.lm", fix=fix) from None


def decode_batch(decode: Decoder, log_probs_BTC: Tensor, lengths_B: Tensor) -> list[list[Hypothesis]]:
    """Each row's first `lengths_B` frames through a decoder, with one copy from the device."""
    logs_BTC = log_probs_BTC.detach().to("cpu", torch.float64)
    return [decode(logs_TC[:length]) for logs_TC, length in zip(logs_BTC, lengths_B.tolist(), strict=True)]


def _number(key: str, value: Any, where: str) -> Any:
    try:
        if key in ("beam", "n_best"):
            return count(value, "decoder", key, least=1, most=1_000_000)
        least, most = _NUMBERS[key]
        return float(number(value, "decoder", key, least=least, most=most))
    except UserError as error:
        raise UserError(error.what, where=f"{where}.{key}", fix="Leave it out for the default.") from None


def _file(given: Mapping[str, Any], key: str, where: str) -> Path:
    if not isinstance(given[key], str | Path) or not Path(given[key]).is_file():
        raise UserError(f"there is no such file: {given[key]}", where=f"{where}.{key}", fix="Name one that is there.")
    return Path(given[key])


def _lexicon(given: Mapping[str, Any], vocabulary: Vocabulary, where: str) -> Lexicon:
    if ("words" in given) == ("lexicon" in given):
        raise UserError(
            "needs the words that may be said", where=where, fix="Give one of words: FILE and lexicon: FILE."
        )
    if "lexicon" in given:
        return pronounced(_file(given, "lexicon", where), vocabulary)
    path = _file(given, "words", where)
    try:
        found = spelled(path.read_text(encoding="utf-8").split(), vocabulary)
    except ValueError as error:
        raise UserError(str(error), where=f"{where}.words", fix=f"Correct {path}: a word a line.") from None
    if not len(found):
        raise UserError(f"{path} is empty", where=f"{where}.words", fix="Give a word a line.")
    return found
