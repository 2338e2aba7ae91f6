"""A trained network from a run's checkpoint, or from a file of weights under a config: to evaluate, compare, teach."""

import contextlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from distdl import plugins, registry
from distdl.checkpoint.load import at_step, evaluated_weights
from distdl.comm.world import WorldInfo
from distdl.config import load
from distdl.config.schema import Config
from distdl.data.engine import Loader
from distdl.errors import UserError
from distdl.run import trust
from distdl.run.folder import RunFolder, find
from distdl.track.progress import progress
from distdl.trainer import setup
from distdl.trainer.evaluate import evaluate
from distdl.trainer.loaders import LoaderFactory
from distdl.trainer.state import load_into

Row = dict[str, Any]


@dataclass(slots=True)
class Trained:
    """A network with its weights, on its device, in evaluation mode; and what it was trained for."""

    config: Config
    device: torch.device
    model: nn.Module
    task: Any
    own_code: registry.Registered = field(default_factory=dict)  # what the plugins of the config registered
    folder: RunFolder | None = None
    step: int | None = None
    averaged_weights: bool = False

    def eval_loaders(self) -> dict[str, Loader]:
        """A loader for each evaluation split; the caller closes them. Raises UserError if the config names none."""
        if not self.config.data.eval_sets:
            raise UserError("the config names no evaluation split", where="data.eval", fix="Set data.eval.shards.")
        with registry.using(self.own_code):
            return LoaderFactory(self.config, WorldInfo(), self.device, self.model, self.task).evaluation()


def of_run(
    run: str,
    step: str | int | None = None,
    overrides: Sequence[str] = (),
    *,
    weights: Path | dict[str, torch.Tensor] | None = None,
    averages: bool = True,
    trust_plugins: bool = False,
    warn: Callable[[str], None] = print,
) -> Trained:
    """The network of a run at a step, a number, "best" or None for the newest; or with `weights`, a file or tensors.

    With the averaged weights if the run keeps them and `averages` does not forbid it. A damaged checkpoint that is
    passed over is told to `warn`. Raises UserError, also for code in a run of somebody else (see distdl.run.trust).
    """
    folder = find(run)
    config = load(folder.config, overrides).config
    trust.check(folder, config, trust_plugins)
    if weights is not None:
        trained = of_config(config, _read(weights) if isinstance(weights, Path) else weights)
        trained.folder = folder
        return trained
    checkpoint = at_step(folder, step, warn=warn)
    tensors = {name: t for name, t in checkpoint.tensors.items() if averages or not name.startswith("ema/")}
    trained = of_config(config, evaluated_weights(tensors))
    trained.folder, trained.step = folder, checkpoint.step
    trained.averaged_weights = any(name.startswith("ema/") for name in tensors)
    return trained


def of_config(config: Config, weights: dict[str, torch.Tensor]) -> Trained:
    """The network that a config describes, with the given weights by name. Raises UserError if they are another's."""
    device = setup.pick_device(config.train.device, WorldInfo())
    own_code = plugins.load(plugins.read(config.plugins))
    with registry.using(own_code):
        model, task = setup.build_model(config, device), setup.build_task(config)
    load_into(model.state_dict(keep_vars=True), weights, "weights")
    model.eval()
    return Trained(config, device, model, task, own_code)


# --- distdl eval ---


def evaluate_run(
    run: str, step: str | None, overrides: Sequence[str], warn: Callable[[str], None], weights: Path | None = None
) -> list[Row]:
    """A row per evaluation split."""
    trained = of_run(run, step, overrides, weights=weights, warn=warn)
    assert trained.folder
    if weights is not None:
        return [{"run": trained.folder.name, "weights": str(weights), **row} for row in evaluate_sets(trained)]
    head = {"run": trained.folder.name, "step": trained.step, "averaged_weights": trained.averaged_weights}
    return [{**head, **row} for row in evaluate_sets(trained)]


def evaluate_config(path: Path, overrides: Sequence[str], weights: Path | None) -> list[Row]:
    """A row per evaluation split. Raises UserError without weights, or with those of another network."""
    if weights is None:
        raise UserError("a config alone has no weights", where=str(path), fix="Add --weights FILE, or name a run.")
    config = load(path, overrides).config
    trust.check_file(path, config)
    return [{"weights": str(weights), **row} for row in evaluate_sets(of_config(config, _read(weights)))]


def _read(weights: Path) -> dict[str, torch.Tensor]:
    try:
        return load_file(weights)
    except (OSError, SafetensorError) as error:
        raise UserError(f"can't read the weights: {error}", where=str(weights)) from error


def evaluate_sets(trained: Trained) -> list[Row]:
    """A row per evaluation split."""
    rows = []
    setup.set_threads_and_kernels(trained.config.train, WorldInfo())
    with contextlib.ExitStack() as closing:
        loaders = trained.eval_loaders()
        for loader in loaders.values():
            closing.callback(loader.close)
        for name, loader in loaders.items():
            n_batches = math.ceil(loader.dataset.n_samples / trained.config.train.eval_batch)
            with progress(f"evaluating {name}", n_batches) as advance:
                result = evaluate(
                    trained.model,
                    trained.task,
                    loader,
                    trained.device,
                    trained.config.train,
                    progress=lambda done, n_batches: advance(),
                )
            rows.append({"set": name, **result})
    return rows
