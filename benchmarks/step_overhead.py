"""What distdl's step costs over a bare PyTorch loop of the same network: LeNet-5, batch 64, CPU, one process.

    python benchmarks/step_overhead.py [--rounds 60] [--steps 50]

Both loops train on the same batches in memory (uint8, 1x32x32) with the same optimiser settings, and alternate in
rounds within one run, so that whatever else the machine does hits both. The bare loop is what a person would write:
normalise, zero_grad, forward, cross-entropy, backward, step. Ours is the whole loop as it trains: sample plan, seeding,
learning rate, masks, exact sums, meter, votes, what is due, progress. Reported: the median over the rounds of the ratio
of adjacent rounds, with a 95 % interval from the bootstrap. The bound is 1.0.
"""

import argparse
import json
import random
import statistics
import time
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

from distdl import models
from distdl.comm.world import WorldInfo
from distdl.config.schema import Config, TrainConfig
from distdl.data.engine import HostBatch
from distdl.data.order import Plan
from distdl.data.transforms import Normalise
from distdl.tasks.classify import Classify
from distdl.track import NullTracker
from distdl.trainer import engines, loop, schedule, setup
from distdl.trainer.setup import Run
from distdl.trainer.signals import StopRequests
from distdl.trainer.state import TrainState

BATCH = 64
MEAN, STD = 0.1307, 0.3081


class MemoryLoader:
    """Batches that are there already."""

    normalise = Normalise(mean=[MEAN], std=[STD])

    def __init__(self, batches):
        self.batches = batches

    def stream(self, rows):
        for _, batch in zip(rows, self.batches):
            yield HostBatch(batch, n_valid=BATCH, n_bad=0, wait_s=0.0)


class NoCheckpoints:
    def save(self, *arguments, **options):
        pass


def make_batches(n):
    generator = torch.Generator().manual_seed(0)
    return [
        {
            "image": torch.randint(0, 256, (BATCH, 32, 32, 1), dtype=torch.uint8, generator=generator),
            "label": torch.randint(0, 10, (BATCH,), generator=generator),
            "valid": torch.ones(BATCH),
            "sample_id": torch.arange(BATCH),
        }
        for _ in range(n)
    ]


def make_ours(batches):
    config = Config.model_validate(
        {
            "model": {"name": "lenet5"},
            "data": {"train": {"shards": "-"}},
            "train": {"global_batch": BATCH, "steps": 10**9, "log_every": 50, "eval_every": None},
            "optim": {"name": "sgd", "lr": 0.01, "momentum": 0.9},
            "checkpoint": {"every": 10**8},
        }
    )
    torch.manual_seed(0)
    engine = engines.build(config, models.build("lenet5", {}))
    plan = Plan(np.array([BATCH * len(batches)]), seed=0, global_batch=BATCH)
    run = Run(
        config=config,
        world=WorldInfo(),
        device=torch.device("cpu"),
        task=Classify(),
        engine=engine,
        ema=None,
        plan=plan,
        lr=schedule.build(config.schedule, config.optim.lr, 100.0),
        train_loader=MemoryLoader(batches),
        eval_loaders={},
        state=TrainState(),
        end=0,
        description={},
    )

    def ours(n_steps):
        run.end = run.state.position + n_steps * BATCH
        loop.fit(run, NullTracker(), NoCheckpoints(), StopRequests())

    return ours


def make_bare(batches):
    torch.manual_seed(0)
    network = models.build("lenet5", {})
    optimiser = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)

    def bare(n_steps):
        for batch in batches[:n_steps]:
            image = batch["image"].permute(0, 3, 1, 2).float().div_(255).sub_(MEAN).div_(STD)
            optimiser.zero_grad()
            loss = functional.cross_entropy(network(image), batch["label"])
            loss.backward()
            optimiser.step()

    return bare


def seconds(function, n_steps):
    began = time.perf_counter()
    function(n_steps)
    return time.perf_counter() - began


def interval(values, draws=2000):
    """95 % bootstrap interval of the median."""
    draw = random.Random(0)
    medians = sorted(statistics.median(draw.choices(values, k=len(values))) for _ in range(draws))
    return medians[int(0.025 * draws)], medians[int(0.975 * draws)]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    config = TrainConfig(global_batch=BATCH, steps=1, threads=arguments.threads)
    setup.set_threads_and_kernels(config, WorldInfo())
    batches = make_batches(arguments.steps)
    bare, ours = make_bare(batches), make_ours(batches)
    for function in (bare, ours, bare, ours):
        function(arguments.steps)
    times = {"bare": [], "ours": []}
    for number in range(arguments.rounds):
        pair = [("bare", bare), ("ours", ours)]
        for name, function in pair if number % 2 else pair[::-1]:
            times[name].append(seconds(function, arguments.steps))
    ratios = [a / b for a, b in zip(times["ours"], times["bare"])]
    low, high = interval(ratios)
    result = {
        "bare_ms_per_step": 1e3 * statistics.median(times["bare"]) / arguments.steps,
        "ours_ms_per_step": 1e3 * statistics.median(times["ours"]) / arguments.steps,
        "ratio": statistics.median(ratios),
        "interval_95": [low, high],
        "bound": 1.0,
        "rounds": arguments.rounds,
        "steps_per_round": arguments.steps,
        "threads": arguments.threads,
        "torch": torch.__version__,
    }
    print(json.dumps(result, indent=2))
    raw = Path(__file__).parent / "results" / f"step_overhead-{arguments.threads}-threads.json"
    raw.write_text(json.dumps({**result, "seconds": times}) + "\n")


if __name__ == "__main__":
    main()
