"""What a run on sounds is shown by: its worst transcripts, what is most often heard for what, and the sounds.

outputs of an evaluation set  ->  words aligned with the reference  ->  the worst utterances
->  their sounds, read a second time, as players; their features as pictures
"""

import base64
import io
import wave
from collections import Counter
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from distdl.data.audio import Samples
from distdl.data.engine import Loader
from distdl.data.order import Rows
from distdl.data.pictures.image import Pixels
from distdl.errors import UserError
from distdl.report.markup import Html, element, join, table
from distdl.speech import edit_distance
from distdl.speech.edit_distance import Alignment
from distdl.tasks import ctc
from distdl.trainer import sounds
from distdl.trainer.step import forward
from distdl.trainer.trained import Trained

N_WORST, N_CONFUSIONS = 20, 15
_MOST_S = 12  # of a sound in the page: a second of it is some 43 kB
_ROWS_AT_ONCE = 16

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """A sound, for a person: how it looks to the network, and how it sounds."""

    image: Pixels
    sound: Samples
    rate_hz: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Utterance:
    name: str
    words: Alignment
    heard: Heard


@dataclass(frozen=True, slots=True, kw_only=True)
class Transcribed:
    """Rates over all that was looked at; the worst first; words as (said, heard, times), None: missing."""

    word_error_rate: float
    character_error_rate: float
    n_right: int
    n_utterances: int
    worst: list[Utterance]
    confusions: list[tuple[str | None, str | None, int]]


@torch.inference_mode()
def transcribed(trained: Trained, loader: Loader, ids: Array) -> Transcribed:
    """Raises UserError where none of the samples can be decoded."""
    pairs: dict[int, tuple[str, str]] = {}
    with closing(loader.stream(rows_of(ids, trained.config.train.eval_batch))) as batches:
        for host in batches:
            for piece in sounds.pieces(host.tensors, loader.sounds):
                outputs, batch = forward(trained.model, piece, loader, trained.device, trained.config.train)
                references = ctc.texts(trained.task.vocabulary, batch["label"])
                found = [each.text for each in trained.task.transcribe(*outputs)]
                counts = (piece["valid"] > 0).tolist()
                together = zip(piece["sample_id"].tolist(), counts, zip(references, found))
                pairs |= {sample: pair for sample, is_there, pair in together if is_there}
    if not pairs:
        raise UserError("none of these samples can be decoded", where=loader.where)
    words = {
        sample: edit_distance.align(edit_distance.words(one), edit_distance.words(other))
        for sample, (one, other) in pairs.items()
    }
    characters = edit_distance.of_many([edit_distance.character_errors(*pair) for pair in pairs.values()])
    worst = sorted(words, key=lambda sample: (-words[sample].errors, sample))[:N_WORST]
    worst = [sample for sample in worst if words[sample].errors]
    confusions = Counter(pair for each in words.values() for pair in each.pairs if pair[0] != pair[1])
    heard = heard_of(loader, worst)
    return Transcribed(
        word_error_rate=edit_distance.of_many(
            [edit_distance.Errors(each.errors, each.reference_length) for each in words.values()]
        ).rate,
        character_error_rate=characters.rate,
        n_right=sum(not each.errors for each in words.values()),
        n_utterances=len(words),
        worst=[Utterance(name=_name(loader, sample), words=words[sample], heard=heard[sample]) for sample in worst],
        confusions=[(*map(_text, pair), n) for pair, n in confusions.most_common(N_CONFUSIONS)],  # type: ignore[misc]
    )


def heard_of(loader: Loader, ids: Iterable[int]) -> dict[int, Heard]:
    """Sample id -> its sound, after the transforms."""
    assert loader.sounds, "it is a loader of sounds"
    rate_hz = loader.sounds.config.rate_hz
    found: dict[int, Heard] = {}
    wanted = np.array(list(dict.fromkeys(map(int, ids))), np.int64)
    with closing(loader.stream(rows_of(wanted, _ROWS_AT_ONCE))) as batches:
        for host in batches:
            tensors = {name: tensor.clone() for name, tensor in host.tensors.items()}
            made = sounds.features(tensors, loader.chain, rate_hz, torch.device("cpu"))
            for row, sample in enumerate(tensors["sample_id"].tolist()):
                n, frames = int(tensors["length"][row]), int(made["frames"][row])
                image = _picture(made["features"][row, :frames].numpy())
                sound = tensors["sound"][row, : min(n, _MOST_S * rate_hz)].numpy()
                found[sample] = Heard(image=image, sound=sound, rate_hz=rate_hz)
    return found


def rows_of(ids: Array, rows_per_batch: int) -> Iterable[Rows]:
    return (Rows.of(ids[begin : begin + rows_per_batch]) for begin in range(0, len(ids), rows_per_batch))


def _picture(features_TF: Array) -> Pixels:
    """Low features below, time to the right; what is strong is dark."""
    if not features_TF.size:
        return np.full((8, 8, 1), 255, np.uint8)
    low, high = np.percentile(features_TF, (1, 99))
    dark = (features_TF - low) / max(high - low, 1e-6)
    return (255 * (1 - dark.clip(0, 1))).astype(np.uint8).T[::-1, :, None]


def _name(loader: Loader, sample: int) -> str:
    dataset: Any = loader.dataset
    number, row = dataset.locate(sample)
    return f"{dataset.key(number, row)} in {dataset.place(number).rpartition('/')[2]}"


def _text(unit: Any) -> str | None:
    return None if unit is None else str(unit)


# --- as HTML ---


def player(heard: Heard) -> Html:
    """The sound as a WAV in the page itself."""
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(heard.rate_hz)
        out.writeframes(heard.sound.astype("<i2").tobytes())
    source = f"data:audio/wav;base64,{base64.b64encode(file.getvalue()).decode()}"
    return element("audio", controls=True, preload="none", src=source)


def as_html(what: Transcribed) -> Html:
    text = (
        f"Word error rate {100 * what.word_error_rate:.2f} %, character error rate "
        f"{100 * what.character_error_rate:.2f} %; {what.n_right:,} of {what.n_utterances:,} are right word for word."
    )
    parts: list[str] = [element("p", text)]
    if what.confusions:
        rows = [[one or "(nothing)", other or "(left out)", f"{n:,}"] for one, other, n in what.confusions]
        parts += [element("h4", "What is most often taken for what"), table(["said", "heard", "times"], rows)]
    if what.worst:
        parts.append(element("h4", "The worst first"))
        parts += [element("div", *_utterance(each), class_="card utterance") for each in what.worst]
    return join(parts)


def _utterance(each: Utterance) -> list[str]:
    words: list[str] = []
    for said, heard in each.words.pairs:
        if said == heard:
            words.append(f"{said} ")
            continue
        if said is not None:
            words += [element("del", str(said)), " "]
        if heard is not None:
            words += [element("ins", str(heard)), " "]
    n = f"{each.words.errors} wrong of {each.words.reference_length}"
    return [
        element("p", *words),
        player(each.heard),
        element("p", element("small", f"{each.name}; {n}"), class_="soft"),
    ]
