"""Corpora of speech as they are downloaded: LibriSpeech, LJ Speech, Common Voice, the Free Spoken Digit Dataset."""

import re
from pathlib import Path

from distdl.data.corpus.utterance import Utterance
from distdl.data.packing.corpus import Corpus, source_folder
from distdl.data.packing.speech import SpeechRules, corpus
from distdl.errors import UserError

_DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_DIGIT_FILE = re.compile(r"(\d)_([^_]+)_(\d+)\.wav")
_TEST_RECORDINGS = 5  # of each digit and speaker: 0 to 4
_LJ_METADATA = "metadata.csv"
_COMMON_VOICE_SPLITS = {"train": "train", "dev": "val", "test": "test"}  # name of the table -> split

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
