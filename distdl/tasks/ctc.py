"""Transcripts without alignment: connectionist temporal classification (Graves et al. 2006), word and character errors.

outputs: logits (rows, frames, classes), class 0 the blank, and how many frames are each row's own, int64 (rows,). The
label of a row is how many units its transcript has, then their classes (distdl.data.labels.sequence).

    model: {name: deep_speech2, args: {classes: 29}}
    task: {name: ctc, args: {vocabulary: {characters: "abcdefghijklmnopqrstuvwxyz' "}}}
    data: {sound: {rate_hz: 16000}, train: {shards: ..., label: txt, transforms: [{log_mel: {}}]}}
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from distdl.data import labels
from distdl.data.labels import LabelSpec
from distdl.errors import UserError
from distdl.speech import edit_distance, search
from distdl.speech.text import BLANK, Vocabulary
from distdl.speech.text import vocabulary as build_vocabulary

Batch = dict[str, Tensor]
Outputs = tuple[Tensor, Tensor]


class Ctc:
    """`vocabulary`: {characters: ALPHABET}, {pieces: FILE} or {lexicon: FILE}; and case and unknown, as they are in
    distdl.speech.text. `decode`: how transcripts are looked for in evaluation, by default the best unit of each frame;
    or such as {beam: 32, lm: FILE, alpha: 0.5, beta: 1.0} (distdl.speech.search)."""

    metric_names = ("wer", "cer", "infeasible")
    lower_is_better = frozenset({"loss", *metric_names})

    def __init__(self, vocabulary: Mapping[str, Any], decode: Mapping[str, Any] | None = None) -> None:
        self.vocabulary = build_vocabulary(vocabulary, "task.args.vocabulary")
        self.transcribe = search.build(decode or {}, self.vocabulary, "task.args.decode")

    def label(self, n_outputs: int | None) -> LabelSpec:
        """Raises UserError for a network with another number of classes than the vocabulary has, with the blank."""
        return label_of(self.vocabulary, n_outputs)

    def frames_needed(self, label_BU: Tensor) -> Tensor:
        """int64 (rows,): one for each unit, and one for the blank between each and its like (Graves et al. 2006,
        section 3)."""
        length_B, units_BU = label_BU[:, 0], label_BU[:, 1:]
        follows_BU = torch.arange(1, units_BU.shape[1], device=label_BU.device) < length_B[:, None]
        return length_B + ((units_BU[:, 1:] == units_BU[:, :-1]) & follows_BU).sum(1)

    def loss(self, outputs: Outputs, batch: Batch) -> tuple[Tensor, Tensor]:
        """-ln p(transcript | sound) summed over the valid rows, and their number, both of shape (). A transcript that
        can't be told in its frames, whose loss is infinite, adds neither loss nor gradient."""
        logits_BTC, frames_B = outputs
        length_B, units_BU = batch["label"][:, 0], batch["label"][:, 1:]
        loss_B = functional.ctc_loss(
            logits_BTC.float().log_softmax(2).transpose(0, 1),
            units_BU,
            frames_B,
            length_B,
            blank=BLANK,
            reduction="none",
            zero_infinity=True,
        )
        return (loss_B * batch["valid"]).sum(), batch["valid"].sum()

    def metrics(self, outputs: Outputs, batch: Batch) -> dict[str, Tensor]:
        """Sums over the valid rows: edits and length, in words and in characters, and transcripts without a loss."""
        sums = errors(self.vocabulary, [each.text for each in self.transcribe(*outputs)], batch)
        infeasible_B = (self.frames_needed(batch["label"]) > outputs[1]) & (batch["valid"] > 0)
        return {**sums, "infeasible": infeasible_B.sum()}

    def finish(self, means: Mapping[str, Any], count: int, rows: Mapping[str, Tensor]) -> dict[str, float]:
        return rates(means, count)


def label_of(vocabulary: Vocabulary, n_outputs: int | None) -> LabelSpec:
    """A transcript's units. Raises UserError for a network with another number of classes than the vocabulary has."""
    if n_outputs is not None and n_outputs != len(vocabulary):
        raise UserError(
            f"the network has {n_outputs} classes, the vocabulary {len(vocabulary)}, with class 0",
            where="model.args.classes",
            fix=f"Set model.args.classes={len(vocabulary)}.",
        )
    fits = "task.args.vocabulary, whose `unknown: drop` leaves out what is not in it"
    return labels.sequence(partial(encoded, vocabulary), "transcripts", fits)


def errors(vocabulary: Vocabulary, found: Sequence[str], batch: Batch) -> dict[str, Tensor]:
    """Sums over the valid rows: edits that make the reference of what was found, and its length; words, characters."""
    valid = (batch["valid"] > 0).tolist()
    pairs = [pair for *pair, counts in zip(texts(vocabulary, batch["label"]), found, valid) if counts]
    words = edit_distance.of_many([edit_distance.word_errors(*pair) for pair in pairs])
    characters = edit_distance.of_many([edit_distance.character_errors(*pair) for pair in pairs])
    sums = {
        "word_errors": words.errors,
        "words": words.reference_length,
        "character_errors": characters.errors,
        "characters": characters.reference_length,
    }
    return {name: torch.tensor(float(value)) for name, value in sums.items()}


def rates(means: Mapping[str, Any], count: int) -> dict[str, float]:
    """Errors a word, and a character, of all references together; and how many transcripts were infeasible."""
    least = 1 / max(1, count)
    return {
        "wer": means["word_errors"] / max(means["words"], least),
        "cer": means["character_errors"] / max(means["characters"], least),
        "infeasible": round(means["infeasible"] * count),
    }


def encoded(vocabulary: Vocabulary, label: Any) -> list[int]:
    """The units of a transcript, as bytes of UTF-8 or text. Raises ValueError, as a label's `parse` does."""
    try:
        return vocabulary.encode(label.decode() if isinstance(label, bytes) else str(label))
    except UnicodeDecodeError:
        raise ValueError("is not text in UTF-8") from None
    except ValueError as error:
        raise ValueError(f"can't be spelled: {error}") from None


def texts(vocabulary: Vocabulary, label_BU: Tensor) -> list[str]:
    """The references that rows of labels stand for."""
    return [vocabulary.decode(row[1 : 1 + row[0]]) for row in label_BU.tolist()]
