"""Corpora of speech as they are downloaded: LibriSpeech, LJ Speech, Common Voice, the Free Spoken Digit Dataset."""

import re
from collections.abc import Iterator
from pathlib import Path

from distdl.data.corpus.utterance import Utterance
from distdl.data.packing.corpus import Corpus, source_folder
from distdl.data.packing.speech import SpeechRules, corpus, held_out
from distdl.data.table_rows import rows_of
from distdl.errors import UserError

_DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_DIGIT_FILE = re.compile(r"(\d)_([^_]+)_(\d+)\.wav")
_TEST_RECORDINGS = 5  # of each digit and speaker: 0 to 4
_LJ_METADATA = "metadata.csv"
_LJ_HOLDOUT = 0.05
_COMMON_VOICE_SPLITS = {"train": "train", "dev": "val", "test": "test"}  # name of the table -> split
_COMMON_VOICE_ABOUT = ("age", "gender", "accents", "locale")

# --- fsdd: github.com/Jakobovski/free-spoken-digit-dataset, recordings/<digit>_<speaker>_<index>.wav ---


def fsdd(src: Path | None, *, rules: SpeechRules | None = None) -> Corpus:
    """The official split: of each digit and speaker, recordings 0 to 4 are for test. Transcripts are English words."""
    src = source_folder(src, "recordings/<digit>_<speaker>_<index>.wav")
    folder = src / "recordings" if (src / "recordings").is_dir() else src
    splits: dict[str, list[Utterance]] = {"train": [], "test": []}
    others = 0
    for path in sorted(folder.iterdir()):
        match = _DIGIT_FILE.fullmatch(path.name)
        if not match:
            others += 1
            continue
        digit, speaker, index = int(match[1]), match[2], int(match[3])
        splits["test" if index < _TEST_RECORDINGS else "train"].append(
            Utterance(key=path.stem, path=path, text=_DIGITS[digit], speaker=speaker, label=digit)
        )
    if not any(splits.values()):
        raise UserError("no recording here is called <digit>_<speaker>_<index>.wav", where=str(folder))
    notes = [f"left out {others:,} files whose names are no recording's"] if others else []
    return corpus(splits, rules or SpeechRules(), classes=list("0123456789"), notes=notes, where=str(folder))


# --- librispeech: openslr.org/12, <subset>/<speaker>/<chapter>/<utterance>.flac and <speaker>-<chapter>.trans.txt ---


def librispeech(src: Path | None, *, rules: SpeechRules | None = None) -> Corpus:
    """Each subset (dev-clean, train-clean-100 ...) is a split of its name; SRC may also be one subset."""
    src = source_folder(src, "subsets such as dev-clean/<speaker>/<chapter>/*.flac")
    src = src / "LibriSpeech" if (src / "LibriSpeech").is_dir() else src
    is_subset = next(src.glob("*/*/*.trans.txt"), None) is not None
    subsets = [src] if is_subset else sorted({path.parents[2] for path in src.glob("*/*/*/*.trans.txt")})
    if not subsets:
        raise UserError(
            "no transcripts (*.trans.txt) here",
            where=str(src),
            fix="Expected: SRC/<subset>/<speaker>/<chapter>/<speaker>-<chapter>.trans.txt, with *.flac beside it.",
        )
    splits = {subset.resolve().name: list(_read_subset(subset)) for subset in subsets}
    return corpus(splits, rules or SpeechRules(), where=str(src))


def _read_subset(subset: Path) -> Iterator[Utterance]:
    """What has a transcript and no sound, or a sound and no transcript, is an utterance too: it is left out by name."""
    for chapter in sorted(path for path in subset.glob("*/*") if path.is_dir()):
        texts: dict[str, str] = {}
        for transcripts in sorted(chapter.glob("*.trans.txt")):
            for line in lines_of(transcripts):
                name, _, text = line.partition(" ")
                texts[name] = text
        for name in sorted({*texts, *(path.stem for path in chapter.glob("*.flac"))}):
            yield Utterance(
                key=name,
                path=chapter / f"{name}.flac",
                text=texts.get(name),
                speaker=chapter.parent.name,
                about={"chapter": chapter.name},
            )


# --- ljspeech: keithito.com/LJ-Speech-Dataset, metadata.csv and wavs/ ---


def ljspeech(src: Path | None, *, holdout: float = _LJ_HOLDOUT, rules: SpeechRules | None = None) -> Corpus:
    """One woman reads; there is no official split: `holdout` of the utterances, chosen by their names, is for test.

    The transcript is the normalised one, in which numbers and abbreviations are written out.
    """
    src = source_folder(src, f"{_LJ_METADATA} and wavs/")
    path = src / _LJ_METADATA
    found = []
    for number, line in enumerate(lines_of(path), 1):
        name, *texts = line.split("|")
        if len(texts) != 2:
            raise UserError(
                f"{len(texts) + 1} fields; expected are name|text|normalised text", where=f"{path}:{number}"
            )
        written, read_out = texts
        about = {"written": written}
        found.append(Utterance(key=name, path=src / "wavs" / f"{name}.wav", text=read_out, speaker="LJ", about=about))
    return corpus(held_out(found, holdout), rules or SpeechRules(), where=str(src))


# --- commonvoice: commonvoice.mozilla.org, train.tsv, dev.tsv, test.tsv and clips/*.mp3 of one language ---


def commonvoice(src: Path | None, *, rules: SpeechRules | None = None) -> Corpus:
    """The official split, in which no speaker is on both sides; dev is called val."""
    src = source_folder(src, "train.tsv, dev.tsv, test.tsv and clips/")
    tables = {split: src / f"{name}.tsv" for name, split in _COMMON_VOICE_SPLITS.items()}
    tables = {split: path for split, path in tables.items() if path.is_file()}
    if not tables:
        raise UserError(
            "there is no train.tsv, dev.tsv or test.tsv",
            where=str(src),
            fix="Give the folder of one language, such as cv-corpus-17.0/de.",
        )
    splits = {split: list(_clips(path, src / "clips")) for split, path in tables.items()}
    others = sorted(path.name for path in src.glob("*.tsv") if path not in tables.values())
    notes = [f"left out what is in none of the splits: {', '.join(others)}"] if others else []
    return corpus(splits, rules or SpeechRules(), notes=notes, where=str(src))


def _clips(table: Path, clips: Path) -> Iterator[Utterance]:
    for _, row in rows_of(table, "\t", ("client_id", "path", "sentence")):
        name = row["path"] if Path(row["path"]).suffix else f"{row['path']}.mp3"  # the first releases left it out
        yield Utterance(
            key=Path(name).stem,
            path=clips / name,
            text=row["sentence"],
            speaker=row["client_id"],
            about={name: row[name] for name in _COMMON_VOICE_ABOUT if row.get(name)},
        )


def lines_of(path: Path) -> list[str]:
    """Those that are not empty. Raises UserError for what is no text in UTF-8."""
    try:
        return [line for line in path.read_text(encoding="utf-8-sig").split("\n") if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"can't read it: {error}", where=str(path)) from error
