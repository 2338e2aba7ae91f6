"""Optimisers, built from groups of parameters: by what weight decay acts on, and by the patterns of `optim.groups`.

torch's own, in the fused form where every device has one, and lars, lamb and muon, which stand in their own files. A
group carries two keys besides the optimiser's: `lr_scale`, which `set_lr` applies, and `decays`, whether weight decay,
L1 and a layer-wise rate act on it at all. State is named by parameter in checkpoints (see `state`).
"""

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import nn

from distdl import registry
from distdl.config.schema import GroupConfig, OptimConfig
from distdl.errors import UserError, did_you_mean
from distdl.trainer.foreach import weights_and_gradients
from distdl.trainer.lamb import Lamb
from distdl.trainer.lars import Lars
from distdl.trainer.muon import Muon

Named = Sequence[tuple[str, nn.Parameter]]
Groups = list[dict[str, Any]]


# --- the optimisers by name ---


def sgd(named: Named, config: OptimConfig, **args: Any) -> torch.optim.Optimizer:
    """With momentum. torch's, and so are its arguments."""
    nesterov = config.nesterov and config.momentum > 0
    form = "foreach" if args.get("dampening") else "fused"
    optimiser = _torchs(torch.optim.SGD, form, named, config, args, momentum=config.momentum, nesterov=nesterov)
    if config.momentum and not args.get("dampening"):
        _begin_momentum(optimiser)
    return optimiser


def adam(named: Named, config: OptimConfig, **args: Any) -> torch.optim.Optimizer:
    """Kingma and Ba 2015. torch's, and so are its arguments."""
    return _torchs(torch.optim.Adam, "fused", named, config, args, betas=config.betas, eps=config.eps)


def adamw(named: Named, config: OptimConfig, **args: Any) -> torch.optim.Optimizer:
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019). torch's, and so are its arguments."""
    return _torchs(torch.optim.AdamW, "fused", named, config, args, betas=config.betas, eps=config.eps)


def adagrad(named: Named, config: OptimConfig, **args: Any) -> torch.optim.Optimizer:
    """Duchi, Hazan and Singer 2011. torch's, and so are its arguments."""
    # The fused kernel of torch 2.11 is one for the CPU alone.
    return _torchs(torch.optim.Adagrad, "foreach", named, config, args, eps=config.eps)


def adadelta(named: Named, config: OptimConfig, **args: Any) -> torch.optim.Optimizer:
    """Zeiler 2012, meant for lr 1. torch's, and so are its arguments, eps among them: it sets how the run begins."""
    return _torchs(torch.optim.Adadelta, "foreach", named, config, args)


def rmsprop(named: Named, config: OptimConfig, **args: Any) -> torch.optim.Optimizer:
    """Hinton 2012, with momentum. torch's, and so are its arguments."""
    return _torchs(torch.optim.RMSprop, "foreach", named, config, args, momentum=config.momentum, eps=config.eps)


def _torchs(
    kind: Any, form: str, named: Named, config: OptimConfig, args: dict[str, Any], **given: Any
) -> torch.optim.Optimizer:
    """`form`: which of its kernels, unless the arguments choose."""
    groups, name = parameter_groups(named, config), f"optimiser '{kind.__name__.lower()}'"
    if not args.keys() & {"fused", "foreach", "capturable", "differentiable"}:
        args = {form: True, **args}
    if "weight_decay" in args:
        raise UserError(f"{name} has its weight decay elsewhere", where="optim.args", fix="Set optim.weight_decay.")
    try:
        return registry.call_with_args(kind, args, name, params=groups, lr=config.lr, **given, where="optim.args")
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"{name}: {error}", where="optim.args") from error


def _begin_momentum(optimiser: torch.optim.Optimizer) -> None:
    """Zeros, from which the first step makes what torch starts with, unless it is dampened. The fused kernel can't do
    with some that are missing: those of weights that are first used later than others."""
    for group in optimiser.param_groups:
        for parameter in group["params"]:
            optimiser.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)


def lars(named: Named, config: OptimConfig, trust_coefficient: float = 0.001) -> torch.optim.Optimizer:
    """SGD with momentum and a rate for each layer, for large batches (You, Gitman and Ginsburg 2017)."""
    groups = parameter_groups(named, config)
    return Lars(groups, lr=config.lr, momentum=config.momentum, trust_coefficient=trust_coefficient)


def lamb(named: Named, config: OptimConfig) -> torch.optim.Optimizer:
    """Adam with a rate for each layer, for large batches (You et al. 2020)."""
    return Lamb(parameter_groups(named, config), lr=config.lr, betas=config.betas, eps=config.eps)


def muon(
    named: Named,
    config: OptimConfig,
    adamw: Sequence[str] | None = None,
    adamw_lr_scale: float = 1.0,
    nesterov: bool = True,
    ns_steps: int = 5,
    adjust_lr_fn: str = "match_rms_adamw",
) -> torch.optim.Optimizer:
    """Momentum made orthogonal for matrices inside the network, AdamW for the rest (Jordan et al. 2024).

    AdamW, at `adamw_lr_scale` times the rate, updates what fits the patterns `adamw`, by default the first and the last
    matrix: an embedding or what sees the input, and the head. A convolution is a matrix, a parameter of one row (a
    class token, a table of positions) is none.
    """
    matrices = [name for name, parameter in named if parameter.dim() > 1 and len(parameter) > 1]
    if adamw is None:
        adamw = [*matrices[:1], *matrices[-1:]]
    else:
        _check_patterns(adamw, named, "optim.args: adamw")
    hidden = {name for name in matrices if _first_fit(name, adamw) is None}
    if not hidden:
        raise UserError(
            "no matrix of this network is left for muon",
            where="optim.args: adamw",
            fix="By default the first and the last one go to AdamW; with adamw: [] all go to muon.",
        )
    inside = parameter_groups([each for each in named if each[0] in hidden], config)
    others = parameter_groups([each for each in named if each[0] not in hidden], config)
    for group in others:
        group |= {"orthogonal": False, "lr_scale": group["lr_scale"] * adamw_lr_scale}
    return Muon(
        inside + others,
        lr=config.lr,
        momentum=config.momentum,
        betas=config.betas,
        eps=config.eps,
        nesterov=nesterov,
        ns_steps=ns_steps,
        adjust_lr_fn=adjust_lr_fn,
    )


def build(config: OptimConfig, model: nn.Module) -> torch.optim.Optimizer:
    """One of the user's own is called with `params`, the groups, `lr` and its arguments.

    Raises UserError for an unknown optimiser or argument, and for a pattern of `optim.groups` without effect.
    """
    named = list(model.named_parameters())
    _check_patterns(list(config.groups), named, "optim.groups")
    function = registry.resolve(config.name, registry.OPTIMISERS, "optimiser")
    kind = f"optimiser '{config.name}'"
    if config.name in registry.OPTIMISERS:
        return registry.call_with_args(function, config.args, kind, named=named, config=config, where="optim.args")
    return registry.call_with_args(
        function, config.args, kind, params=parameter_groups(named, config), lr=config.lr, where="optim.args"
    )


# --- groups ---


def parameter_groups(named: Iterable[tuple[str, nn.Parameter]], config: OptimConfig) -> Groups:
    """Trainable parameters with decay, and those of one dimension or none (norms, biases) without it.

    Each pattern of `optim.groups` has two such groups of its own, of the parameters that it is the first to fit.
    """
    found: dict[tuple[str | None, bool], list[nn.Parameter]] = {}
    for name, parameter in named:
        if parameter.requires_grad:
            decays = parameter.dim() > 1 or config.decay_norm_and_bias
            found.setdefault((_first_fit(name, config.groups), decays), []).append(parameter)
    groups = []
    for pattern in (None, *config.groups):
        setting = GroupConfig() if pattern is None else config.groups[pattern]
        decay = config.weight_decay if setting.weight_decay is None else setting.weight_decay
        for decays, weight_decay in ((True, decay), (False, 0.0)):
            if params := found.get((pattern, decays)):
                keys = {"weight_decay": weight_decay, "lr_scale": setting.lr_scale, "decays": decays}
                groups.append({"params": params, **keys})
    return groups


def freeze(model: nn.Module, config: OptimConfig, patterns: Sequence[str] = ()) -> None:
    """Takes parameters out of training, before anything is built that asks what is trained: those with `lr_scale: 0`,
    and those that a pattern of model.freeze fits and none with a "!" before it.

    Raises UserError for a pattern of model.freeze that fits nothing.
    """
    named = list(model.named_parameters())
    for pattern in patterns:
        _check_patterns([pattern.removeprefix("!")], named, "model.freeze")
    for name, parameter in named:
        group = _first_fit(name, config.groups)
        is_kept = any(fnmatchcase(name, each[1:]) for each in patterns if each.startswith("!"))
        is_frozen = any(fnmatchcase(name, each) for each in patterns) and not is_kept
        if is_frozen or (group is not None and config.groups[group].lr_scale == 0):
            parameter.requires_grad_(False)


def _first_fit(name: str, patterns: Iterable[str]) -> str | None:
    return next((pattern for pattern in patterns if fnmatchcase(name, pattern)), None)


def _check_patterns(patterns: Sequence[str], named: Named, where: str) -> None:
    names = [name for name, _ in named]
    effective = {_first_fit(name, patterns) for name in names}
    for pattern in patterns:
        if pattern in effective:
            continue
        if any(fnmatchcase(name, pattern) for name in names):
            what, fix = "the patterns before it fit all that it fits", "The first one that fits counts: put it earlier."
        else:
            what = f"fits no parameter{did_you_mean(pattern.replace('*', ''), names)}"
            fix = f"Names begin with: {', '.join(dict.fromkeys(name.partition('.')[0] for name in names))}."
        raise UserError(f"'{pattern}': {what}", where=where, fix=fix)


# --- in each step ---


def peak_lr(config: OptimConfig, global_batch: int) -> float:
    """`optim.lr`, meant for a batch of `lr_base_batch`, for the batch that the run begins with.

    Linearly (Goyal et al. 2017, section 2.1) or by the square root (Krizhevsky 2014, section 5). A batch that grows
    during the run does so in place of a lower rate (Smith et al. 2018), and has no part in this.
    """
    exponent = {"none": 0.0, "linear": 1.0, "sqrt": 0.5}[config.lr_scaling]
    return config.lr * (global_batch / config.lr_base_batch) ** exponent


def set_lr(optimiser: torch.optim.Optimizer, lr: float) -> None:
    for group in optimiser.param_groups:
        group["lr"] = lr * group.get("lr_scale", 1.0)


@torch.no_grad()
def add_l1(optimiser: torch.optim.Optimizer, l1: float) -> None:
    """Adds the gradient of `l1` times the sum of absolute weights, over the weights that weight decay acts on."""
    if not l1:
        return
    for group in optimiser.param_groups:
        weights, gradients = weights_and_gradients(group)
        if weights and group.get("decays"):
            torch._foreach_add_(gradients, torch._foreach_sign(weights), alpha=l1)


# --- to and from a checkpoint ---


def state_by_name(
    optimiser: torch.optim.Optimizer, model: nn.Module
) -> tuple[dict[str, torch.Tensor], dict[str, dict[str, float]]]:
    """The optimiser's state as (tensors "name/key", scalars name -> key -> value), free of the parameters' order.

    A tensor of one number becomes a float, an int stays one: `load_state_by_name` tells them apart by that.
    """
    tensors: dict[str, torch.Tensor] = {}
    scalars: dict[str, dict[str, float]] = {}
    counts: dict[tuple[torch.device, torch.dtype], list[tuple[str, str, torch.Tensor]]] = {}
    for name, parameter in model.named_parameters():
        for key, value in optimiser.state.get(parameter, {}).items():
            if isinstance(value, torch.Tensor) and value.dim() > 0:
                tensors[f"{name}/{key}"] = value
            elif isinstance(value, torch.Tensor):
                counts.setdefault((value.device, value.dtype), []).append((name, key, value))
            elif value is not None:
                scalars.setdefault(name, {})[key] = value
    for there in counts.values():  # one wait for each device, not one for each parameter
        for (name, key, _), number in zip(there, torch.stack([value for _, _, value in there]).tolist()):
            scalars.setdefault(name, {})[key] = float(number)
    return tensors, scalars


def load_state_by_name(
    optimiser: torch.optim.Optimizer,
    model: nn.Module,
    tensors: dict[str, torch.Tensor],
    scalars: dict[str, dict[str, float]],
) -> None:
    """Puts back what `state_by_name` gave, in the memory format of each parameter."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    saved: dict[str, dict[str, torch.Tensor]] = {}
    for path, value in tensors.items():
        name, _, key = path.rpartition("/")
        saved.setdefault(name, {})[key] = value
    for group in optimiser.param_groups:
        # Where torch keeps step counts: beside the parameter if its kernels read them, otherwise where the host does.
        counts_on_device = group.get("fused") or group.get("capturable")
        for parameter in group["params"]:
            state: dict[str, Any] = {}
            for key, number in scalars.get(names[parameter], {}).items():
                if isinstance(number, int):
                    state[key] = number
                elif key == "step":
                    device = parameter.device if counts_on_device else None
                    state[key] = torch.tensor(number, dtype=torch.float32, device=device)
                else:
                    state[key] = torch.tensor(number, dtype=parameter.dtype, device=parameter.device)
            for key, value in saved.get(names[parameter], {}).items():
                if value.shape == parameter.shape:
                    state[key] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
                else:
                    state[key] = value.to(parameter.device, copy=True)
            if state:
                optimiser.state[parameter] = state
