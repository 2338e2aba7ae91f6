"""Lhotse's manifests (lhotse.readthedocs.io): lines of cuts, or of supervisions beside lines of recordings.

    cuts.jsonl.gz            {"type": "MonoCut", "id", "start", "duration", "channel", "supervisions", "recording"}
    x_supervisions.jsonl     {"id", "recording_id", "start", "duration", "channel", "text", "speaker"}
    x_recordings.jsonl       {"id", "sources": [{"type": "file", "source"}], "sampling_rate", "num_samples", "duration"}

A cut's start counts from the start of its recording. Of a cut with several supervisions the texts follow one another.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from distdl.data.corpus.utterance import Utterance
from distdl.errors import UserError

_KINDS = ("supervisions", "recordings")

Row = dict[str, Any]
Rows = Iterator[tuple[int, Row]]


def is_cut(row: Row) -> bool:
    return "type" in row and str(row["type"]).endswith("Cut")


def is_recording(row: Row) -> bool:
    return "sources" in row and "sampling_rate" in row


def is_supervision(row: Row) -> bool:
    return "recording_id" in row and "duration" in row


def of_cuts(rows: Rows, where: str, path_of: Callable[[str], Path]) -> Iterator[Utterance]:
    for number, row in rows:
        at = f"{where}:{number}"
        if row["type"] not in ("MonoCut", "MultiCut"):
            raise UserError(
                f"cut '{row.get('id')}' is a {row['type']}, which is made of several sounds",
                where=at,
                fix="Save the cuts as sounds first: CutSet.save_audios(...).",
            )
        parts = sorted(row.get("supervisions") or [], key=lambda part: float(part.get("start", 0)))
        texts = [part["text"] for part in parts if part.get("text")]
        speakers = {part["speaker"] for part in parts if part.get("speaker")}
        if "recording" not in row:
            raise UserError(f"cut '{row.get('id')}' has no recording: it is of features alone", where=at)
        yield _utterance(
            row["recording"],
            row,
            at,
            path_of,
            text=" ".join(texts) if texts else None,
            speaker=speakers.pop() if len(speakers) == 1 else None,
        )


def of_supervisions(rows: Rows, recordings: Rows, where: str, path_of: Callable[[str], Path]) -> Iterator[Utterance]:
    by_id = {row["id"]: row for _, row in recordings}
    for number, row in rows:
        at = f"{where}:{number}"
        if row["recording_id"] not in by_id:
            raise UserError(f"recording '{row['recording_id']}' is not in the list of recordings", where=at)
        recording = by_id[row["recording_id"]]
        yield _utterance(recording, row, at, path_of, text=row.get("text"), speaker=row.get("speaker"))


def beside(path: Path, kind: str) -> Path:
    """The list of the other kind: x_supervisions_y.jsonl.gz of x_recordings_y.jsonl.gz, and the other way round.

    Raises UserError where there is none.
    """
    other = _KINDS[1 - _KINDS.index(kind)]
    found = path.with_name(path.name.replace(kind, other))
    if found == path or not found.is_file():
        raise UserError(
            f"this is a list of {kind}, and the list of {other} is not beside it",
            where=str(path),
            fix=f"Call them alike, such as train_{kind}.jsonl.gz and train_{other}.jsonl.gz.",
        )
    return found


def _utterance(
    recording: Row, part: Row, where: str, path_of: Callable[[str], Path], *, text: str | None, speaker: str | None
) -> Utterance:
    sources = recording["sources"]
    if len(sources) != 1 or sources[0]["type"] != "file" or recording.get("transforms"):
        what = "changed by transforms" if recording.get("transforms") else "not one file"
        raise UserError(
            f"recording '{recording['id']}' is {what}", where=where, fix="Save it as a sound first: save_audios(...)."
        )
    rate_hz, n_there = int(recording["sampling_rate"]), int(recording["num_samples"])
    begin_s, duration_s = float(part.get("start", 0.0)), float(part["duration"])
    begin, end = round(begin_s * rate_hz), round((begin_s + duration_s) * rate_hz)
    is_whole = begin == 0 and abs(end - n_there) <= 1
    return Utterance(
        key=str(part["id"]),
        path=path_of(sources[0]["source"]),
        text=text,
        speaker=speaker,
        begin_s=begin_s,
        duration_s=None if is_whole else duration_s,
        channel=_channel(part.get("channel"), sources[0].get("channels") or [0], where),
        n_samples=n_there if is_whole else end - begin,
        rate_hz=rate_hz,
    )


def _channel(wanted: Any, there: list[int], where: str) -> int | None:
    wanted = there if wanted is None else [wanted] if isinstance(wanted, int) else list(wanted)
    if sorted(wanted) == sorted(there):
        return None
    if len(wanted) > 1 or wanted[0] not in there:
        raise UserError(f"channels {wanted} of a recording with channels {there}", where=where)
    return there.index(wanted[0])
