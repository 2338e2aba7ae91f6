"""What it costs to know which samples come next, and to find one of them: the sample plan and the index.

    python benchmarks/index.py [--rounds 5] [--samples 4000] [--sample-kb 61]

The plan is of 10^9 samples in 10^5 shards: to make it, its first step, a step after a jump to the middle of a run, and
the steps that follow one another. Targets: 50 ms to make it and its first step together.

Random access: all samples of 8 shards, in a random order, from the page cache, on one thread. Timed are the place of a
sample (id -> shard, row -> key and components), its bytes with the checksum compared, and, as the bound, the same bytes
by pread at offsets that are known. Target: 0.02 ms a sample for its place. Medians of the rounds, in turn.
"""

import argparse
import json
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from distdl.data.corpus.dataset import Dataset
from distdl.data.corpus.shards import write_shards
from distdl.data.order import Plan

N_SHARDS, SHARD_SAMPLES, GLOBAL_BATCH, MOST_STEPS = 100_000, 10_000, 4096, 100
OPEN_SHARDS = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--samples", type=int, default=4000)
    parser.add_argument("--sample-kb", type=float, default=61.0)
    options = parser.parse_args()
    rounds = [plan_ms() for _ in range(options.rounds)]
    with tempfile.TemporaryDirectory(prefix="distdl-bench-") as folder:
        corpus = write_corpus(Path(folder) / "corpus", options.samples, int(options.sample_kb * 1000))
        with Dataset.open(corpus) as dataset:
            access_ms(dataset, 0)  # opens the shards, and brings them into the page cache
            rounds = [{**each, **access_ms(dataset, number)} for number, each in enumerate(rounds)]
    medians = {name: round(statistics.median(each[name] for each in rounds), 5) for name in rounds[0]}
    result = {"median_ms": medians, "samples": options.samples, "sample_kb": options.sample_kb}
    print(json.dumps(result, indent=2))
    raw = Path(__file__).parent / "results" / "index.json"
    raw.write_text(json.dumps({**result, "rounds_ms": rounds}) + "\n")


def plan_ms() -> dict[str, float]:
    end = 2 * N_SHARDS * SHARD_SAMPLES
    sizes = np.full(N_SHARDS, SHARD_SAMPLES)
    began = time.perf_counter()
    plan = Plan(sizes, seed=1, global_batch=GLOBAL_BATCH)
    built = time.perf_counter()
    plan.step_rows(0, end)
    first = time.perf_counter()
    plan.step_rows(end // 4 * 3, end)
    jumped = time.perf_counter()
    for _ in plan.steps(0, MOST_STEPS * GLOBAL_BATCH, end=end):
        pass
    done = time.perf_counter()
    return {
        "plan of 1e9 samples in 1e5 shards": 1e3 * (built - began),
        "its first step": 1e3 * (first - built),
        "a step after a jump": 1e3 * (jumped - first),
        "each of 100 steps that follow": 1e3 * (done - jumped) / MOST_STEPS,
    }


def write_corpus(folder: Path, n_samples: int, n_bytes: int) -> Path:
    generator = np.random.default_rng(0)
    samples: Iterator[dict[str, object]] = (
        {"__key__": f"{i:06}", "jpg": generator.bytes(n_bytes), "cls": i % 10} for i in range(n_samples)
    )
    write_shards(samples, folder, classes=None, kind="benchmark", shard_samples=-(-n_samples // OPEN_SHARDS))
    return folder


def access_ms(dataset: Dataset, seed: int) -> dict[str, float]:
    """Milliseconds a sample."""
    order = random.Random(seed).sample(range(dataset.n_samples), dataset.n_samples)

    def place(sample_id: int) -> None:
        shard, row = dataset.locate(sample_id)
        index = dataset.index(shard)
        index.key(row)
        index.components(row)

    extents = []
    files = [os.open(shard.tar, os.O_RDONLY) for shard in dataset.shards]
    for sample_id in range(dataset.n_samples):
        shard, row = dataset.locate(sample_id)
        extents.append(
            [(files[shard], each.size, each.offset) for each in dataset.index(shard).components(row).values()]
        )

    def bare(sample_id: int) -> None:
        for extent in extents[sample_id]:
            os.pread(*extent)

    try:
        return {
            "place of a sample": each_ms(place, order),
            "its bytes, checksum compared": each_ms(lambda sample_id: dataset.read(*dataset.locate(sample_id)), order),
            "pread alone (the bound)": each_ms(bare, order),
        }
    finally:
        for file in files:
            os.close(file)


def each_ms(function: Callable[[int], object], order: list[int]) -> float:
    began = time.perf_counter()
    for sample_id in order:
        function(sample_id)
    return 1e3 * (time.perf_counter() - began) / len(order)


if __name__ == "__main__":
    main()
