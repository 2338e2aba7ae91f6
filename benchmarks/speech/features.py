"""Features: distdl's log-mel in batches beside kaldi-native-fbank's, and from FLAC files to features end to end.

    python benchmarks/speech/features.py [--rounds 5] [--hours 0.5]

(a) on one core, in memory: seconds of sound per second, ours of a whole batch, kaldi-native-fbank's of one utterance
    after the other (its own C++, called with arrays, its frames taken out);
(b) from FLAC on disk to a batch of features on two cores: ours, two threads that each decode a batch and make its
    features, against a torch DataLoader of two workers that decode with soundfile, call kaldi-native-fbank of each and
    pad to a batch, as lhotse's on-the-fly features do.

Rounds alternate; medians of CPU time (a) and of wall time (b). The bound of (b) is decoding alone.
`pip install kaldi-native-fbank soundfile`
"""

import argparse
import io
import json
import os
import statistics
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import kaldi_native_fbank as kaldi
import numpy as np
import soundfile
import torch
from torch.utils.data import DataLoader, Dataset

from distdl.data.audio import decode_audio
from distdl.speech.features import LogMel
from distdl.speech.sounds import Sounds

RATE_HZ, BINS, BATCH, CORES = 16000, 80, 32, 2
RESULTS = Path(__file__).parents[1] / "results" / "speech" / "features.json"


def speechlike(n: int, seed: int) -> np.ndarray:
    """int16: noise in bursts under a moving tone, about as hard to compress as speech."""
    random, at = np.random.default_rng(seed), np.arange(n)
    loud = np.clip(np.sin(at / 4000 + seed), 0, 1)
    tone = np.sin(2 * np.pi * (200 * at + 60 * np.cumsum(np.sin(at / 9000))) / RATE_HZ)
    return (loud * (5000 * tone + 600 * random.standard_normal(n)) + 20 * random.standard_normal(n)).astype(np.int16)


def of_kaldi(sound: np.ndarray) -> np.ndarray:
    options = kaldi.FbankOptions()
    options.frame_opts.dither, options.mel_opts.num_bins = 0, BINS
    computer = kaldi.OnlineFbank(options)
    computer.accept_waveform(RATE_HZ, sound.astype(np.float32))
    computer.input_finished()
    return np.stack([computer.get_frame(frame) for frame in range(computer.num_frames_ready)])


def of_ours(transform: LogMel, sounds: list[np.ndarray]) -> torch.Tensor:
    lengths = [len(each) for each in sounds]
    batch = torch.zeros(len(sounds), max(lengths), dtype=torch.int16)
    for row, each in enumerate(sounds):
        batch[row, : len(each)] = torch.from_numpy(each)
    keys = torch.zeros(len(sounds), dtype=torch.int64)
    made = transform(Sounds(values=batch.float(), lengths_B=torch.tensor(lengths), keys_B=keys, rate_hz=RATE_HZ))
    return made.values


class Files(Dataset):
    """What lhotse's on-the-fly features do in a worker: decode, features of each, padded to a batch."""

    def __init__(self, batches: list[list[Path]]) -> None:
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, number: int) -> torch.Tensor:
        features = []
        for path in self.batches[number]:
            sound, _ = soundfile.read(path, dtype="float32")
            features.append(torch.from_numpy(of_kaldi(sound * 32768)))
        return torch.nn.utils.rnn.pad_sequence(features, batch_first=True)


def in_memory(sounds: list[np.ndarray], rounds: int) -> dict[str, float]:
    torch.set_num_threads(1)
    transform, seconds = LogMel(BINS), sum(map(len, sounds)) / RATE_HZ
    batches = [sounds[begin : begin + BATCH] for begin in range(0, len(sounds), BATCH)]
    ways = {
        "distdl": lambda: [of_ours(transform, batch) for batch in batches],
        "kaldi_native_fbank": lambda: [of_kaldi(sound) for sound in sounds],
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, run in ways.items():
            began = time.process_time()
            run()
            if number:  # the first warms up
                times[name].append(seconds / (time.process_time() - began))
    return {name: statistics.median(found) for name, found in times.items()}


def end_to_end(files: list[Path], seconds: float, rounds: int) -> dict[str, float]:
    torch.set_num_threads(1)
    transform = LogMel(BINS)
    batches = [files[begin : begin + BATCH] for begin in range(0, len(files), BATCH)]

    def decoded(path: Path) -> np.ndarray:
        return decode_audio(path.read_bytes())[0][:, 0]

    def features(batch: list[Path]) -> torch.Tensor:
        return of_ours(transform, [decoded(path) for path in batch])

    def ours() -> None:
        with ThreadPoolExecutor(CORES) as pool:
            for _ in pool.map(features, batches):
                pass

    def decode_alone() -> None:
        with ThreadPoolExecutor(CORES) as pool:
            list(pool.map(decoded, files))

    def theirs() -> None:
        for _ in DataLoader(Files(batches), batch_size=None, num_workers=CORES):
            pass

    ways = {"distdl": ours, "dataloader_kaldi": theirs, "decoding_alone": decode_alone}
    times: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, run in ways.items():
            began = time.perf_counter()
            run()
            if number:
                times[name].append(seconds / (time.perf_counter() - began))
    return {name: statistics.median(found) for name, found in times.items()}


def main() -> None:
    command = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    command.add_argument("--rounds", type=int, default=5)
    command.add_argument("--hours", type=float, default=0.5, help="of sound")
    arguments = command.parse_args()
    random = np.random.default_rng(0)
    lengths = (RATE_HZ * np.sort(random.uniform(8, 16, max(BATCH, round(arguments.hours * 300))))).astype(int)
    sounds = [speechlike(n, seed) for seed, n in enumerate(lengths)]
    difference = max(
        float(np.abs(of_ours(LogMel(BINS), [sound])[0].numpy() - of_kaldi(sound)).max()) for sound in sounds[:8]
    )
    memory = in_memory(sounds, arguments.rounds)
    with tempfile.TemporaryDirectory() as folder:
        files = []
        for number, sound in enumerate(sounds):
            data = io.BytesIO()
            soundfile.write(data, sound, RATE_HZ, format="FLAC")
            files.append(Path(folder) / f"{number:05}.flac")
            files[-1].write_bytes(data.getvalue())
        disk = end_to_end(files, sum(map(len, sounds)) / RATE_HZ, arguments.rounds)
    result = {
        "command": " ".join(["python benchmarks/speech/features.py", *sys.argv[1:]]),
        "versions": {"torch": torch.__version__, "kaldi_native_fbank": getattr(kaldi, "__version__", "")},
        "seconds_of_sound": round(float(sum(lengths)) / RATE_HZ),
        "largest_difference": difference,
        "one_core_times_real_time": memory,
        "one_core_ratio": memory["distdl"] / memory["kaldi_native_fbank"],
        "flac_to_features_times_real_time": disk,
        "flac_to_features_ratio": disk["distdl"] / disk["dataloader_kaldi"],
        "of_decoding_alone": disk["distdl"] / disk["decoding_alone"],
    }
    RESULTS.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
