"""NeMo's manifests (docs.nvidia.com/nemo): a JSON object a line, {"audio_filepath", "duration", "text"}, and perhaps
"offset", in seconds: without it the sound is the whole file."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from distdl.data.corpus.utterance import Utterance
from distdl.errors import UserError


def utterances(
    rows: Iterator[tuple[int, dict[str, Any]]], where: str, path_of: Callable[[str], Path]
) -> Iterator[Utterance]:
    """A key is the file's name with the number of the line, since a file may have many parts."""
    for number, row in rows:
        if "audio_filepath" not in row:
            raise UserError("it has no audio_filepath", where=f"{where}:{number}")
        path, offset = path_of(str(row["audio_filepath"])), row.get("offset")
        if offset is not None and row.get("duration") is None:
            raise UserError("it has an offset and no duration", where=f"{where}:{number}")
        text, speaker = row.get("text"), row.get("speaker")
        yield Utterance(
            key=f"{path.stem}-{number}",
            path=path,
            text=None if text is None else str(text),
            speaker=None if speaker is None else str(speaker),
            begin_s=float(offset or 0.0),
            duration_s=None if offset is None else float(row["duration"]),
        )
