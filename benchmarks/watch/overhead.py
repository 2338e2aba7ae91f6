"""What it costs a step to be watched for hangs (dist.stall_s: 30) over not to be (null), on CPUs.

    python benchmarks/watch/overhead.py [--cases lenet5:1,lenet5:2,resnet18:2] [--rounds N]

LeNet-5 with 64 rows and ResNet-18 with 16 rows of 64x64: distdl's whole loop, on batches that are in memory, one thread
a worker. Each round trains some steps either way, within the same processes: a worker tells of itself, or tells nobody.
Every second round is in reverse order. Reported: the median over the rounds of the ratio on : off, with its 95 %
interval from the bootstrap; the bound is 1.0. A watch looks at the workers all the time, also while they tell nothing:
what its looks take from their cores is in both halves, and stands apart (`look_ms`, four times a second).

Also the microseconds of each thing that a worker can tell, and how often a step tells it.
"""

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import timeit
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
import torch

from distdl.bench.loops import fit_steps, in_memory
from distdl.bench.ratio import alternate, ratio
from distdl.bench.step import on_noise, only_steps
from distdl.comm import collectives
from distdl.comm.world import WorldInfo, detect
from distdl.config.schema import Config
from distdl.data.order import Plan
from distdl.launch.worker import tell_of_oneself
from distdl.track import NullTracker
from distdl.trainer import setup
from distdl.trainer.state import TrainState
from distdl.watch import pulse
from distdl.watch.watch import INTERVAL_S, Watch

ROOT = Path(__file__).resolve().parents[2]
CPU = torch.device("cpu")
STALL_S = 30.0
NETWORKS = {  # image, rows, steps in a round, rounds
    "lenet5": ((32, 32, 1), 64, 10, 300),
    "resnet18": ((64, 64, 3), 16, 2, 150),
}
WARM_UP = 3  # rounds


# --- a worker ---


def worker(network: str, n_rounds: int) -> None:
    tell_of_oneself()
    image_shape_HWC, rows, n_steps, _ = NETWORKS[network]
    world = detect() or WorldInfo()
    with tempfile.TemporaryDirectory() as folder, collectives.joined(world, "gloo", CPU):
        config = config_of(network, Path(folder), image_shape_HWC, rows)
        setup.set_threads_and_kernels(config.train, world)
        setup.keep_freed_memory()
        run = setup.build(config, world, CPU, TrainState())
        telling = pulse.mine

        def train(mine: pulse.Pulse | pulse.Silent) -> None:
            pulse.mine = mine
            fit_steps(run, n_steps, NullTracker())

        halves = {"on": partial(train, telling), "off": partial(train, pulse.Silent())}
        with in_memory(run, most_batches=8):
            # The order of a corpus of usual size: that of the few images here would begin anew in every step.
            run.plan = Plan(np.array([60_000]), seed=0, global_batch=rows)
            alternate(halves, WARM_UP, collectives.barrier)
            seconds = alternate(halves, n_rounds, collectives.barrier)
            counting = Counting(telling)
            train(counting)  # type: ignore[arg-type]  # it does what a Pulse does
        pulse.mine = telling
        run.close()
    told = {name: n / n_steps for name, n in counting.n_told.items()}
    if world.rank == 0:
        print(json.dumps({"seconds": seconds, "told_per_step": told, "us": microseconds(telling)}))


def config_of(network: str, folder: Path, image_shape_HWC: tuple[int, int, int], rows: int) -> Config:
    channels = image_shape_HWC[2]
    normalise = {"normalise": {"mean": [0.4] * channels, "std": [0.3] * channels}}
    values = {
        "model": {"name": network, "args": {"classes": 10}},
        "data": {"train": {"shards": "-", "transforms": [normalise]}},
        "train": {"global_batch": rows, "steps": 1, "threads": 1, "device": "cpu"},
        "optim": {"name": "sgd", "lr": 0.01, "momentum": 0.9},
    }
    return only_steps(on_noise(Config.model_validate(values), folder, image_shape_HWC), log_every=50)


class Counting:
    """A pulse that counts what it is told."""

    def __init__(self, mine: pulse.Pulse) -> None:
        self._mine, self.n_told = mine, Counter()

    def __getattr__(self, name: str):
        self.n_told[name] += 1
        return getattr(self._mine, name)


def microseconds(mine: pulse.Pulse, n: int = 500) -> dict[str, float]:
    """Of each call, the best of some series that are too short to be interrupted; a wait has its end in it."""
    call = "all_reduce of [61706] torch.float32 (gradient bucket 0)"
    told = {
        "enter": lambda: mine.enter("forward"),
        "step": lambda: mine.step(1),
        "beat": lambda: mine.beat(),
        "call": lambda: mine.call(1, 2, call, call),
        "news": lambda: mine.news(),
        "wait and go_on": lambda: (mine.wait(), mine.go_on()),
        "nothing, to compare": lambda: pulse.Silent.beat(None),  # type: ignore[arg-type]
    }
    return {name: round(1e6 * min(timeit.repeat(what, number=n, repeat=50)) / n, 3) for name, what in told.items()}


# --- and who watches it ---


def measure(network: str, n_workers: int, n_rounds: int) -> dict:
    watch, looks_s = Watch(range(n_workers), STALL_S), []
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with tempfile.TemporaryFile("w+") as said:
        workers = [
            subprocess.Popen(
                [sys.executable, __file__, "--worker", network, "--rounds", str(n_rounds)],
                env={**os.environ, **environment(rank, n_workers, port), **watch.environment(rank)},
                pass_fds=watch.descriptors(rank),
                stdout=said if rank == 0 else subprocess.DEVNULL,
            )
            for rank in range(n_workers)
        ]
        try:
            while any(each.poll() is None for each in workers):
                began = time.perf_counter()
                found = watch.look([each.pid for each in workers], [each.poll() is not None for each in workers])
                looks_s.append(time.perf_counter() - began)
                if found:
                    sys.exit(f"a false alarm: {found[0].what}")
                time.sleep(INTERVAL_S)
        finally:
            for each in workers:
                each.kill()
                each.wait()
            watch.close()
        if any(each.returncode for each in workers):
            sys.exit(f"a worker failed: {[each.returncode for each in workers]}")
        said.seek(0)
        measured = json.loads(said.read().splitlines()[-1])
    _, rows, n_steps, _ = NETWORKS[network]
    seconds = measured["seconds"]
    return {
        "network": network,
        "workers": n_workers,
        "global_batch": rows,
        "steps_per_round": n_steps,
        "rounds": n_rounds,
        "bound": 1.0,
        "ms_per_step": {name: 1e3 * statistics.median(times) / n_steps for name, times in seconds.items()},
        "ratio": ratio(seconds["on"], seconds["off"]),
        "told_per_step": measured["told_per_step"],
        "us": measured["us"],
        "told_us_per_step": told_us(measured["told_per_step"], measured["us"]),
        "look_ms": 1e3 * statistics.median(looks_s),
        "seconds": seconds,
    }


def told_us(told_per_step: dict[str, float], us: dict[str, float]) -> float:
    """What all that a step tells adds up to: too little to be seen in the ratio of a machine that is not idle."""
    of_each = {**us, "wait": us["wait and go_on"], "go_on": 0.0, "phase": 2 * us["enter"]}
    return sum(n * of_each[name] for name, n in told_per_step.items())


def environment(rank: int, n_workers: int, port: int) -> dict[str, str]:
    alone = {"OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT}:{os.environ.get('PYTHONPATH', '')}"}
    if n_workers == 1:
        return alone
    return alone | {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(n_workers),
        "LOCAL_WORLD_SIZE": str(n_workers),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "GLOO_SOCKET_IFNAME": "lo",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", default="lenet5:1,lenet5:2,resnet18:2", help="network:workers, ...")
    parser.add_argument("--rounds", type=int, help="(default: 300 of LeNet-5, 150 of ResNet-18)")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/watch/overhead.json", help="raw times")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        return worker(arguments.worker, arguments.rounds)
    results = []
    for case in arguments.cases.split(","):
        network, n_workers = case.split(":")
        results.append(measure(network, int(n_workers), arguments.rounds or NETWORKS[network][3]))
        print(json.dumps({key: value for key, value in results[-1].items() if key != "seconds"}), flush=True)
    print("\n| | off | on | ratio | told in a step |\n|---|---|---|---|---|")
    for each in results:
        off, on = (f"{each['ms_per_step'][name]:.2f} ms" for name in ("off", "on"))
        low, high = each["ratio"].low, each["ratio"].high
        row = f"{each['ratio'].median:.4f} ({low:.4f} to {high:.4f})"
        name = f"{each['network']}, {each['workers']} worker{'s' * (each['workers'] > 1)}"
        print(f"| {name} | {off} | {on} | {row} | {each['told_us_per_step']:.1f} us |")
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps({"torch": torch.__version__, "results": results}) + "\n")


if __name__ == "__main__":
    main()
