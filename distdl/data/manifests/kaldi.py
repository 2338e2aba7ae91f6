"""Kaldi's data folder: wav.scp, text, and perhaps utt2spk and segments (kaldi-asr.org/doc/data_prep.html).

    wav.scp   <recording> <file>            text      <utterance> <transcript>
    utt2spk   <utterance> <speaker>         segments  <utterance> <recording> <begin in s> <end in s, or -1>

A wav.scp that runs commands (a line that ends with |) is refused: no text file runs programs here.
"""

from collections.abc import Iterator
from pathlib import Path

from distdl.data.corpus.utterance import Utterance
from distdl.data.manifests.paths import Base
from distdl.errors import UserError

SCP = "wav.scp"


def utterances(folder: Path) -> Iterator[Utterance]:
    """Raises UserError for lines that can't be followed, and where a transcript has no sound."""
    recordings = {name: _file(name, value, folder / SCP) for name, value in _pairs(folder / SCP).items()}
    texts = _pairs(folder / "text") if (folder / "text").is_file() else {}
    speakers = _pairs(folder / "utt2spk") if (folder / "utt2spk").is_file() else {}
    segments = folder / "segments"
    parts = _segments(segments, recordings) if segments.is_file() else {name: (name, 0.0, None) for name in recordings}
    if without := next((name for name in texts if name not in parts), None):
        of = segments.name if segments.is_file() else SCP
        raise UserError(f"utterance '{without}' is not in {of}", where=str(folder / "text"))
    base = Base(folder)
    for name, (recording, begin_s, duration_s) in parts.items():
        yield Utterance(
            key=name,
            path=base(recordings[recording]),
            text=texts.get(name),
            speaker=speakers.get(name),
            begin_s=begin_s,
            duration_s=duration_s,
        )


def _pairs(path: Path) -> dict[str, str]:
    found: dict[str, str] = {}
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"can't read it: {error}", where=str(path)) from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        name, *rest = line.split(maxsplit=1)
        if name in found:
            raise UserError(f"'{name}' comes twice", where=f"{path}:{number}")
        found[name] = rest[0].strip() if rest else ""
    return found


def _file(name: str, value: str, path: Path) -> str:
    if value.endswith("|"):
        raise UserError(
            f"the sound of '{name}' comes from a command: {value[:60]}",
            where=str(path),
            fix="No command is run. Write the sounds into files, and name these in wav.scp.",
        )
    if value == "-" or ".ark:" in value:
        raise UserError(
            f"the sound of '{name}' is no file of its own: {value[:60]}", where=str(path), fix="Name a sound file."
        )
    if not value:
        raise UserError(f"recording '{name}' has no file", where=str(path))
    return value


def _segments(path: Path, recordings: dict[str, str]) -> dict[str, tuple[str, float, float | None]]:
    """Utterance -> (recording, where it begins in s, duration in s; None: to the end)."""
    found: dict[str, tuple[str, float, float | None]] = {}
    for name, value in _pairs(path).items():
        try:
            recording, begin, end = value.split()
            begin_s, end_s = float(begin), float(end)
        except ValueError:
            raise UserError(
                f"utterance '{name}' has no recording, begin and end: {value[:60]}", where=str(path)
            ) from None
        if recording not in recordings:
            raise UserError(f"recording '{recording}' is not in {SCP}", where=str(path))
        if begin_s < 0 or (end_s != -1 and not end_s > begin_s):
            raise UserError(f"utterance '{name}' goes from {begin_s:g} to {end_s:g} s", where=str(path))
        found[name] = recording, begin_s, None if end_s == -1 else end_s - begin_s
    return found
