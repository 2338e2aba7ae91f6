"""`distdl average`: the equal mean of a run's last checkpoints, as one file of weights.

    checkpoints, one at a time -> sums in fp64 -> means -> batch norm's statistics anew -> safetensors -> evaluation

The mean is that of the trained weights, also where the run keeps averages of its own: those are smooth already. Batch
norm's statistics are measured on the mean by a pass over training batches (Izmailov et al. 2018, algorithm 1).
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

from distdl import registry
from distdl.checkpoint import load
from distdl.checkpoint.format import CheckpointDamaged
from distdl.checkpoint.load import Checkpoint
from distdl.comm.world import WorldInfo
from distdl.errors import UserError
from distdl.run.folder import RunFolder, find, write_atomic
from distdl.trainer import sounds
from distdl.trainer.loaders import LoaderFactory, build_plan, open_dataset
from distdl.trainer.step import autocast, inputs_of, seed_everything, to_device
from distdl.trainer.trained import Row, Trained, evaluate_sets, of_run


def average(
    run: str,
    *,
    last: int | None = None,
    steps: Sequence[int] = (),
    out: Path | None = None,
    bn_samples: int | None = 10_000,
    overrides: Sequence[str] = (),
    trust_plugins: bool = False,
    warn: Callable[[str], None] = print,
) -> list[Row]:
    """Averages the `last` checkpoints, or those of `steps`; a row per evaluation split, or one if there is none.

    Writes `out`, by default averaged-last-K.safetensors in the run folder. A damaged checkpoint is told to `warn`, and
    an older one takes its place. `bn_samples`: None for an epoch. Raises UserError.
    """
    folder = find(run)
    if not steps and (last is None or last < 1):
        raise UserError("how many checkpoints?", where="command line --last", fix="Say --last 5, or --steps 100,200.")
    if steps and last is not None:
        raise UserError("--last and --steps are two answers to one question", where="command line")
    if bn_samples is not None and bn_samples < 1:
        raise UserError(f"batch norm can't be estimated from {bn_samples} samples", where="command line --bn-samples")
    taken, weights = mean(_at_steps(folder, steps) if steps else _newest(folder, last or 0, warn))
    trained = of_run(run, overrides=overrides, weights=weights, trust_plugins=trust_plugins)
    estimate_batch_norm(trained, bn_samples)
    names = f"steps-{'-'.join(map(str, taken))}" if steps else f"last-{last}"
    path = out or folder.path / f"averaged-{names}.safetensors"
    _write(path, trained.model, {"run_id": folder.run_id(), "steps": ",".join(map(str, taken))})
    head = {"run": folder.name, "weights": str(path), "steps": taken}
    return [{**head, **row} for row in evaluate_sets(trained)] if trained.config.data.eval_sets else [head]


def mean(checkpoints: Iterable[Checkpoint]) -> tuple[list[int], dict[str, Tensor]]:
    """Steps, rising, and means by name, of checkpoints that come newest first; of whole numbers, the newest's."""
    steps: list[int] = []
    dtypes: dict[str, torch.dtype] = {}
    sums: dict[str, Tensor] = {}
    for checkpoint in checkpoints:
        for name, tensor in checkpoint.tensors.items():
            if name not in sums:
                dtypes[name] = tensor.dtype
                sums[name] = tensor.to(torch.float64, copy=True) if tensor.is_floating_point() else tensor
            elif tensor.is_floating_point():
                sums[name] += tensor
        steps.insert(0, checkpoint.step)
    means = {name: each / len(steps) if each.is_floating_point() else each for name, each in sums.items()}
    return steps, {name.removeprefix("model/"): each.to(dtypes[name]) for name, each in means.items()}


def _at_steps(folder: RunFolder, steps: Sequence[int]) -> Iterator[Checkpoint]:
    for step in sorted(set(steps), reverse=True):
        yield load.at_step(folder, step, only="model/")


def _newest(folder: RunFolder, n: int, warn: Callable[[str], None]) -> Iterator[Checkpoint]:
    found = 0
    for step, path in reversed(load.committed(folder)):
        if found == n:
            return
        try:
            checkpoint = load.load(folder, step, path, only="model/")
        except CheckpointDamaged as error:
            warn(f"checkpoint passed over: {error}")
            continue
        found += 1
        yield checkpoint
    if found < n:
        raise UserError(
            f"this run has {found} whole checkpoints, not {n}",
            where=str(folder.checkpoints),
            fix="Ask for fewer; checkpoint.keep says how many a run keeps.",
        )


def estimate_batch_norm(trained: Trained, n_samples: int | None) -> None:
    """Sets running statistics to the plain mean over the first `n_samples` of training (None: an epoch), as augmented
    then, in forwards of at most train.eval_batch rows."""
    if not any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in trained.model.modules()):
        return
    config = trained.config
    with registry.using(trained.own_code):
        dataset = open_dataset(config.data.train, "data.train", config.data)
        plan = build_plan(config, dataset)
        make = LoaderFactory(config, WorldInfo(), trained.device, trained.model, trained.task)
        loader = make(config.data.train, "data.train", dataset, plan)
    end = plan.epoch_length if n_samples is None else min(n_samples, plan.epoch_length)
    steps = plan.steps(0, end, end=end)
    n_parts = -(-config.train.global_batch // config.train.eval_batch)
    rows = (step.part(i, n_parts) for step in steps for i in range(n_parts))
    seed_everything(trained.device, config.train.seed, 0, 0)
    with closing(loader), closing(loader.stream(rows)) as batches, autocast(config.train, trained.device):
        pieces = (piece for each in batches for piece in sounds.pieces(each.tensors, loader.sounds))
        inputs = (inputs_of(to_device(piece, loader, trained.device, config.train)) for piece in pieces)
        _set_plain_means(trained.model, inputs)


@torch.no_grad()
def _set_plain_means(model: nn.Module, inputs: Iterable[tuple[torch.Tensor, ...]]) -> None:
    """Running statistics of batch norms become the mean over all these forwards, each of the same weight."""
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    momenta, was_training = [norm.momentum for norm in norms], model.training
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
    model.train()
    for each in inputs:
        model(*each)
    for norm, momentum in zip(norms, momenta):
        norm.momentum = momentum
    model.train(was_training)


def _write(path: Path, model: nn.Module, metadata: dict[str, str]) -> None:
    tensors = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)  # tied weights: the format knows none
        for name, tensor in model.state_dict().items()
    }
    try:
        write_atomic(path, safetensors.torch.save(tensors, metadata={"format": "pt", **metadata}))
    except OSError as error:
        raise UserError(f"can't write the weights: {error.strerror}", where=str(path)) from error
