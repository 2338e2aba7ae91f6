"""Spoken digits strung together: shards of utterances of three to seven digits, out of the Free Spoken Digit Dataset.

    python examples/connected_digits.py SRC data/connected_digits
    distdl train configs/speech/connected_digits.yaml --nproc 2

Each utterance is of one speaker, its digits drawn at random with pauses between; the speakers of the test set are not
heard in training. SRC holds recordings/DIGIT_SPEAKER_NUMBER.wav. Another run makes the same shards.
"""

import io
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
import soundfile

from distdl.data.audio import decode_audio
from distdl.data.corpus.shards import write_shards

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
HELD_OUT = ("theo",)
N_TRAIN, N_TEST = 3000, 300


def main(source: Path, target: Path) -> None:
    of_speaker: dict[str, list[tuple[int, np.ndarray]]] = defaultdict(list)
    rate_hz = 0
    for path in sorted((source / "recordings").glob("*.wav")):
        digit, speaker, _ = path.stem.split("_")
        samples, rate_hz = decode_audio(path.read_bytes())
        of_speaker[speaker].append((int(digit), samples[:, 0]))
    speakers = sorted(set(of_speaker) - set(HELD_OUT))
    for name, who, n, seed in (("train", speakers, N_TRAIN, 0), ("test", list(HELD_OUT), N_TEST, 1)):
        random = np.random.default_rng(seed)
        samples = (utterance(random, of_speaker[who[i % len(who)]], rate_hz, f"{i:05}") for i in range(n))
        write_shards(samples, target / name, classes=None, kind="connected digits")


def utterance(
    random: np.random.Generator, recordings: list[tuple[int, np.ndarray]], rate_hz: int, key: str
) -> dict[str, str | bytes]:
    """A sample of a shard: a sound in FLAC, and its words."""
    chosen = [recordings[i] for i in random.integers(len(recordings), size=random.integers(3, 8))]
    parts = [np.zeros(int(random.uniform(0.05, 0.2) * rate_hz), np.int16)]
    for _, sound in chosen:
        parts += [sound, np.zeros(int(random.uniform(0.02, 0.2) * rate_hz), np.int16)]
    file = io.BytesIO()
    soundfile.write(file, np.concatenate(parts), rate_hz, format="FLAC")
    return {"__key__": key, "flac": file.getvalue(), "txt": " ".join(WORDS[digit] for digit, _ in chosen)}


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
