"""A folder of sound files with their transcripts (a .txt beside each, or all of them in a table), and manifests."""

import os
from collections.abc import Mapping
from pathlib import Path

from distdl.data.audio import AUDIO_EXTENSIONS, is_audio
from distdl.data.corpus.utterance import Utterance
from distdl.data.manifests.kaldi import SCP
from distdl.data.manifests.read import utterances
from distdl.data.packing.corpus import SPLITS, Corpus, Others, source_folder
from distdl.data.packing.speech import SpeechRules, corpus, held_out
from distdl.data.table_rows import rows_of
from distdl.errors import UserError

_TABLES = {"transcripts.tsv": "\t", "transcripts.csv": ","}  # file name -> what is between its columns
_SPLITS = (*SPLITS, "dev", "valid", "eval")
_NEEDED = ("file", "text")


def speech(
    src: Path | None, *, holdout: float = 0.0, by_speaker: bool = False, rules: SpeechRules | None = None
) -> Corpus:
    """SRC/**/*.flac (wav, ogg, opus, mp3), with the transcripts in a .txt beside each or in transcripts.tsv (or .csv).

    The table has a head with the columns `file` (relative to the table) and `text`, and perhaps `speaker`; other
    columns go into the samples' json. Folders SRC/train, SRC/dev, SRC/test and the like are splits, each perhaps with a
    table of its own; else `holdout` is the share that becomes test, `by_speaker`: whole speakers at a time. Files that
    a table does not name are left out.
    """
    src = source_folder(src, "sound files and their transcripts")
    folders = {split: src / split for split in _SPLITS if (src / split).is_dir()}
    if folders and holdout:
        raise UserError(
            f"the source has its own splits: {', '.join(folders)}", where=str(src), fix="Leave out --holdout."
        )
    notes: list[str] = []
    if folders:
        splits = _in_splits(src, folders, notes)
    else:
        found = _utterances(src, _table(src), "", notes)
        if not found:
            raise UserError(
                f"no sounds here ({', '.join(AUDIO_EXTENSIONS)})",
                where=str(src),
                fix="Expected: sound files with a .txt beside each, or with transcripts.tsv.",
            )
        _check_speakers(found, by_speaker, src)
        splits = held_out(found, holdout, by_speaker=by_speaker)
    return corpus(splits, rules or SpeechRules(), notes=notes, where=str(src))


def _in_splits(src: Path, folders: Mapping[str, Path], notes: list[str]) -> dict[str, list[Utterance]]:
    """Of each split by its own table, or by the rows of the common one that lie in its folder."""
    besides = sorted(
        entry.name
        for entry in src.iterdir()
        if entry.name not in (*folders, *_TABLES) and not entry.name.startswith(".")
    )
    if besides:
        notes.append(f"left out what is beside {', '.join(folders)}: {', '.join(besides[:5])}")
    common = _table(src)
    splits = {}
    n_used = 0
    for split, folder in folders.items():
        table = _table(folder)
        if table is None and common is not None:
            table = {path: row for path, row in common.items() if path.is_relative_to(folder)}
            n_used += len(table)
        splits[split] = _utterances(folder, table, split, notes)
    if n_unused := len(common or ()) - n_used:
        notes.append(f"left out {n_unused:,} rows of the table whose sounds lie in none of {', '.join(folders)}")
    return splits


def _check_speakers(found: list[Utterance], by_speaker: bool, src: Path) -> None:
    if by_speaker and not any(each.speaker for each in found):
        raise UserError(
            "no speaker is known", where=str(src), fix="Leave out --by-speaker, or name them (column 'speaker')."
        )


Table = Mapping[Path, Mapping[str, str]]


def _utterances(folder: Path, table: Table | None, split: str, notes: list[str]) -> list[Utterance]:
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
                utterances.append(_of_row(key, path, row))
            else:
                unnamed += 1
    # What a table names and the walk has not met may lie behind a link; or is not there, and is left out by name.
    for path, row in (table or {}).items():
        if path not in seen:
            inside = path.relative_to(folder) if path.is_relative_to(folder) else path
            utterances.append(_of_row(inside.with_suffix("").as_posix(), path, row))
    notes += others.note(split or "source")
    if unnamed:
        notes.append(f"{split or 'source'}: left out {unnamed:,} sounds that no row of the table names")
    return utterances


def _of_row(key: str, path: Path, row: Mapping[str, str]) -> Utterance:
    about = {name: value for name, value in row.items() if name not in (*_NEEDED, "speaker")}
    return Utterance(key=key, path=path, text=row["text"], speaker=row.get("speaker") or None, about=about)


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


def kaldi(
    src: Path | None, *, holdout: float = 0.0, by_speaker: bool = False, rules: SpeechRules | None = None
) -> Corpus:
    """SRC is a data folder (wav.scp, text, utt2spk, segments), or has several, each of which is a split of its name."""
    src = source_folder(src, f"{SCP}, text, and perhaps utt2spk and segments")
    if (src / SCP).is_file():
        return manifest(src, holdout=holdout, by_speaker=by_speaker, rules=rules)
    folders = sorted(path.parent for path in src.glob(f"*/{SCP}"))
    if not folders:
        raise UserError(f"there is no {SCP} here", where=str(src), fix=f"Expected: SRC/{SCP} or SRC/<split>/{SCP}.")
    if holdout:
        raise UserError("the source has its own splits", where=str(src), fix="Leave out --holdout.")
    splits = {folder.name: list(utterances(folder)) for folder in folders}
    return corpus(splits, rules or SpeechRules(), where=str(src))


def manifest(
    src: Path | None, *, holdout: float = 0.0, by_speaker: bool = False, rules: SpeechRules | None = None
) -> Corpus:
    """SRC is a manifest of Lhotse, NeMo or SpeechBrain, or a data folder of Kaldi: the split train, and test by
    `holdout`."""
    if src is None:
        raise UserError("there is no manifest", where="SRC", fix="Expected: data pack manifest FILE DST.")
    found = list(utterances(src))
    _check_speakers(found, by_speaker, src)
    return corpus(held_out(found, holdout, by_speaker=by_speaker), rules or SpeechRules(), where=str(src))
