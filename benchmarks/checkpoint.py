"""What a checkpoint costs the training: the pause, and the slow-down of the steps that follow. ResNet-50, SGD, EMA.

    python benchmarks/checkpoint.py [--rounds 7] [--steps 4] [--size 64] [--batch 16] [--folder DIR] [--ways distdl]

The state is that of a real run: weights, momentum and averaged weights, 293 MiB. In every round each way of saving has
its turn, in another order each time, so that whatever else the machine does hits all: it starts a save, trains some
steps while the save goes on, and is waited for. The same number of steps without a save is the round's measure.

    pause_s   until the call that saves returns; the first one of a run allocates, and stands apart
    lost_s    pause, and what the following steps took longer than without a save
    whole_s   until the checkpoint is on the disk

Bounds: one copy of the same bytes in memory (to warm memory; and to fresh memory, which has page faults), and a write
with fsync. Peers in the same run: torch.save, which blocks, and torch.distributed.checkpoint.async_save with its thread
and its process. Ours is written as in a run: checksums, fsync, commit. On a CUDA device the copy is from there.
"""

import argparse
import gc
import json
import os
import random
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.checkpoint import FileSystemWriter, async_save
from torch.distributed.checkpoint.state_dict_saver import AsyncCheckpointerType

from distdl import models
from distdl.checkpoint.save import Checkpoints
from distdl.config.schema import KeepConfig
from distdl.run.folder import create_or_reopen
from distdl.trainer.ema import AveragedWeights, exponential

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


class Training:
    """A bare training step, and the state that a checkpoint of it holds."""

    def __init__(self, batch, size):
        torch.manual_seed(0)
        self.model = models.build("resnet50", {}).to(DEVICE)
        self.optimiser = torch.optim.SGD(self.model.parameters(), lr=0.01, momentum=0.9)
        self.averages = AveragedWeights(self.model, exponential(0.999))
        self.images = torch.randn(batch, 3, size, size, device=DEVICE)
        self.step()

    def step(self):
        self.optimiser.zero_grad()
        self.model(self.images).square().mean().backward()
        self.optimiser.step()
        self.averages.update(step=1000)

    def steps(self, n):
        began = time.perf_counter()
        for _ in range(n):
            self.step()
        synchronize()
        return time.perf_counter() - began

    def tensors(self):
        state = {f"model/{name}": value for name, value in self.model.state_dict().items()}
        for name, parameter in self.model.named_parameters():
            state[f"optim/{name}/momentum_buffer"] = self.optimiser.state[parameter]["momentum_buffer"]
        return state | {f"ema/{name}": value for name, value in self.averages.averages.items()}


def synchronize():
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()


# --- ways of saving: called with the tensors and a step, they return how to wait for the end ---


def ours(folder):
    checkpoints = Checkpoints(
        create_or_reopen(folder, resume=False),
        keep=KeepConfig(last=1),
        epoch_length=1,
        warn=lambda topic, message: sys.exit(message),
        still_ours=lambda: True,
    )
    state = {"train_state": {"position": 0}}

    def save(tensors, step):
        checkpoints.save(lambda: (tensors(), state), step, best_steps=(), wait=False)
        return checkpoints.wait

    return save


def torch_save(folder):
    folder.mkdir()

    def save(tensors, step):
        with (folder / f"{step}.pt").open("wb") as file:
            torch.save(tensors(), file)
            file.flush()
            os.fsync(file.fileno())
        (folder / f"{step - 1}.pt").unlink(missing_ok=True)
        return lambda: None

    return save


def torch_async(kind):
    def make(folder):
        def save(tensors, step):
            writer = FileSystemWriter(folder / str(step), sync_files=True)
            started = async_save(tensors(), storage_writer=writer, async_checkpointer_type=kind)

            def finish():
                started.result()
                shutil.rmtree(folder / str(step - 1), ignore_errors=True)

            return finish

        return save

    return make


WAYS = {
    "distdl": ours,
    "torch.save": torch_save,
    "async_save thread": torch_async(AsyncCheckpointerType.THREAD),
    "async_save process": torch_async(AsyncCheckpointerType.PROCESS),
}


def measure(way, training, bounds, n_steps, number):
    copy_s = bounds.copy(training)  # beside it, as the machine's memory is not equally fast at all times
    settle(training)
    began = time.perf_counter()
    finish = way(training.tensors, number)
    pause_s = time.perf_counter() - began
    following_s = training.steps(n_steps)
    finish()
    return {"pause_s": pause_s, "copy_s": copy_s, "following_s": following_s, "whole_s": time.perf_counter() - began}


def settle(training):
    """What stands behind a save in a run: a step, not another save and what it left the machine to do."""
    gc.collect()
    training.steps(1)


# --- bounds ---


def seconds(function, training):
    settle(training)
    began = time.perf_counter()
    function()
    return time.perf_counter() - began


class Bounds:
    def __init__(self, size_bytes, folder):
        self.path = folder / "bound"
        self.source = torch.ones(size_bytes, dtype=torch.uint8, device=DEVICE)
        self.warm = torch.empty(size_bytes, dtype=torch.uint8, pin_memory=DEVICE.type == "cuda").fill_(0)

    def copy(self, training):
        return seconds(lambda: self.warm.copy_(self.source), training)

    def measure(self, training):
        return {
            "copy_warm_s": self.copy(training),
            "copy_cold_s": seconds(lambda: self.source.to("cpu", copy=True), training),
            "write_s": seconds(self._write, training),
        }

    def _write(self):
        with self.path.open("wb") as file:
            file.write(self.warm.numpy().data)
            os.fsync(file.fileno())
        self.path.unlink()


# --- the comparison ---


def compare(arguments, folder):
    training = Training(arguments.batch, arguments.size)
    size_bytes = sum(tensor.nbytes for tensor in training.tensors().values())
    bounds = Bounds(size_bytes, folder)
    ways = {name: WAYS[name](folder / name.replace(" ", "-")) for name in arguments.ways}
    first_pause_s = {name: round(measure(way, training, bounds, 1, 0)["pause_s"], 4) for name, way in ways.items()}
    for way in ways.values():
        measure(way, training, bounds, 1, 1)
    raw = []
    for number in range(2, 2 + arguments.rounds):
        entry = {"none": {"following_s": training.steps(arguments.steps)}, "bounds": bounds.measure(training)}
        for name in random.Random(number).sample(list(ways), len(ways)):
            entry[name] = measure(ways[name], training, bounds, arguments.steps, number)
        raw.append(entry)
        print(json.dumps({name: {k: round(v, 3) for k, v in entry[name].items()} for name in entry}), file=sys.stderr)
    result = {"state_mib": round(size_bytes / 2**20, 1), "first_pause_s": first_pause_s}
    return {**result, **summarise(raw, arguments.steps), "rounds": raw}


def summarise(raw, n_steps):
    """Medians over the rounds; each ratio is formed inside its round."""
    table = {}
    for name in (name for name in WAYS if name in raw[0]):
        table[name] = {
            "pause_s": median(entry[name]["pause_s"] for entry in raw),
            "pause_in_warm_copies": median(entry[name]["pause_s"] / entry[name]["copy_s"] for entry in raw),
            "lost_s": median(
                entry[name]["pause_s"] + entry[name]["following_s"] - entry["none"]["following_s"] for entry in raw
            ),
            "following_steps_ratio": median(entry[name]["following_s"] / entry["none"]["following_s"] for entry in raw),
            "whole_s": median(entry[name]["whole_s"] for entry in raw),
        }
    bounds = {key: median(entry["bounds"][key] for entry in raw) for key in raw[0]["bounds"]}
    return {"step_s": median(entry["none"]["following_s"] / n_steps for entry in raw), "bounds": bounds, "ways": table}


def median(values):
    return round(statistics.median(values), 4)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=4, help="steps that follow each save")
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--folder", type=Path, help="where to write: another disk than that of the system's temporary")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS), help="without peers: what a run feels")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        dist.init_process_group("gloo", init_method=f"file://{name}/store", rank=0, world_size=1)
        result = compare(arguments, Path(name))
        dist.destroy_process_group()
    machine = {"device": DEVICE.type, "torch": torch.__version__, "cores": os.cpu_count()}
    settings = {key: value for key, value in vars(arguments).items() if key != "folder"}
    result = {**machine, **settings, **result}
    print(json.dumps({key: value for key, value in result.items() if key != "rounds"}, indent=2))
    results = Path(__file__).parent / "results"
    alone = "" if len(arguments.ways) > 1 else "-alone"
    (results / f"checkpoint-{DEVICE.type}{alone}.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
