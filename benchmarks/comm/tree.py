"""dist.reduction: tree - the same bits on any number of workers, and what they cost.

    python benchmarks/comm/tree.py bits [--steps 200]    `distdl hash` on 1 to 8 workers, and killed: 4, 2, 3, 8, 1
    python benchmarks/comm/tree.py bits --mnist FOLDER   over gloo and MPI, also in turn, on its four files
    python benchmarks/comm/tree.py cost [--rounds 12]    the step beside that of reduction: fast, 4 workers

The network of `bits` has batch norm and dropout; its run crops and flips the digits at random, mixes them (mixup),
clips the gradient and averages the weights. The last run is killed (SIGKILL to the supervisor, with which its workers
die) after some steps and resumed on another number of workers, four times.

`cost` trains on images of noise in memory, with distdl's whole loop, in the same processes round by round in turn. The
rows of a step are the same; with 8 leaves each of the 4 workers computes two halves of its share one after the other.
"""

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
import workers
import yaml

from distdl.bench import step as bench_step
from distdl.bench.loops import TrainRows, fit_steps, in_memory
from distdl.bench.ratio import alternate, ratio
from distdl.comm import collectives
from distdl.comm.world import detect
from distdl.config.schema import Config
from distdl.track import NullTracker
from distdl.trainer import micro_batch, setup
from distdl.trainer.phases import NAMES
from distdl.trainer.state import TrainState

CPU = torch.device("cpu")
NETWORK = """
from torch import nn

import distdl


@distdl.register_model
def normed_and_dropped(*, classes):
    def block(inputs, outputs):
        convolution = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout(0.2))

    return nn.Sequential(block(1, 16), block(16, 32), nn.Flatten(), nn.Dropout(0.3), nn.Linear(128, classes))
"""
NORMALISE = {"normalise": {"mean": [0.3], "std": [0.37]}}
RUN = {
    "plugins": ["network.py"],
    "model": {"name": "normed_and_dropped", "args": {"classes": 10}},
    "data": {
        "train": {
            "shards": "digits/train",
            "transforms": [{"random_crop": {"size": 8, "padding": 1}}, "flip", NORMALISE],
        },
        "eval": {"shards": "digits/test", "transforms": [NORMALISE]},
    },
    "train": {"global_batch": 64, "ema": 0.99, "mixup": 0.2, "clip_norm": 1.0, "log_every": 1},
    "optim": {"name": "sgd", "lr": 0.05, "weight_decay": 5e-4},
    "schedule": {"name": "cosine", "warmup_steps": 20},
    "checkpoint": {"every": 7},
    "dist": {"reduction": "tree", "leaves": 8},
}


# --- bits ---


def bits(n_steps, mnist):
    """`mnist`: the folder of its files, for runs over gloo and MPI; None: the digits, over gloo."""
    libraries = ("gloo", "mpi") if mnist else ("gloo",)
    numbers = (1, 2, 3, 4) if mnist else (1, 2, 3, 4, 6, 8)
    chain = [("mpi", 4), ("gloo", 2), ("mpi", 3), ("mpi", 2)] if mnist else [("gloo", n) for n in (4, 2, 3, 8)]
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        (place / "network.py").write_text(NETWORK)
        config = {**RUN, "train": {**RUN["train"], "steps": n_steps}}
        if mnist:  # as large as the digits, which the network is made for
            for each in config["data"].values():
                each["transforms"] = [{"resize": 8}, *each["transforms"]]
        (place / "run.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
        distdl(place, "data", "pack", *(("idx", mnist.resolve()) if mnist else ("digits",)), "digits")
        found = {}
        for library, n in ((library, n) for library in libraries for n in numbers):
            name = f"{n} workers, {library}"
            distdl(place, "train", "run.yaml", "--backend", library, "--nproc", n, "--name", f"{library}-{n}")
            found[name] = weights_hash(place, f"{library}-{n}")
            print(f"{found[name]}  {name}", flush=True)
        for number, (library, n) in enumerate(chain, start=1):
            step = kill_after(place, library, n, number * n_steps // (len(chain) + 1))
            print(f"killed on {n} workers over {library} after step {step}", flush=True)
        distdl(place, "train", "run.yaml", "--backend", "gloo", "--nproc", 1, "--name", "killed", "--resume")
        name = f"killed {' -> '.join(f'{library} {n}' for library, n in [*chain, ('gloo', 1)])}"
        found[name] = weights_hash(place, "killed")
        print(f"{found[name]}  {name}", flush=True)
        top1 = [json.loads(line) for line in (place / "runs/killed/metrics.jsonl").read_text().splitlines()]
        print("top1", [row["top1"] for row in top1 if row["kind"] == "eval"][-1])
    print("all equal" if len(set(found.values())) == 1 else "NOT EQUAL")
    return {"steps": n_steps, "equal": len(set(found.values())) == 1, "hashes": found}


def kill_after(place, library, n, step):
    """Trains on with `n` workers, and kills them once the step is logged; returns the last one that was."""
    process = start(place, "train", "run.yaml", "--backend", library, "--nproc", n, "--name", "killed", "--resume")
    metrics = place / "runs/killed/metrics.jsonl"
    while last_step(metrics) < step:
        if process.poll() is not None:
            sys.exit(process.communicate()[0])
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    return last_step(metrics)


def last_step(metrics):
    try:
        return max((json.loads(line)["step"] for line in metrics.read_text().splitlines()), default=0)
    except (OSError, ValueError):
        return 0


def weights_hash(place, run):
    return distdl(place, "hash", run).split()[0]


def distdl(place, *arguments):
    process = start(place, *arguments)
    output = process.communicate()[0]
    if process.returncode:
        sys.exit(output)
    return output


def start(place, *arguments):
    environment = {**os.environ, "PYTHONPATH": str(workers.ROOT)}
    command = [sys.executable, "-m", "distdl", *map(str, arguments)]
    return subprocess.Popen(
        command, cwd=place, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


# --- cost ---


FORMS = {
    "fast": {"reduction": "fast"},
    "tree, 4 leaves": {"reduction": "tree", "leaves": 4},
    "tree, 8 leaves": {"reduction": "tree", "leaves": 8},
}


def cost_worker(options):
    torch.set_num_threads(1)
    world = detect()
    collectives.join(world, "gloo", CPU)
    setup.keep_freed_memory()
    runs, shape = {}, (options["size"], options["size"], 3)
    with tempfile.TemporaryDirectory() as folder:
        for name, form in FORMS.items():
            (Path(folder) / form["reduction"] / str(form.get("leaves"))).mkdir(parents=True)
            config = Config.model_validate(
                {
                    "model": {"name": options["model"]},
                    "data": {"train": {"shards": folder}, "workers": 1},
                    "train": {"global_batch": options["batch"], "steps": 1, "device": "cpu", "threads": 1},
                    "optim": {"lr": 0.01},
                    "dist": form,
                }
            )
            config = bench_step.on_noise(config, Path(folder) / form["reduction"] / str(form.get("leaves")), shape)
            runs[name] = setup.build(
                bench_step.only_steps(config, log_every=options["steps"]), world, CPU, TrainState()
            )
            micro_batch.settle(runs[name])
        loops, phases = {}, {}
        contexts = [in_memory(run, 2) for run in runs.values()]
        for context, (name, run) in zip(contexts, runs.items()):
            context.__enter__()
            fit_steps(run, 2, NullTracker())
            loops[name] = lambda run=run: fit_steps(run, options["steps"], NullTracker())
        seconds = alternate(loops, options["rounds"], collectives.barrier)
        for name, run in runs.items():
            rows = TrainRows()
            for _ in range(3):
                fit_steps(run, options["steps"], rows)
            phases[name] = {phase: rows.median(f"{phase}_s") for phase in NAMES}
            run.close()
    collectives.barrier()
    collectives.leave()
    workers.tell(world.rank, {"seconds": seconds, "phases": phases})


def cost(rounds, n=4):
    rows = []
    for model, batch, size, steps in (("resnet18", 64, 64, 2), ("resnet50", 32, 64, 2)):
        options = {"model": model, "batch": batch, "size": size, "steps": steps, "rounds": rounds}
        results = workers.run(__file__, options, per_host=n, hosts=None, n=n)
        slowest = {name: [max(each) for each in zip(*(r["seconds"][name] for r in results))] for name in FORMS}
        for name in FORMS:
            compared = ratio(slowest[name], slowest["fast"])
            rows.append(
                {
                    "model": model,
                    "rows": batch,
                    "workers": n,
                    "form": name,
                    "step_s": statistics.median(slowest[name]) / steps,
                    "ratio": compared.median,
                    "interval_95": [compared.low, compared.high],
                    "phases_s": {
                        phase: statistics.median(r["phases"][name][phase] for r in results)
                        for phase in results[0]["phases"][name]
                    },
                }
            )
            print(json.dumps(rows[-1]), flush=True)
    return {"rounds": rounds, "rows": rows}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", choices=("bits", "cost"))
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--mnist", type=Path, metavar="FOLDER")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    if arguments.worker:
        cost_worker(json.loads(arguments.worker))
        return
    found = bits(arguments.steps, arguments.mnist) if arguments.what == "bits" else cost(arguments.rounds)
    if arguments.out:
        command = " ".join(sys.argv)
        arguments.out.write_text(json.dumps({"command": command, "torch": torch.__version__, **found}, indent=1))


if __name__ == "__main__":
    main()
