"""A trained network from a run's checkpoint, or from a file of weights under a config: to evaluate, compare, teach."""

import contextlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from distdl import plugins, registry
from distdl.checkpoint.load import at_step, evaluated_weights
from distdl.comm.world import WorldInfo
from distdl.config import load
from distdl.config.schema import Config
from distdl.data.engine import Loader
from distdl.errors import UserError
from distdl.run import places, trust
from distdl.run.folder import RunFolder, find, split_step
from distdl.track.progress import progress
from distdl.trainer import pretrained, setup
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

    @property
    def classes(self) -> list[str] | None:
        """Their names, which the run has from its training data; None if that had none."""
        found = self._noted("classes")
        return [str(each) for each in found] if found else None

    @property
    def image_shape(self) -> tuple[int, int, int] | None:
        """(height, width, channels) of the images that the run evaluates, if it has noted them."""
        found = self._noted("image")
        return (found[0], found[1], found[2]) if found else None

    def _noted(self, key: str) -> Any:
        """What the run says of itself; None where there is no run, or it doesn't say."""
        return json.loads(self.folder.identity.read_text()).get(key) if self.folder else None

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
    weights: str | dict[str, torch.Tensor] | None = None,
    averages: bool = True,
    trust_plugins: bool = False,
    warn: Callable[[str], None] = print,
) -> Trained:
    """The network of a run, as RUN or RUN@STEP, at a step, a number, "best" or None for the newest; or with `weights`,
    a file or tensors.

    With the averaged weights if the run keeps them and `averages` does not forbid it. A damaged checkpoint that is
    passed over is told to `warn`. Raises UserError, also for code in a run of somebody else (see distdl.run.trust).
    """
    run, at = split_step(run)
    folder, step = find(run), at or step
    config = load(folder.config, overrides).config
    trust.check(folder, config, trust_plugins)
    if weights is not None:
        trained = of_config(config, weights)
        trained.folder = folder
        return trained
    checkpoint = at_step(folder, step, warn=warn)
    tensors = {name: t for name, t in checkpoint.tensors.items() if averages or not name.startswith("ema/")}
    trained = of_config(config, evaluated_weights(tensors))
    trained.folder, trained.step = folder, checkpoint.step
    trained.averaged_weights = any(name.startswith("ema/") for name in tensors)
    return trained


def of_config(config: Config, weights: str | dict[str, torch.Tensor]) -> Trained:
    """The network that a config describes, with weights by name, or those that a spec as model.pretrained's means.

    Raises UserError if they are another network's, or lack a part of it.
    """
    places.use(config.paths)
    device = setup.pick_device(config.train.device, WorldInfo())
    own_code = plugins.load(plugins.read(config.plugins))
    with registry.using(own_code):
        model, task = setup.build_model(config, device), setup.build_task(config)
    if isinstance(weights, str):
        put = pretrained.put_into(model, pretrained.read(weights), weights)
        if untrained := [name for name in put.fresh if not pretrained.AUXILIARY.match(name)]:
            what = f"these weights are for another number of classes: {', '.join(untrained)}"
            raise UserError(what, where=weights, fix="Set model.args.classes to it.")
    else:
        load_into(model.state_dict(keep_vars=True), weights, "weights")
    model.eval()
    return Trained(config, device, model, task, own_code)


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
