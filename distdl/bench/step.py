"""`distdl bench step`: the step of a config, on batches in memory and with its loader, against a bare loop.

    data of the config, or noise  ->  some batches, kept in memory  ->  rounds of (distdl's loop, bare loop)
                                  ->  one longer stretch with the loader

The rounds alternate; each waits for the device and the other workers. The bare loop has no other workers: with several,
the ratio is the price of distdl and of their exchange.
"""

import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from distdl import plugins, registry
from distdl.bench.loops import BareLoop, TrainRows, fit_steps, in_memory
from distdl.bench.ratio import alternate, ratio
from distdl.comm import collectives
from distdl.comm.world import WorldInfo
from distdl.config.schema import Config
from distdl.data.corpus.shards import RawSample, write_shards
from distdl.data.engine import HostBatch
from distdl.data.remote import places
from distdl.errors import UserError
from distdl.models import zoo
from distdl.run import tuned
from distdl.track import NullTracker
from distdl.trainer import micro_batch, setup, throughput
from distdl.trainer.phases import NAMES
from distdl.trainer.setup import Run
from distdl.trainer.state import TrainState

ROUNDS = 10
_MOST_BATCHES = 8  # in memory
_NOISE_SAMPLES = 64
_ENDLESS = 10**9  # steps

Result = dict[str, Any]


def measure(config: Config, world: WorldInfo, n_steps: int, image_shape: Sequence[int] | None = None) -> Result:
    """About `n_steps` of each loop. `image_shape` (height, width, channels) is that of the noise where the config's
    data is not there; by default what its network is usually given. Raises UserError."""
    device = setup.pick_device(config.train.device, world)
    threads = setup.set_threads_and_kernels(config.train, world, is_tree=config.dist.reduction == "tree")
    n_rounds = min(ROUNDS, n_steps)
    steps_per_round = n_steps // n_rounds
    train = config.data.train
    is_kept = any(each.shards is not None and not places.are_there(each.shards) for each in train.sources)
    in_place = [each.folder or each.manifest for each in train.sources]
    has_data = not is_kept and all(path is None or Path(path).exists() for path in in_place)
    prefix = "distdl-bench-"
    with collectives.joined(world, config.dist.backend, device), tempfile.TemporaryDirectory(prefix=prefix) as folder:
        config = tuned.settled(config, world.world_size // world.local_world_size, world.local_world_size)
        if not has_data:
            config = on_noise(config, Path(folder), image_shape)
        with registry.using(plugins.load(plugins.read(config.plugins))):
            run = setup.build(only_steps(config, log_every=steps_per_round), world, device, TrainState())
            try:
                micro_batch.settle(run)
                with in_memory(run, _MOST_BATCHES) as batches:
                    measured = _compare(run, batches, n_rounds, steps_per_round)
                measured["loader"] = _with_loader(run, n_rounds * steps_per_round) if has_data else None
            finally:
                run.close()
    return {
        "model": config.model.name,
        "data": config.data.train.source if has_data else "noise",
        "device": torch.cuda.get_device_name() if device.type == "cuda" else device.type,
        "workers": world.world_size,
        "threads": threads,
        "precision": config.train.precision,
        "global_batch": config.train.global_batch,
        "rounds": n_rounds,
        "steps_per_round": steps_per_round,
        "torch": torch.__version__,
        **measured,
    }


def _compare(run: Run, batches: Sequence[HostBatch], n_rounds: int, n_steps: int) -> Result:
    rows = TrainRows()
    fit_steps(run, n_steps, NullTracker())  # compiles, tunes, fills the caches
    memory = throughput.peak_memory_bytes(run.device)  # before there is a second network
    bare_loop = BareLoop(run, batches)
    bare_loop.train(n_steps)
    loops = {"step": lambda: fit_steps(run, n_steps, rows), "bare": lambda: bare_loop.train(n_steps)}
    seconds = alternate(loops, n_rounds, lambda: _wait(run.device))
    step_s, bare_step_s = (statistics.median(seconds[name]) / n_steps for name in loops)
    compared = ratio(seconds["step"], seconds["bare"])
    samples_per_s = run.global_batch / step_s
    return {
        "step_s": step_s,
        "samples_per_s": samples_per_s,
        **{f"{name}_s": rows.median(f"{name}_s") for name in NAMES},
        "bare_step_s": bare_step_s,
        "ratio": compared.median,
        "interval_95": [compared.low, compared.high],
        "peak_memory_bytes": memory,
        **_utilisation(run, _image_shape(batches[0]), samples_per_s),
    }


def _with_loader(run: Run, n_steps: int) -> Result:
    rows = TrainRows()
    _wait(run.device)
    began = time.perf_counter()
    fit_steps(run, n_steps, rows)
    _wait(run.device)
    seconds = time.perf_counter() - began
    return {
        "step_s": seconds / n_steps,
        "samples_per_s": n_steps * run.global_batch / seconds,
        "data_wait_s": rows.median("data_wait_s"),
    }


def _wait(device: torch.device) -> None:
    """For the device and the other workers."""
    if device.type != "cpu":
        torch.accelerator.synchronize()
    collectives.barrier()


def _image_shape(batch: HostBatch) -> Sequence[int] | None:
    """(height, width, channels); None for sounds, whose length differs from step to step."""
    return batch.tensors["image"].shape[1:] if "image" in batch.tensors else None


def _utilisation(run: Run, image_shape_HWC: Sequence[int] | None, samples_per_s: float) -> Result:
    precision = run.config.train.precision
    known = throughput.known_peak(run.device, precision)
    peak = known or throughput.measured_peak(run.device, precision)
    used = throughput.Throughput(
        run.engine.model, image_shape_HWC, run.device, precision, run.world.world_size, peak_flops_per_s=peak
    )
    return {
        "mfu": used.row(samples_per_s).get("mfu"),
        "flops_per_sample": used.flops_per_sample,
        "peak_flops_per_s": peak,
        "peak_is": "the data sheet's" if known else "a measured matrix product",
    }


# --- the config that is measured ---


def only_steps(config: Config, *, log_every: int) -> Config:
    """The config of an endless run that neither evaluates, nor saves, nor changes its batch or rate."""
    return _changed(
        config,
        {
            "data": {"eval": None},
            "train": {
                "epochs": None,
                "steps": _ENDLESS,
                "log_every": log_every,
                "eval_every": None,
                "batch_growth": None,
                "resolution": None,
                "early_stop": None,
                "stop_after": None,
            },
            "schedule": {"name": "constant", "args": {}},
            "checkpoint": {"every": _ENDLESS, "best": None},
        },
    )


def on_noise(config: Config, folder: Path, image_shape_HWC: Sequence[int] | None) -> Config:
    """The config on images of noise, as large as the network gets them; raises UserError where nobody knows how large.

    Written as shards, so that all that follows is what a run does.
    """
    train = config.data.train
    if config.data.sound:
        raise UserError(
            "the training data is not there",
            where=f"data.train: {train.source}",
            fix="Pack it first: sounds of noise would not have its lengths.",
        )
    if image_shape_HWC is None:
        image_shape_HWC = _usual_shape(config)
    random = np.random.default_rng(0)
    samples: list[RawSample] = [
        {
            "__key__": str(number),
            "png": cv2.imencode(".png", random.integers(0, 256, image_shape_HWC, dtype=np.uint8))[1].tobytes(),
            train.label: number % 2,
        }
        for number in range(_NOISE_SAMPLES)
    ]
    write_shards(samples, folder / "noise", classes=None, kind="noise")
    normalise = [each for each in train.transforms if "normalise" in each]
    source = {"shards": str(folder / "noise"), "image": "png", "transforms": normalise, "index": None, "mixture": None}
    return _changed(config, {"data": {"train": source, "tail": "carry", "sampling": "natural", "draws": None}})


def _usual_shape(config: Config) -> tuple[int, int, int]:
    try:
        channels, height, width = zoo.find(config.model.name).input_size
    except UserError:
        raise UserError(
            "the training data is not there, and nobody knows what images this network takes",
            where=f"data.train.shards: {config.data.train.shards}",
            fix="Pack the data first, or give the size of images of noise: --image 224x224x3.",
        ) from None
    return height, width, channels


def _changed(config: Config, changes: Mapping[str, Mapping[str, Any]]) -> Config:
    values = config.model_dump(mode="json")
    for section, keys in changes.items():
        for name, value in keys.items():
            inside = values[section].get(name)
            values[section][name] = {**inside, **value} if isinstance(inside, dict) and value else value
    return Config.model_validate(values)


# --- for a person ---


def report(result: Result) -> str:
    low, high = result["interval_95"]
    lines = [
        f"{result['model']}, {result['global_batch']} rows, {result['precision']}, on {result['workers']} x "
        f"{result['device']} ({result['threads']} threads each), data: {result['data']}",
        _line("step", result["step_s"], f"{result['samples_per_s']:,.0f} samples/s, batches in memory"),
        f"{'':<12}" + ", ".join(f"{name} {1e3 * result[f'{name}_s']:.3g}" for name in NAMES) + " ms",
        _line("bare loop", result["bare_step_s"], "the same network, loss and optimiser, each worker for itself"),
        f"{'ratio':<12}{result['ratio']:.3f}       95 % interval {low:.3f} to {high:.3f}, "
        f"{result['rounds']} rounds of {result['steps_per_round']} steps",
    ]
    if result["loader"]:
        loader = result["loader"]
        wait = f"{loader['samples_per_s']:,.0f} samples/s, {1e3 * loader['data_wait_s']:.3g} ms of it waiting for data"
        lines.append(_line("with loader", loader["step_s"], wait))
    if result["mfu"] is not None:
        peak = f"of {result['peak_flops_per_s'] / 1e12:.3g} TFLOP/s a device, {result['peak_is']}"
        lines.append(f"{'MFU':<12}{100 * result['mfu']:.1f} %      {peak}")
    lines.append(f"{'memory':<12}{result['peak_memory_bytes'] / 2**20:,.0f} MiB at most, of this process")
    return "\n".join(lines)


def _line(name: str, seconds: float, text: str) -> str:
    return f"{name:<12}{f'{1e3 * seconds:.3f} ms':<12}{text}"
