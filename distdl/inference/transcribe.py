"""`distdl predict` for networks of sounds: transcripts, or the best classes of networks that tell words apart.

files  ->  one channel at the run's rate  ->  the transforms of its first evaluation split  ->  network  ->  text
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from distdl import registry
from distdl.data.audio import decode_audio, is_audio
from distdl.data.sounds import one_channel
from distdl.errors import UserError
from distdl.inference.predict import Guess, evaluated_split, files_at
from distdl.speech.decoding.best_paths import best_paths
from distdl.speech.normalise import Cmvn
from distdl.speech.search import Search, log_probs
from distdl.speech.transforms import Chain
from distdl.speech.transforms import build as build_chain
from distdl.trainer.sounds import features
from distdl.trainer.step import autocast, inputs_of
from distdl.trainer.trained import Trained

_CHUNK_S = 0.5
_AT_ONCE_S = 240.0  # of sound, padding included, where the config does not bound it


@dataclass(frozen=True, slots=True)
class SpokenWord:
    text: str
    begin_s: float
    end_s: float
    confidence: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Transcript:
    """Of a file: its text and the next best ones, or classes of a network of keywords, or why it can't be decoded."""

    file: str
    text: str = ""
    confidence: float | None = None
    words: list[SpokenWord] = field(default_factory=list)
    others: list[Guess] = field(default_factory=list)
    guesses: list[Guess] = field(default_factory=list)
    problem: str | None = None


def sounds_at(paths: Sequence[Path]) -> list[Path]:
    """The files, and the sounds in the folders. Raises UserError for what is not there and for no sound."""
    return files_at(paths, is_audio, "sounds")


@torch.inference_mode()
def transcribe(trained: Trained, files: Sequence[Path], search: Search | None, n_best: int) -> list[Transcript]:
    """A transcript per file, in their order. `search`: of a CTC network, instead of its task's own.

    Raises UserError for a network that neither spells nor tells classes apart.
    """
    spells = hasattr(trained.task, "transcribe")
    if not spells and "top1" not in trained.task.metric_names:
        what = "predictions of sounds are transcripts, or classes"
        raise UserError(what, where=f"task.name: {trained.config.task.name}")
    sounds, problems = _decoded(trained, files)
    found: dict[Path, Transcript] = {}
    for some in _batches(trained, sounds):
        outputs = _outputs(trained, [sounds[path] for path in some])
        rate_hz = _rate_hz(trained)
        if spells:
            for path, hypothesis, n_frames in zip(
                some, (search or trained.task.transcribe)(*outputs), outputs[1].tolist()
            ):
                frame_s = len(sounds[path]) / rate_hz / max(1, n_frames)
                words = [
                    SpokenWord(
                        word.text,
                        round(word.first_frame * frame_s, 3),
                        round((word.last_frame + 1) * frame_s, 3),
                        word.confidence,
                    )
                    for word in hypothesis.words
                ]
                found[path] = Transcript(
                    file=str(path),
                    text=hypothesis.text,
                    confidence=hypothesis.confidence,
                    words=words,
                    others=[Guess(other.text, other.confidence) for other in hypothesis.others],
                )
        else:
            for path, guesses in zip(some, _guesses(trained, outputs, n_best)):
                found[path] = Transcript(file=str(path), guesses=guesses)
    return [found.get(path) or Transcript(file=str(path), problem=problems[path]) for path in files]


@torch.inference_mode()
def streamed(trained: Trained, path: Path, chunk_s: float = _CHUNK_S) -> Iterator[tuple[float, str]]:
    """(seconds that were heard, text so far), each time that the text changes, and at the end: the sound goes through a
    network that looks forward alone in pieces, as it would come from a microphone.

    Raises UserError for a network or features that need the whole sound, and a file that can't be decoded.
    """
    model, split = trained.model, evaluated_split(trained)
    step: Any = getattr(model, "step", None)
    if getattr(model, "look_ahead", None) is None or step is None:
        what = "this network looks at the whole sound before it says anything"
        raise UserError(what, where=f"model.name: {trained.config.model.name}", fix="Train deep_speech2_streaming.")
    with registry.using(trained.own_code):
        chain = build_chain(split.transforms, "data.eval")
    if any(isinstance(each, Cmvn) and each.is_of_utterance for each in chain.transforms):
        what = "the mean of an utterance is not known before its end"
        raise UserError(what, where="data.eval.transforms", fix="Train with {cmvn: {over: corpus, file: FILE}}.")
    sounds, problems = _decoded(trained, [path])
    if problems:
        raise UserError(problems[path], where=str(path))
    made = _features(trained, chain, [sounds[path]])
    n_frames, seconds = int(made["frames"][0]), len(sounds[path]) / _rate_hz(trained)
    at_once = max(1, round(n_frames * chunk_s / max(seconds, 1e-9)))
    told, state, text = [], None, None
    for begin in range(0, max(1, n_frames), at_once):
        last = begin + at_once >= n_frames
        logits, state = step(made["features"][:, begin : begin + at_once], state, last=last)
        told.append(logits)
        (path_now,) = best_paths(log_probs(torch.cat(told, dim=1)), torch.tensor([sum(each.shape[1] for each in told)]))
        now = trained.task.vocabulary.decode(path_now.units)
        if now != text or last:
            text = now
            yield min(seconds, (begin + at_once) / max(1, n_frames) * seconds), now


def _rate_hz(trained: Trained) -> int:
    assert trained.config.data.sound, "asked only of networks of sounds"
    return trained.config.data.sound.rate_hz


def _decoded(trained: Trained, files: Sequence[Path]) -> tuple[dict[Path, npt.NDArray[np.int16]], dict[Path, str]]:
    sounds, problems = {}, {}
    for path in dict.fromkeys(files):
        try:
            sounds[path] = one_channel(*decode_audio(path.read_bytes()), _rate_hz(trained))
        except (OSError, ValueError) as error:
            problems[path] = str(error)
    return sounds, problems


def _batches(trained: Trained, sounds: dict[Path, npt.NDArray[np.int16]]) -> Iterator[list[Path]]:
    """Sounds of like length, together not longer than memory is meant for."""
    sound = trained.config.data.sound
    at_once = ((sound and sound.at_once_s) or _AT_ONCE_S) * _rate_hz(trained)
    batch: list[Path] = []
    for path in sorted(sounds, key=lambda each: len(sounds[each])):
        if batch and len(sounds[path]) * (len(batch) + 1) > at_once:
            yield batch
            batch = []
        batch.append(path)
    if batch:
        yield batch


def _outputs(trained: Trained, sounds: Sequence[npt.NDArray[np.int16]]) -> Any:
    split = evaluated_split(trained)
    with registry.using(trained.own_code):
        chain = build_chain(split.transforms, "data.eval")
    batch = _features(trained, chain, sounds)
    with autocast(trained.config.train, trained.device):
        return trained.model(*inputs_of(batch))


def _features(trained: Trained, chain: Chain, sounds: Sequence[npt.NDArray[np.int16]]) -> dict[str, Tensor]:
    lengths = [len(each) for each in sounds]
    sound_BT = np.zeros((len(sounds), max(lengths)), np.int16)
    for row, each in enumerate(sounds):
        sound_BT[row, : len(each)] = each
    tensors: dict[str, Tensor] = {
        "sound": torch.from_numpy(sound_BT),
        "length": torch.tensor(lengths),
        "augment_key": torch.zeros(len(sounds), dtype=torch.int64),
    }
    return features(tensors, chain, _rate_hz(trained), trained.device)


def _guesses(trained: Trained, logits_BC: Tensor, n_best: int) -> Iterator[list[Guess]]:
    names = trained.classes or []
    best = logits_BC.float().softmax(dim=1).topk(min(n_best, logits_BC.shape[1]), dim=1)
    for values, classes in zip(best.values.tolist(), best.indices.tolist()):
        yield [Guess(names[c] if c < len(names) else str(c), value) for c, value in zip(classes, values)]


def as_text(transcripts: Sequence[Transcript]) -> str:
    lines: list[str] = []
    for each in transcripts:
        if each.problem or not each.guesses:
            lines.append(f"{each.file}: {each.problem or each.text}")
        else:
            lines.append(each.file)
        guesses = each.guesses or each.others
        lines += [f"  {100 * guess.probability:6.2f} %  {guess.label}" for guess in guesses]
    return "\n".join(lines)


def as_json(transcripts: Sequence[Transcript]) -> list[dict[str, Any]]:
    return [asdict(each) for each in transcripts]
