"""Optimisers, built from parameter groups: those with weight decay, and by default norms and biases without.

torch's own, in the fused form where the device has one. State is named by parameter in checkpoints (see `state`).
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from distdl import registry
from distdl.config.schema import OptimConfig

Groups = list[dict[str, Any]]


def sgd(groups: Groups, config: OptimConfig, **args: Any) -> torch.optim.Optimizer:
    nesterov = config.nesterov and config.momentum > 0
    return _make(torch.optim.SGD, groups, args, lr=config.lr, momentum=config.momentum, nesterov=nesterov)


def adam(groups: Groups, config: OptimConfig, **args: Any) -> torch.optim.Optimizer:
    return _make(torch.optim.Adam, groups, args, lr=config.lr, betas=config.betas, eps=config.eps)


def adamw(groups: Groups, config: OptimConfig, **args: Any) -> torch.optim.Optimizer:
    return _make(torch.optim.AdamW, groups, args, lr=config.lr, betas=config.betas, eps=config.eps)


def _make(kind: Any, groups: Groups, args: dict[str, Any], **given: Any) -> torch.optim.Optimizer:
    name = f"optimiser '{kind.__name__.lower()}'"
    return registry.call_with_args(kind, {"fused": True, **args}, name, params=groups, **given)


def build(config: OptimConfig, model: nn.Module) -> torch.optim.Optimizer:
    """Raises UserError for an unknown optimiser or argument."""
    groups = parameter_groups(model.named_parameters(), config)
    function = registry.resolve(config.name, registry.OPTIMISERS, "optimiser")
    kind = f"optimiser '{config.name}'"
    if config.name in registry.OPTIMISERS:
        return registry.call_with_args(function, config.args, kind, groups=groups, config=config)
    return registry.call_with_args(function, config.args, kind, params=groups, lr=config.lr)


def parameter_groups(named: Iterable[tuple[str, nn.Parameter]], config: OptimConfig) -> Groups:
    """Trainable parameters with decay, and those of one dimension or none (norms, biases) without it."""
    decayed: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    for _, parameter in named:
        if parameter.requires_grad:
            (decayed if parameter.dim() > 1 or config.decay_norm_and_bias else plain).append(parameter)
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def set_lr(optimiser: torch.optim.Optimizer, lr: float) -> None:
    for group in optimiser.param_groups:
        group["lr"] = lr


def state_by_name(
    optimiser: torch.optim.Optimizer, model: nn.Module
) -> tuple[dict[str, torch.Tensor], dict[str, dict[str, float]]]:
    """The optimiser's state as (tensors "name/key", scalars name -> key -> value), free of the parameters' order."""
    tensors: dict[str, torch.Tensor] = {}
    scalars: dict[str, dict[str, float]] = {}
    for name, parameter in model.named_parameters():
        for key, value in optimiser.state.get(parameter, {}).items():
            if isinstance(value, torch.Tensor) and value.dim() > 0:
                tensors[f"{name}/{key}"] = value
            elif value is not None:
                scalars.setdefault(name, {})[key] = float(value)
    return tensors, scalars


def load_state_by_name(
    optimiser: torch.optim.Optimizer,
    model: nn.Module,
    tensors: dict[str, torch.Tensor],
    scalars: dict[str, dict[str, float]],
) -> None:
    """Puts back what `state_by_name` gave, in the memory format of each parameter."""
    for name, parameter in model.named_parameters():
        state: dict[str, Any] = {}
        for key, number in scalars.get(name, {}).items():
            # A step count lives where the optimiser's kernels want it: beside the parameter for the fused ones.
            state[key] = torch.tensor(number, dtype=torch.float32, device=parameter.device)
        prefix = f"{name}/"
        for key, value in tensors.items():
            if key.startswith(prefix):
                state[key.removeprefix(prefix)] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
        if state:
            optimiser.state[parameter] = state
