"""How much of a step of sounds is padding: in the order of any other data, in steps of like lengths, and by lhotse.

    pip install lhotse==1.33.0 --no-deps --target FOLDER   # and so intervaltree, sortedcontainers, cytoolz, toolz,
                                                           # lilcom, tabulate, audioread, tqdm, which it imports
    PYTHONPATH=FOLDER python benchmarks/speech/bucketing.py [FOLDER_OF_WAVS ...] [--out FILE.json]

Without lhotse its rows are left out, and the reason is told. All get the same durations and the same budget: distdl G
rows a step, lhotse's DynamicBucketingSampler (30 buckets) batches of G times the mean duration. Of N ranks, each has an
Nth of that. Padding is the share of a step's frames that is no sample's, each rank's rows padded to their own longest;
"in forwards", those of each forward, where distdl cuts its G rows by length into forwards that keep to lhotse's budget,
and into another where that saves 1 % of a step.

The durations are simulated like the 281,241 of LibriSpeech's 960 hours (Panayotov et al. 2015): a mean of 12.3 s, none
over 35 s, most of 14 to 16 s, because long ones were split at silences. Assumed: 55 % normal of mean 15.0 and deviation
1.0 s, 44.8 % uniform from 1.4 to 16.3 s, and 0.2 % 16 s and more, exponentially fewer by 3 s. And those of real WAVs.

Also told: whether the global batches are the same for 1, 2 and 4 ranks, how many steps each rank has, how often a
sample is left out or given again in an epoch, how many of those a sample meets over the epochs are others, and how a
step's mean duration goes with its place (the coefficient of correlation).
"""

import argparse
import importlib.util
import json
import time
import wave
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import xxhash

from distdl.config.sources import SoundConfig
from distdl.data.forwards import micro_batches
from distdl.data.length_order import LengthPlan

RATE_HZ = 16000
LIBRISPEECH_SAMPLES = 281_241
WORLD_SIZES = (1, 2, 4)
BUCKETS = 30
Step = list[np.ndarray]  # sample ids of each rank


def simulated(n_samples: int) -> np.ndarray:
    """Durations in audio samples at 16 kHz."""
    generator = np.random.default_rng(0)
    kind = generator.random(n_samples)
    most = generator.normal(15.0, 1.0, n_samples)
    short = generator.uniform(1.4, 16.3, n_samples)
    long = np.minimum(16 + generator.exponential(3.0, n_samples), 35)
    seconds = np.where(kind < 0.55, most, np.where(kind < 0.998, short, long))
    return np.round(seconds * RATE_HZ).astype(np.int64)


def of_wavs(folder: Path) -> np.ndarray:
    """Durations in samples at 16 kHz, in the order of the files' names."""
    found = []
    for path in sorted(folder.rglob("*.wav")):
        with wave.open(str(path)) as file:
            found.append(file.getnframes() * RATE_HZ // file.getframerate())
    return np.array(found, np.int64)


# --- what forms steps ---


def by_distdl(order: str, lengths: np.ndarray, batch: int, world_size: int, n_epochs: int) -> Iterator[list[Step]]:
    """The steps of each epoch, the last one's padding left out."""
    plan = LengthPlan(np.array([len(lengths)]), lengths, seed=0, global_batch=batch, order=order)
    end = n_epochs * len(lengths)
    for epoch in range(n_epochs):
        begin, stop = (-(-each * len(lengths) // batch) * batch for each in (epoch, epoch + 1))
        steps = plan.steps(begin, min(stop, end), end=end)
        parts = ([rows.part(rank, world_size) for rank in range(world_size)] for rows in steps)
        yield [[part.sample_id[part.valid] for part in step] for step in parts]


def by_lhotse(lengths: np.ndarray, batch: int, world_size: int, n_epochs: int) -> Iterator[list[Step]]:
    from lhotse import CutSet
    from lhotse.dataset.sampling import DynamicBucketingSampler
    from lhotse.testing.dummies import dummy_cut

    cuts = CutSet.from_cuts(dummy_cut(each, duration=length / RATE_HZ) for each, length in enumerate(lengths.tolist()))
    cuts = cuts.to_eager()
    number = {cut.id: each for each, cut in enumerate(cuts)}
    seconds = batch * lengths.mean() / RATE_HZ / world_size
    for epoch in range(n_epochs):
        of_ranks = []
        for rank in range(world_size):
            sampler = DynamicBucketingSampler(
                cuts,
                max_duration=seconds,
                num_buckets=BUCKETS,
                shuffle=True,
                drop_last=False,
                world_size=world_size,
                rank=rank,
                seed=0,
            )
            sampler.set_epoch(epoch)
            of_ranks.append([np.array([number[cut.id.split("_dup")[0]] for cut in each]) for each in sampler])
        longest = max(map(len, of_ranks))
        nothing = np.zeros(0, np.int64)
        yield [[rank[at] if at < len(rank) else nothing for rank in of_ranks] for at in range(longest)]


# --- what is told of them ---


def padding(lengths: np.ndarray, steps: list[Step]) -> float:
    batches = [lengths[ids] for step in steps for ids in step if len(ids)]
    return float(1 - sum(each.sum() for each in batches) / sum(each.max() * len(each) for each in batches))


def in_forwards(lengths: np.ndarray, steps: list[Step], at_once: int) -> tuple[float, int]:
    """As `padding`, of distdl's forwards: each part's rows by length, cut for a budget of `at_once` and by its default
    for what another forward has to spare; and how many they are."""
    forwards: list[Step] = []
    for ids in (ids for step in steps for ids in step if len(ids)):
        by_length = ids[np.argsort(lengths[ids], kind="stable")]
        (borders,) = micro_batches(lengths[by_length], 1, at_once, SoundConfig().least_saving)
        forwards.append(np.split(by_length, borders[1:-1]))
    return padding(lengths, forwards), sum(map(len, forwards))


def digest(steps: list[Step]) -> str:
    """Of which samples each step has."""
    return xxhash.xxh3_64_hexdigest(b"|".join(np.sort(np.concatenate(step)).tobytes() for step in steps))


def new_partners(epochs: list[list[Step]], n_samples: int) -> float:
    """Of all that some samples meet in steps over the epochs, the share of different ones."""
    watched = np.unique(np.linspace(0, n_samples - 1, 300).astype(np.int64))
    met: dict[int, list[int]] = {int(each): [] for each in watched}
    for step in (step for steps in epochs for step in steps):
        ids = np.concatenate(step)
        for each in np.intersect1d(ids, watched).tolist():
            met[each] += ids[ids != each].tolist()
    return float(np.mean([len(set(each)) / len(each) for each in met.values() if each]))


def describe(lengths: np.ndarray, batch: int, by: str, n_epochs: int) -> dict[str, object]:
    def epochs_of(world_size: int, n: int) -> list[list[Step]]:
        if by == "lhotse":
            return list(by_lhotse(lengths, batch, world_size, n))
        return list(by_distdl(by, lengths, batch, world_size, n))

    began = time.process_time()
    epochs = epochs_of(1, n_epochs)
    cpu_s = (time.process_time() - began) / n_epochs
    means = [[lengths[np.concatenate(step)].mean() for step in steps] for steps in epochs]
    of_worlds = {}
    for world_size in WORLD_SIZES:
        (steps,) = epochs_of(world_size, 1)
        times = np.bincount(np.concatenate([ids for step in steps for ids in step]), minlength=len(lengths))
        of_worlds[world_size] = {
            "padding": padding(lengths, steps),
            "global_batches": digest(steps),
            "steps_by_rank": [sum(len(step[rank]) > 0 for step in steps) for rank in range(world_size)],
            "left_out": int((times == 0).sum()),
            "again": int((times > 1).sum()),
        }
    all_steps = [step for steps in epochs for step in steps]
    share, n_forwards = padding(lengths, all_steps), len(all_steps)
    if by != "lhotse":
        share, n_forwards = in_forwards(lengths, all_steps, round(batch * lengths.mean()))
    return {
        "by": by,
        "padding": padding(lengths, all_steps),
        "padding_in_forwards": share,
        "steps": len(epochs[0]),
        "forwards": round(n_forwards / n_epochs),
        "new_partners": new_partners(epochs, len(lengths)),
        "correlation_with_place": [float(np.corrcoef(np.arange(len(each)), each)[0, 1]) for each in means],
        "cpu_s_per_epoch": cpu_s,
        "same_global_batches": len({each["global_batches"] for each in of_worlds.values()}) == 1,
        "world_sizes": of_worlds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", type=Path, nargs="*", help="of WAVs: each is a corpus")
    parser.add_argument("--samples", type=int, default=100_000, help="that are simulated")
    parser.add_argument("--batches", type=int, nargs="+", default=[64, 256], help="G")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "results/speech/bucketing.json")
    arguments = parser.parse_args()
    corpora = {"simulated": simulated(arguments.samples)}
    corpora |= {folder.name: of_wavs(folder) for folder in arguments.folders}
    ways = ["shuffled", "by_length"]
    missing = None if importlib.util.find_spec("lhotse") else "lhotse is not installed (see the head of this file)"
    if missing:
        print(f"lhotse's rows are left out: {missing}")
    else:
        ways.append("lhotse")
    results: list[dict[str, object]] = []
    columns = ["durations", "G", "by", "padding", "in forwards", "forwards an epoch", "other partners"]
    print("|", " | ".join([*columns, "same batches on 1, 2, 4 ranks", "CPU s"]), "|")
    print("|---|---|---|---|---|---|---|---|---|")
    for name, lengths in corpora.items():
        for batch in (each for each in arguments.batches if each <= len(lengths)):
            for way in ways:
                found = describe(lengths, batch, way, arguments.epochs)
                results.append({"durations": name, "global_batch": batch, **found})
                cells = [name, str(batch), way, f"{found['padding']:.1%}"]
                cells += [f"{found['padding_in_forwards']:.1%}", str(found["forwards"])]
                cells += [f"{found['new_partners']:.0%}", str(found["same_global_batches"])]
                print("|", " | ".join([*cells, f"{found['cpu_s_per_epoch']:.2f}"]), "|", flush=True)
    whole = simulated(LIBRISPEECH_SAMPLES)
    began = time.process_time()
    plan = LengthPlan(np.array([len(whole)]), whole, seed=0, global_batch=256)
    plan.step_rows(0, len(whole))
    first_step_s = time.process_time() - began
    print(f"the first step of an epoch of {len(whole):,} samples: {first_step_s:.2f} s of CPU time")
    settings = {
        "corpora": {
            name: {"samples": len(each), "mean_s": each.mean() / RATE_HZ, "max_s": each.max() / RATE_HZ}
            for name, each in corpora.items()
        },
        "epochs": arguments.epochs,
        "buckets": BUCKETS,
        "first_step_of_281241_cpu_s": first_step_s,
        "lhotse": missing or __import__("lhotse").__version__,
        "numpy": np.__version__,
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps({**settings, "results": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
