"""SpeechBrain's manifests (speechbrain.readthedocs.io, "Data Loading Pipeline"): JSON or CSV, a row an utterance.

    {"id": {"wav": "a.wav" or {"file", "start", "stop"}, "length" or "duration", "words", "spk_id"}, ...}
    ID,duration,wav,start,stop,spk_id,wrd

`start` and `stop` count samples. `{data_root}` at the start of a path is the manifest's folder.
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from distdl.data.audio import file_length
from distdl.data.corpus.utterance import Utterance
from distdl.errors import UserError

_TEXTS = ("wrd", "words", "transcript", "transcription", "text", "char")
_SPEAKERS = ("spk_id", "speaker", "spk")
_SOUNDS = ("wav", "sig", "file", "path")
_ROOTS = ("{data_root}", "$data_root", "{data_folder}", "$data_folder")


def utterances(
    rows: Iterator[tuple[str, Mapping[str, Any]]], where: str, path_of: Callable[[str], Path]
) -> Iterator[Utterance]:
    """`rows`: (id, fields)."""
    for name, row in rows:
        at = f"{where}: {name}"
        sound = _first(row, _SOUNDS, "a sound", at)
        file, start, stop = sound, row.get("start"), row.get("stop")
        if isinstance(sound, Mapping):
            file, start, stop = sound.get("file"), sound.get("start"), sound.get("stop")
        path = path_of(_without_root(str(file)))
        begin_s, duration_s = _part(path, start, stop, at)
        speaker = next((row[each] for each in _SPEAKERS if row.get(each)), None)
        yield Utterance(
            key=name,
            path=path,
            text=str(_first(row, _TEXTS, "a transcript", at)),
            speaker=None if speaker is None else str(speaker),
            begin_s=begin_s,
            duration_s=duration_s,
        )


def _first(row: Mapping[str, Any], names: tuple[str, ...], what: str, where: str) -> Any:
    for name in names:
        if row.get(name) is not None:
            return row[name]
    raise UserError(f"it has no field for {what} ({', '.join(names)}); it has: {', '.join(row)}", where=where)


def _without_root(path: str) -> str:
    for root in _ROOTS:
        if path.startswith(root):
            return path[len(root) :].lstrip("/")
    return path


def _part(path: Path, start: Any, stop: Any, where: str) -> tuple[float, float | None]:
    if start in (None, "") and stop in (None, ""):
        return 0.0, None
    try:
        rate_hz = file_length(path).rate_hz
        begin = int(start or 0)
        end = None if stop in (None, "") else int(stop)
    except ValueError as error:
        raise UserError(f"its start and stop, in samples, can't be used: {error}", where=where) from None
    return begin / rate_hz, None if end is None else (end - begin) / rate_hz
