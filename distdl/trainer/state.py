"""TrainState: the one owner of what must survive a restart besides tensors; and the way to and from a checkpoint.

The learning rate and the EMA's decay are functions of the step, random numbers are keyed by (seed, step) or (seed,
epoch, sample id), and the data's place is one integer: none of them needs saving.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from distdl.checkpoint.load import Checkpoint, evaluated_weights
from distdl.comm import collectives, messages
from distdl.errors import UserError
from distdl.trainer import optim
from distdl.trainer.ema import AveragedWeights
from distdl.trainer.engines import Engine


@dataclass(slots=True)
class TrainState:
    step: int = 0  # optimiser updates done
    position: int = 0  # samples since the start
    time_s: float = 0.0  # training time, over restarts
    n_bad: int = 0  # samples that could not be used, over all workers
    best: dict[str, Any] | None = None  # {"metric", "value", "step"} of the best evaluation
    ranking: list[dict[str, Any]] = field(default_factory=list)  # {"value", "step"} of the best evaluations, best first
    early_stop: dict[str, Any] | None = None  # {"best", "n_bad"}: evaluations without improvement
    plateau: dict[str, Any] | None = None  # of that schedule
    n_skipped: int = 0  # steps left out for a NaN or Inf
    n_skipped_in_a_row: int = 0
    eval_pending: bool = False  # stopped inside an evaluation: it is made up for at the start
    micro_batch: int | None = None  # found by micro_batch: auto
    unlogged: tuple[float, float] = (0.0, 0.0)  # loss sum and count over all workers since the last train row

    def advance(self, n_samples: int) -> None:
        self.step += 1
        self.position += n_samples


def capture(
    state: TrainState, engine: Engine, ema: AveragedWeights | None, context: dict[str, Any]
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Everything a checkpoint holds: tensors by logical name, and JSON; `context` describes the run (config, ...)."""
    optim_tensors, optim_scalars = optim.state_by_name(engine.optimiser, engine.model)
    tensors = {f"model/{name}": value for name, value in engine.model.state_dict(keep_vars=True).items()}
    tensors |= {f"optim/{name}": value for name, value in optim_tensors.items()}
    if ema:
        tensors |= {f"ema/{name}": value for name, value in ema.averages.items()}
    n_skipped, in_a_row = engine.update.skipped.totals()
    train_state = asdict(state) | {"n_skipped": n_skipped, "n_skipped_in_a_row": in_a_row}
    scale = engine.update.scale.state() if engine.update.scale else None
    return tensors, {"train_state": train_state, "optim": optim_scalars, "loss_scale": scale, **context}


def restore(
    find: Callable[[], Checkpoint | None],
    state: TrainState,
    engine: Engine,
    ema: AveragedWeights | None,
    *,
    weights_only: bool = False,
) -> dict[str, Any] | None:
    """Puts the checkpoint that `find` returns on rank 0 into every worker; returns its JSON part, or None without one.

    Rank 0 alone needs to see the files: it sends what it read. Raises UserError if the tensors are not this model's.
    """
    checkpoint: Checkpoint | None = None

    def found_state() -> dict[str, Any] | None:
        nonlocal checkpoint
        checkpoint = find()
        return checkpoint.state if checkpoint else None

    found = messages.on_rank0(found_state)
    if found is None:
        _send_initial_weights(engine)
        if ema:
            weights = engine.model.state_dict()
            load_into(ema.averages, {name: weights[name] for name in ema.averages}, "ema")
        return None
    tensors = messages.broadcast_tensors(checkpoint.tensors if checkpoint else {})
    load_into(engine.model.state_dict(keep_vars=True), _part(tensors, "model/"), "model")
    if ema:
        averages = evaluated_weights(tensors)  # switched on later, they begin at the weights
        load_into(ema.averages, {name: averages[name] for name in ema.averages if name in averages}, "ema")
    if weights_only:
        return found
    optim.load_state_by_name(engine.optimiser, engine.model, _part(tensors, "optim/"), found["optim"])
    if engine.update.scale and found["loss_scale"]:
        engine.update.scale.load(found["loss_scale"])
    for name, value in found["train_state"].items():
        setattr(state, name, value)
    engine.update.skipped.set(state.n_skipped, state.n_skipped_in_a_row)
    return found


def _send_initial_weights(engine: Engine) -> None:
    for tensor in engine.model.state_dict(keep_vars=True).values():
        collectives.broadcast_(tensor.detach())


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


@torch.no_grad()
def load_into(live: dict[str, Tensor], saved: dict[str, Tensor], kind: str) -> None:
    """Copies values; the live tensors keep their device and memory format."""
    missing, unknown = sorted(live.keys() - saved.keys()), sorted(saved.keys() - live.keys())
    other_shape = [name for name in live.keys() & saved.keys() if live[name].shape != saved[name].shape]
    if missing or unknown or other_shape:
        problems = [
            f"{what}: {', '.join(names[:3])}{' ...' if len(names) > 3 else ''}"
            for what, names in (("missing", missing), ("not in this model", unknown), ("of another shape", other_shape))
            if names
        ]
        raise UserError(
            f"the checkpoint is of another network ({kind}; {'; '.join(problems)})",
            fix="Use the same model.name and model.args as the run that saved it.",
        )
    for name, tensor in live.items():
        tensor.copy_(saved[name])
