"""`distdl eval`: the weights of a run, or a file of weights under a config, on the evaluation splits."""

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from distdl.checkpoint.load import at_step
from distdl.comm.world import WorldInfo
from distdl.config import load
from distdl.config.schema import Config
from distdl.errors import UserError
from distdl.run.folder import find
from distdl.train import setup
from distdl.train.evaluate import evaluate
from distdl.train.state import load_into

Row = dict[str, Any]


def evaluate_run(run: str, step: str | None, overrides: Sequence[str], warn: Callable[[str], None]) -> list[Row]:
    """A row per evaluation split, with the averaged weights if the run keeps them. `step`: a number, "best" or None.

    A damaged checkpoint that is passed over is told to `warn`.
    """
    folder = find(run)
    checkpoint = at_step(folder, step, warn=warn)
    averages = {name: t for name, t in checkpoint.tensors.items() if name.startswith("ema/")}
    weights = {name.removeprefix("model/"): t for name, t in checkpoint.tensors.items() if name.startswith("model/")}
    weights |= {name.removeprefix("ema/"): t for name, t in averages.items()}
    rows = _evaluate(load(folder.config, overrides).config, weights)
    return [{"run": folder.name, "step": checkpoint.step, "averaged_weights": bool(averages), **row} for row in rows]


def evaluate_config(path: Path, overrides: Sequence[str], weights: Path | None) -> list[Row]:
    """A row per evaluation split. Raises UserError without weights, or with those of another network."""
    if weights is None:
        raise UserError("a config alone has no weights", where=str(path), fix="Add --weights FILE, or name a run.")
    try:
        tensors = load_file(weights)
    except (OSError, SafetensorError) as error:
        raise UserError(f"can't read the weights: {error}", where=str(weights)) from error
    return [{"weights": str(weights), **row} for row in _evaluate(load(path, overrides).config, tensors)]


def _evaluate(config: Config, weights: dict[str, torch.Tensor]) -> list[Row]:
    if not config.data.eval_sets:
        raise UserError("the config names no evaluation split", where="data.eval", fix="Set data.eval.shards.")
    world = WorldInfo()
    device = setup.pick_device(config.train, world)
    setup.set_threads_and_kernels(config.train, world)
    model = setup.build_model(config, device)
    load_into(model.state_dict(keep_vars=True), weights, "weights")
    task = setup.build_task(config)
    rows = []
    with contextlib.ExitStack() as loaders:
        for name, loader in setup.build_eval_loaders(setup.LoaderFactory(config, world, device, model)).items():
            loaders.callback(loader.close)
            rows.append({"set": name, **evaluate(model, task, loader, device, config.train)})
    return rows
