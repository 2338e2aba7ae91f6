"""A folder of sound files with their transcripts: a .txt beside each, or all of them in a table."""

import csv
import os
from collections.abc import Mapping
from pathlib import Path

from distdl.data.audio import AUDIO_EXTENSIONS, is_audio
from distdl.data.corpus.utterance import Utterance
from distdl.data.packing.corpus import SPLITS, Corpus, Others, source_folder
from distdl.data.packing.speech import SpeechRules, corpus, held_out
from distdl.errors import UserError

_TABLES = {"transcripts.tsv": "\t", "transcripts.csv": ","}  # file name -> what is between its columns
_NEEDED = ("file", "text")


def speech(
    src: Path | None, *, holdout: float = 0.0, by_speaker: bool = False, rules: SpeechRules | None = None
) -> Corpus:
    """SRC/**/*.flac (wav, ogg, opus, mp3), with the transcripts in a .txt beside each or in transcripts.tsv (or .csv).

    The table has a head with the columns `file` (relative to the table) and `text`, and perhaps `speaker`; other
    columns go into the samples' json. Folders SRC/train, SRC/val and SRC/test are splits, each perhaps with a table of
    its own; else `holdout` is the share that becomes test, `by_speaker`: whole speakers at a time. Files that a table
    does not name are left out.
    """
    src = source_folder(src, "sound files and their transcripts")
    folders = {split: src / split for split in SPLITS if (src / split).is_dir()}
    if folders and holdout:
        raise UserError(
            f"the source has its own splits: {', '.join(folders)}", where=str(src), fix="Leave out --holdout."
        )
    notes: list[str] = []
    common = _table(src)
    if folders:
        splits = {
            split: _utterances(folder, src, _table(folder) or common, split, notes) for split, folder in folders.items()
        }
    else:
        found = _utterances(src, src, common, "", notes)
        if not found:
            raise UserError(
                f"no sounds here ({', '.join(AUDIO_EXTENSIONS)})",
                where=str(src),
                fix="Expected: sound files with a .txt beside each, or with transcripts.tsv.",
            )
        if by_speaker and not any(each.speaker for each in found):
            raise UserError("no speaker is known", where=str(src), fix="Give the table a column 'speaker'.")
        splits = held_out(found, holdout, by_speaker=by_speaker)
    return corpus(splits, rules or SpeechRules(), notes=notes, where=str(src))


Table = Mapping[Path, Mapping[str, str]]


def _utterances(folder: Path, src: Path, table: Table | None, split: str, notes: list[str]) -> list[Utterance]:
    utterances, others, unnamed = [], Others(), 0
    seen = set()
    for parent, subfolders, names in os.walk(folder):
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        for name in sorted(names):
            path = Path(parent, name)
            if name.startswith(".") or path.suffix == ".txt" or name in _TABLES:
                continue
            if not is_audio(path.suffix[1:].lower()):
                others.add(path.relative_to(folder).as_posix())
                continue
            key = path.relative_to(folder).with_suffix("").as_posix()
            if table is None:
                utterances.append(Utterance(key=key, path=path, text=_beside(path)))
            elif row := table.get(path):
                seen.add(path)
                about = {name: value for name, value in row.items() if name not in (*_NEEDED, "speaker")}
                speaker = row.get("speaker") or None
                utterances.append(Utterance(key=key, path=path, text=row["text"], speaker=speaker, about=about))
            else:
                unnamed += 1
    missing = [path for path in table or () if path not in seen and path.is_relative_to(folder)]
    # What a table names and is not there is a sample that can't be read: left out by name when it is its turn.
    for path in missing:
        key = path.relative_to(folder).with_suffix("").as_posix()
        utterances.append(Utterance(key=key, path=path, text=(table or {})[path]["text"]))
    notes += others.note(split or "source")
    if unnamed:
        notes.append(f"{split or 'source'}: left out {unnamed:,} sounds that no row of the table names")
    return utterances


def _beside(path: Path) -> str | None:
    """The transcript of a .txt, one or several lines; None where there is none or it is no text."""
    try:
        return " ".join(path.with_suffix(".txt").read_text(encoding="utf-8-sig").split("\n"))
    except (OSError, UnicodeDecodeError):
        return None


def _table(folder: Path) -> Table | None:
    """Sound file -> its row; None where the folder has no table. Raises UserError for one without its columns."""
    path = next((folder / name for name in _TABLES if (folder / name).is_file()), None)
    if path is None:
        return None
    between = _TABLES[path.name]
    found: dict[Path, Mapping[str, str]] = {}
    for number, row in rows_of(path, between, _NEEDED):
        file = Path(os.path.normpath(folder / row["file"]))
        if file in found:
            raise UserError(f"'{row['file']}' comes twice", where=f"{path}:{number}")
        found[file] = row
    return found


def rows_of(path: Path, between: str, needed: tuple[str, ...]) -> list[tuple[int, dict[str, str]]]:
    """(number of the line, column -> value) of a table with a head.

    Columns end at tabs where `between` is one, without any quoting. Raises UserError for a table that can't be read,
    that lacks a column or has no rows, and for a row of another length than the head.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            if between == "\t":
                rows = csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
            else:
                rows = csv.reader(file, delimiter=between)
            head = next(rows, [])
            if missing := [name for name in needed if name not in head]:
                raise UserError(
                    f"it has no column '{missing[0]}' (its head has: {', '.join(head) or 'nothing'})", where=str(path)
                )
            found = []
            for row in filter(None, rows):
                if len(row) != len(head):
                    where = f"{path}:{rows.line_num}"
                    raise UserError(f"{len(row)} columns; the head has {len(head)}", where=where)
                found.append((rows.line_num, dict(zip(head, row, strict=True))))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"can't read it: {error}", where=str(path)) from error
    if not found:
        raise UserError("there are no rows in it", where=str(path))
    return found
