"""How much speech one CPU core reads: seconds of sound per second of CPU time, beside what reads it elsewhere.

    python benchmarks/audio.py FOLDER_OF_WAVS [--rounds 9] [--out FILE.json]

The clips are the folder's own, 16 bits and one channel, brought to 16 kHz: of what is recorded at 8 kHz the upper half
of the spectrum is empty, so that its FLAC is smaller than that of a recording at 16 kHz. Each is encoded in memory, and
read from there. The limit is soundfile's bare read: a file opened, and its samples read into a buffer that is there
already. distdl's WAV is below it, being a view of the file's bytes. Each round gives all of them a turn, in an order
that changes; told are the medians over the rounds, of real time per CPU time and of its ratio to the limit.
"""

import argparse
import io
import json
import random
import statistics
import time
import wave
from collections.abc import Callable
from pathlib import Path

import numpy as np
import scipy
import soundfile
from scipy.io import wavfile
from scipy.signal import resample_poly

from distdl.bench.ratio import ratio
from distdl.data.audio import decode_audio

RATE_HZ = 16000
FORMATS = {"flac": ("FLAC", "PCM_16"), "wav": ("WAV", "PCM_16"), "ogg": ("OGG", "VORBIS"), "mp3": ("MP3", None)}
Read = Callable[[bytes], object]


def clips(folder: Path, most_seconds: float) -> list[np.ndarray]:
    """Of a second or more each, int16 at 16 kHz, chosen by chance."""
    found: list[np.ndarray] = []
    paths = sorted(folder.rglob("*.wav"))
    for path in random.Random(0).sample(paths, len(paths)):
        samples, rate_hz = soundfile.read(path)
        if samples.ndim == 1 and len(samples) >= rate_hz:
            resampled = resample_poly(samples, RATE_HZ, rate_hz) if rate_hz != RATE_HZ else samples
            found.append(np.clip(np.round(resampled * 32768), -32768, 32767).astype(np.int16))
        if sum(map(len, found)) > most_seconds * RATE_HZ:
            break
    return found


def encoded(samples: np.ndarray, kind: str) -> bytes:
    file = io.BytesIO()
    container, subtype = FORMATS[kind]
    soundfile.write(file, samples, RATE_HZ, format=container, subtype=subtype)
    return file.getvalue()


# --- what reads them ---


def bare_read(longest: int) -> Read:
    buffer = np.empty(longest, np.int16)

    def read(data: bytes) -> None:
        with soundfile.SoundFile(io.BytesIO(data)) as file:
            file.buffer_read_into(buffer[: file.frames], "int16")

    return read


def by_wave(data: bytes) -> np.ndarray:
    with wave.open(io.BytesIO(data)) as file:
        return np.frombuffer(file.readframes(file.getnframes()), "<i2")


def contenders(longest: int) -> dict[tuple[str, str], Read]:
    """By format and reader."""
    of_all: dict[str, Read] = {
        "distdl": decode_audio,
        "limit": bare_read(longest),
        "soundfile, float32": lambda data: soundfile.read(io.BytesIO(data), dtype="float32"),
    }
    of_wav: dict[str, Read] = {"wave": by_wave, "scipy": lambda data: wavfile.read(io.BytesIO(data))}
    found = {(kind, name): read for kind in FORMATS for name, read in of_all.items()}
    return found | {("wav", name): read for name, read in of_wav.items()}


# --- measuring ---


def measure(
    files: dict[str, list[bytes]], readers: dict[tuple[str, str], Read], n_rounds: int
) -> dict[tuple[str, str], list[float]]:
    """Seconds of CPU time for all clips, by round."""
    taken: dict[tuple[str, str], list[float]] = {each: [] for each in readers}
    draw = random.Random(0)
    for number in range(n_rounds + 1):
        for kind, name in draw.sample(list(readers), len(readers)):
            began = time.process_time()
            for data in files[kind]:
                readers[kind, name](data)
            if number:  # the first round warms up
                taken[kind, name].append(time.process_time() - began)
    return taken


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=600, help="of speech, at most")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "audio.json")
    arguments = parser.parse_args()
    speech = clips(arguments.folder, arguments.seconds)
    seconds = sum(map(len, speech)) / RATE_HZ
    files = {kind: [encoded(samples, kind) for samples in speech] for kind in FORMATS}
    for samples, flac, wav in zip(speech, files["flac"], files["wav"], strict=True):  # what is fast has to be right
        assert (decode_audio(flac)[0][:, 0] == samples).all() and (decode_audio(wav)[0][:, 0] == samples).all()
    taken = measure(files, contenders(max(map(len, speech))), arguments.rounds)
    print(f"{len(speech)} clips, {seconds:,.0f} s of speech, 16 kHz mono\n")
    print("| format | reader | x real time per core | of the limit |\n|---|---|---|---|")
    rows = []
    for (kind, name), times in taken.items():
        real_time = seconds / statistics.median(times)
        of_limit = ratio(taken[kind, "limit"], times)
        rows.append({"format": kind, "reader": name, "x_real_time": real_time, "of_limit": of_limit._asdict()})
        print(f"| {kind} | {name} | {real_time:,.0f} | {of_limit.median:.2f} |")
    settings = {"clips": len(speech), "seconds": seconds, "rate_hz": RATE_HZ, "rounds": arguments.rounds}
    settings["bytes_per_second"] = {kind: sum(map(len, each)) / seconds for kind, each in files.items()}
    versions = {"soundfile": soundfile.__version__, "libsndfile": soundfile.__libsndfile_version__}
    versions |= {"scipy": scipy.__version__, "numpy": np.__version__}
    arguments.out.write_text(json.dumps({**settings, "versions": versions, "results": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
