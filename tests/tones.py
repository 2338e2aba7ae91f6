"""A corpus of sounds whose text can be learned in seconds: each letter is a tone of its own."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from distdl.data.corpus.shards import write_shards

LETTERS = "abcd"
RATE_HZ = 8000
_TONES_HZ = (400, 700, 1200, 2100)
_LETTER_S = 0.12


def sound_of(text: str, random: np.random.Generator) -> np.ndarray:
    """int16 (samples,): a tone a letter, of varying length and loudness, with pauses and some noise."""
    parts = []
    for letter in text:
        n = int(RATE_HZ * _LETTER_S * random.uniform(0.8, 1.2))
        tone = np.sin(2 * np.pi * _TONES_HZ[LETTERS.index(letter)] * np.arange(n) / RATE_HZ + random.uniform(0, 6))
        parts += [random.uniform(0.1, 0.3) * tone, np.zeros(int(RATE_HZ * random.uniform(0.03, 0.06)))]
    sound = np.concatenate(parts)
    return ((sound + 0.003 * random.standard_normal(len(sound))) * 32767).astype(np.int16)


def file_of(sound: np.ndarray, rate_hz: int = RATE_HZ, kind: str = "flac") -> bytes:
    file = io.BytesIO()
    soundfile.write(file, sound, rate_hz, format=kind.upper(), subtype="PCM_16")
    return file.getvalue()


def write_tones(folder: Path, n: int, *, seed: int = 0, others: dict[int, dict[str, Any]] | None = None) -> Path:
    """`others`: components of the sample of that number instead of its own; None: it lacks that one."""
    random = np.random.default_rng(seed)
    samples = []
    for number in range(n):
        text = "".join(random.choice(list(LETTERS), random.integers(1, 9)))
        sample = {"__key__": f"{number:05}", "flac": file_of(sound_of(text, random)), "txt": text.encode()}
        sample |= (others or {}).get(number, {})
        samples.append({name: component for name, component in sample.items() if component is not None})
    write_shards(samples, folder, classes=None, kind="tones", shard_samples=50)
    return folder
