"""From the command to the end of the first step: `distdl train --nproc 2` beside a bare script under torchrun.

    python benchmarks/first_step.py [--rounds 15] [--workers 2]

The same network (LeNet-5), batch and optimiser. The bare script has one tensor of noise for its data, no config, run
folder, checkpoint, evaluation, shards, logging or supervision; distdl has all of them. Interleaved; medians. Beside
them the start of the interpreter with torch, twice at once, which no launcher can be faster than.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

BARE = """
import os
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

dist.init_process_group("gloo")
torch.set_num_threads(1)
torch.manual_seed(0)
network = nn.Sequential(
    nn.Conv2d(1, 6, 5, padding=2), nn.Tanh(), nn.AvgPool2d(2), nn.Conv2d(6, 16, 5), nn.Tanh(), nn.AvgPool2d(2),
    nn.Flatten(), nn.Linear(576, 120), nn.Tanh(), nn.Linear(120, 84), nn.Tanh(), nn.Linear(84, 10),
)
network = DistributedDataParallel(network)
optimiser = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)
images, labels = torch.rand(32, 1, 32, 32), torch.randint(0, 10, (32,))
nn.functional.cross_entropy(network(images), labels).backward()
optimiser.step()
if dist.get_rank() == 0:
    print("first step", flush=True)
dist.barrier()
dist.destroy_process_group()
"""
IMPORTS = """
import subprocess, sys
every = [subprocess.Popen([sys.executable, "-c", "import torch; print(1, flush=True)"]) for _ in range({n})]
sys.exit(max(each.wait() for each in every))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    times: dict[str, list[float]] = {"imports": [], "torchrun": [], "distdl": [], "distdl spawned by torchrun": []}
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder)
        config = prepare(here)
        torchrun = [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            f"--nproc-per-node={arguments.workers}",
        ]
        distdl = ["-m", "distdl", "train", str(config)]
        for number in range(arguments.rounds):
            name = ["--name", f"run-{number}"]
            commands = {
                "imports": ([sys.executable, "-c", IMPORTS.format(n=arguments.workers)], None),
                "torchrun": ([*torchrun, "bare.py"], None),
                "distdl": ([sys.executable, *distdl, *name, "--nproc", str(arguments.workers)], name[1]),
                "distdl spawned by torchrun": ([*torchrun, *distdl, "--name", f"run-{number}-t"], f"run-{number}-t"),
            }
            for which, (command, run) in commands.items():
                times[which].append(until_first_step(command, here, run))
    medians = {which: round(statistics.median(values), 3) for which, values in times.items()}
    ratios = [ours / theirs for ours, theirs in zip(times["distdl"], times["torchrun"], strict=True)]
    result = {
        "workers": arguments.workers,
        "cores": os.cpu_count(),
        "median_s": medians,
        "distdl_over_torchrun": {
            "median": round(statistics.median(ratios), 3),
            "of_medians": round(medians["distdl"] / medians["torchrun"], 3),
        },
        "rounds": arguments.rounds,
    }
    print(json.dumps(result, indent=2))
    raw = Path(__file__).parent / "results" / "first_step.json"
    raw.write_text(json.dumps({**result, "seconds": times}) + "\n")


def prepare(here: Path) -> Path:
    """A corpus, the bare script, and a config that does the same on it."""
    (here / "bare.py").write_text(BARE)
    subprocess.run(
        [sys.executable, "-m", "distdl", "data", "pack", "digits", "digits"], cwd=here, check=True, capture_output=True
    )
    config = here / "first.yaml"
    config.write_text(
        "model: {name: lenet5, args: {classes: 10}}\n"
        "data: {train: {shards: digits/train, transforms: [resize: 32, normalise: {mean: [0.3], std: [0.37]}]}}\n"
        "train: {global_batch: 64, steps: 1, log_every: 1, threads: 1}\n"
        "optim: {name: sgd, lr: 0.01}\n"
    )
    return config


def until_first_step(command: list[str], here: Path, run: str | None) -> float:
    """Seconds. Of a run by its first row in metrics.jsonl, of another process by the first line that it prints."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    began = time.perf_counter()
    process = subprocess.Popen(command, cwd=here, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert process.stdout
    if run is None:
        line = b" "
        while line and not line.startswith((b"first step", b"1")):
            line = process.stdout.readline()
        seconds = time.perf_counter() - began
    else:
        metrics = here / "runs" / run / "metrics.jsonl"
        has_begun: Callable[[], bool] = lambda: metrics.exists() and b'"train"' in metrics.read_bytes()  # noqa: E731
        while not has_begun() and process.poll() is None:
            time.sleep(0.002)
        seconds = time.perf_counter() - began
    rest = process.stdout.read()
    assert process.wait() == 0, rest.decode()
    return seconds


if __name__ == "__main__":
    main()
