"""Utterances as samples of shards: sound, normalised transcript, and what is known of them as JSON.

    84-121123-0000.flac   as it was, byte by byte; FLAC where it was resampled, mixed to one channel or cut out
    84-121123-0000.txt    the transcript by the rules
    84-121123-0000.cls    a class number, where the corpus has classes
    84-121123-0000.json   speaker, duration_s, rate_hz, the transcript as it was, and what else the source says

Every sound is decoded whole once, so that a damaged one is left out, and told, before it is trained on.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import xxhash

from distdl.data.audio import Samples, decode_audio, flac_of, is_audio
from distdl.data.corpus.shards import RawSample
from distdl.data.corpus.utterance import Utterance, file_bytes, sound, wav_of
from distdl.data.packing.corpus import Corpus, Unfit, check_share
from distdl.data.transcripts import TextRules
from distdl.errors import UserError

FORMATS = ("flac", "wav")


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeechRules:
    """What is asked for of all utterances of a corpus."""

    text: TextRules = field(default_factory=TextRules)
    rate_hz: int | None = None  # None: each its own
    mono: bool = False
    format: str | None = None  # None: as it was
    min_s: float = 0.0
    max_s: float | None = None

    def __post_init__(self) -> None:
        if self.rate_hz is not None and not 1000 <= self.rate_hz <= 384_000:
            raise UserError(f"{self.rate_hz} Hz is no rate of a sound (1000 to 384000)", where="command line --rate")
        if self.format not in (None, *FORMATS):
            raise UserError(f"'{self.format}' is none of {', '.join(FORMATS)}", where="command line --format")
        if self.min_s < 0 or (self.max_s is not None and self.max_s <= self.min_s):
            raise UserError(
                f"no sound lasts at least {self.min_s:g} s and at most {self.max_s:g} s",
                where="command line --min-seconds, --max-seconds",
            )

    def __str__(self) -> str:
        return json.dumps(self.recorded)

    @property
    def recorded(self) -> dict[str, Any]:
        """For dataset.json."""
        of_sound = {name: getattr(self, name) for name in ("rate_hz", "mono", "format", "min_s", "max_s")}
        return of_sound | self.text.recorded


class Utterances(Sequence[RawSample]):
    """In an order that mixes the speakers and depends on the keys alone."""

    def __init__(self, utterances: Iterable[Utterance], rules: SpeechRules) -> None:
        self._utterances = sorted(utterances, key=lambda each: (_hash(each.key), each.key))
        self._keys = _webdataset_keys([each.key for each in self._utterances])
        self._rules = rules

    def __len__(self) -> int:
        return len(self._utterances)

    def __getitem__(self, i: Any) -> Any:
        utterance = self._utterances[i]
        try:
            return self._sample(self._keys[i], utterance)
        except ValueError as error:
            raise Unfit(utterance.key, str(error)) from None

    @property
    def fingerprint(self) -> str:
        """Of names, places and transcripts, not of the sounds, which would have to be read."""
        digest = xxhash.xxh3_64()
        for each in self._utterances:
            what = (each.key, str(each.path), each.text, each.speaker, each.begin_s, each.duration_s, each.label)
            digest.update(repr(what).encode("utf-8", "surrogateescape"))
        return f"{len(self):,} ({digest.hexdigest()})"

    def _sample(self, key: str, utterance: Utterance) -> RawSample:
        if utterance.text is None:
            raise ValueError("it has no transcript")
        text = self._rules.text(utterance.text)
        content, extension, samples, rate_hz = self._sound(utterance)
        seconds = len(samples) / rate_hz
        if seconds < self._rules.min_s:
            raise ValueError(f"it lasts {seconds:.2f} s, less than {self._rules.min_s:g} s")
        if self._rules.max_s is not None and seconds > self._rules.max_s:
            raise ValueError(f"it lasts {seconds:.2f} s, more than {self._rules.max_s:g} s")
        about = {
            "speaker": utterance.speaker,
            "duration_s": round(seconds, 6),
            "rate_hz": rate_hz,
            "text": utterance.text,
            **utterance.about,
        }
        label = {} if utterance.label is None else {"cls": utterance.label}
        return {
            "__key__": key,
            extension: content,
            "txt": text,
            **label,
            "json": json.dumps(about, ensure_ascii=False, sort_keys=True),
        }

    def _sound(self, utterance: Utterance) -> tuple[bytes, str, Samples, int]:
        """(the file's bytes, extension, samples, rate in Hz)."""
        source = utterance.path.suffix[1:].lower()
        whole = utterance.is_whole and is_audio(source)
        content = file_bytes(utterance.path) if whole else b""
        samples, rate_hz = decode_audio(content) if whole else sound(utterance)
        wanted_hz = self._rules.rate_hz or rate_hz
        is_mixed = self._rules.mono and samples.shape[1] > 1
        if whole and wanted_hz == rate_hz and not is_mixed and self._rules.format in (None, source):
            return content, source, samples, rate_hz
        if is_mixed:
            samples = _rounded(samples.astype(np.float32).mean(axis=1, keepdims=True))
        if wanted_hz != rate_hz:
            samples = _resampled(samples, rate_hz, wanted_hz)
        extension = self._rules.format or "flac"
        return (flac_of if extension == "flac" else wav_of)(samples, wanted_hz), extension, samples, wanted_hz


def corpus(
    splits: dict[str, list[Utterance]],
    rules: SpeechRules,
    *,
    classes: list[str] | None = None,
    notes: Iterable[str] = (),
    where: str = "",
) -> Corpus:
    """Raises UserError for a split without utterances."""
    for split, utterances in splits.items():
        if not utterances:
            raise UserError(f"the split {split} has no utterances", where=where)
    made = {split: Utterances(utterances, rules) for split, utterances in splits.items()}
    return Corpus(classes, dict(made), tuple(notes), thing="utterance", rules=rules.recorded)


def held_out(utterances: list[Utterance], share: float, *, by_speaker: bool = False) -> dict[str, list[Utterance]]:
    """train and test: whether an utterance is held out follows from its key alone (or its speaker's name), so that it
    stays where it is when others come or go. About the share, by chance."""
    check_share(share)
    if not share:
        return {"train": utterances}
    splits: dict[str, list[Utterance]] = {"train": [], "test": []}
    for each in utterances:
        name = (each.speaker or each.key) if by_speaker else each.key
        splits["test" if _hash(f"test\0{name}") < share * 2**64 else "train"].append(each)
    return splits


def _hash(text: str) -> int:
    return xxhash.xxh3_64_intdigest(text.encode("utf-8", "surrogateescape"))


def _webdataset_keys(names: list[str]) -> list[str]:
    """With `_` for dots, which end a key; a second one of the same name has `_` behind it."""
    taken: set[str] = set()
    keys = []
    for name in names:
        key = name.strip("/").replace(".", "_")
        while key in taken:
            key += "_"
        taken.add(key)
        keys.append(key)
    return keys


def _resampled(samples: Samples, rate_hz: int, wanted_hz: int) -> Samples:
    """By soxr at its quality HQ."""
    try:
        import soxr
    except ImportError as error:
        raise UserError("to resample needs the package soxr", fix="pip install 'distdl[audio]'") from error
    resampled = soxr.resample(samples.astype(np.float32), rate_hz, wanted_hz)
    if not len(resampled):
        raise ValueError(f"nothing is left of its {len(samples)} samples at {wanted_hz} Hz")
    return _rounded(resampled)


def _rounded(values: np.ndarray) -> Samples:
    return np.clip(np.rint(values), -32768, 32767).astype(np.int16)
