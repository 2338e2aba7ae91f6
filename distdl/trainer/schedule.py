"""Learning-rate schedules: pure functions of the step and the epoch, so that nothing about them needs saving.

A schedule is called as `schedule(step, begin=, end=, epoch=, **args)` and returns a factor of the peak rate. `step`
counts the updates done, `begin` those of the warm-up, `end` those of the whole run; `epoch` is how often the data was
passed over so far, a float. The types of `args` say what is allowed. One schedule, plateau, follows the evaluations:
the run keeps its state, a `Plateau`, which `observe` moves.
"""

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal, Protocol

from pydantic import AfterValidator, Field, TypeAdapter, ValidationError

from distdl import registry
from distdl.config.schema import ScheduleConfig
from distdl.errors import UserError


def _rising(epochs: list[float]) -> list[float]:
    if epochs != sorted(set(epochs)):
        raise ValueError("should rise")
    return epochs


Positive = Annotated[float, Field(gt=0)]
AtLeastOne = Annotated[float, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]
Between0And1 = Annotated[float, Field(gt=0, lt=1)]
Count = Annotated[int, Field(ge=0)]
Rising = Annotated[list[Positive], Field(min_length=1), AfterValidator(_rising)]


class Rate(Protocol):
    def __call__(self, step: int, total_steps: int, epoch: float, plateau_factor: float = 1.0) -> float:
        """The learning rate of the update that follows `step` finished ones, at `epoch`."""


# --- the schedules by name ---


def constant(step: int, begin: int, end: int, epoch: float) -> float:
    return 1.0


def step(step: int, begin: int, end: int, epoch: float, epochs: Positive, gamma: Positive = 0.1) -> float:
    """Multiplied by `gamma` every so many `epochs`. At a list of epochs: multistep."""
    return gamma ** math.floor(epoch / epochs + 1e-9)  # 0.3 / 0.1 is 2.999...


def multistep(step: int, begin: int, end: int, epoch: float, epochs: Rising, gamma: Positive = 0.1) -> float:
    """Multiplied by `gamma` at each of `epochs`."""
    return gamma ** sum(epoch >= fall for fall in epochs)


def cosine(step: int, begin: int, end: int, epoch: float, final: Share = 0.0) -> float:
    """Half a cosine from 1 to `final` (Loshchilov and Hutter 2017, equation 5, without restarts)."""
    return _cosine(1.0, final, _done(step, begin, end))


def linear(step: int, begin: int, end: int, epoch: float, final: Share = 0.0) -> float:
    """A line from 1 to `final`."""
    return _line(1.0, final, _done(step, begin, end))


def polynomial(step: int, begin: int, end: int, epoch: float, power: Positive = 2.0, final: Share = 0.0) -> float:
    """From 1 to `final` as (1 - the share done) to the `power`; the default is that of LARS (You et al. 2017)."""
    return final + (1 - final) * (1 - _done(step, begin, end)) ** power


def one_cycle(
    step: int,
    begin: int,
    end: int,
    epoch: float,
    pct_start: Between0And1 = 0.3,
    div_factor: AtLeastOne = 25.0,
    final_div_factor: AtLeastOne = 1e4,
    anneal: Literal["cos", "linear"] = "cos",
) -> float:
    """Up to the peak over `pct_start` of the run, then down, as torch's OneCycleLR does (Smith 2018).

    It begins at 1 / `div_factor` and ends at that over `final_div_factor`. The momentum does not cycle.
    """
    curve = {"cos": _cosine, "linear": _line}[anneal]
    first, peak = 1 / div_factor, pct_start * end - 1
    if step < peak:
        return curve(first, 1.0, step / peak)
    return curve(1.0, first / final_div_factor, min(1.0, (step - peak) / (end - 1 - peak)))


def cosine_restarts(
    step: int, begin: int, end: int, epoch: float, first: Positive, mult: AtLeastOne = 1.0, final: Share = 0.0
) -> float:
    """Cosines from 1 to `final` over `first` epochs, then `mult` times as many, ... (SGDR, equation 5).

    Loshchilov and Hutter 2017. The epochs of a warm-up belong to the first of them.
    """
    begun, period = 0.0, first
    while epoch >= begun + period - 1e-9:  # sums of fractions are not exact
        begun, period = begun + period, period * mult
    return _cosine(1.0, final, max(0.0, epoch - begun) / period)


def plateau(
    step: int,
    begin: int,
    end: int,
    epoch: float,
    metric: str = "loss",
    factor: Between0And1 = 0.1,
    patience: Count = 2,
    threshold: Share = 1e-4,
    cooldown: Count = 0,
    min_factor: Share = 0.0,
) -> float:
    """Multiplied by `factor`, down to `min_factor`, after more than `patience` evaluations without improvement.

    An improvement of `metric` is one by more than its `threshold` part. For `cooldown` evaluations after a fall none
    counts. As torch's ReduceLROnPlateau; `observe` is where the rate falls.
    """
    return 1.0


def _cosine(first: float, last: float, share: float) -> float:
    return last + (first - last) * 0.5 * (1 + math.cos(math.pi * share))


def _line(first: float, last: float, share: float) -> float:
    return first - (first - last) * share


def _done(step: int, begin: int, end: int) -> float:
    """The finished share of the steps after the warm-up."""
    return min(1.0, (step - begin) / max(1, end - begin))


# --- from a config ---


def build(config: ScheduleConfig, peak: float) -> Rate:
    """Warm-up rises linearly and reaches the peak at its last step (Goyal et al. 2017, section 2.2).

    Raises UserError for arguments that the schedule does not take.
    """
    function = registry.resolve(config.name, registry.SCHEDULES, "schedule")
    warmup = config.warmup_steps
    if config.name == "one_cycle" and warmup:
        raise UserError(
            "one_cycle brings its own warm-up",
            where="schedule.warmup_steps",
            fix="Leave it out; args.pct_start is the share of the run in which the rate rises.",
        )
    args = _arguments(function, config) if config.name in registry.SCHEDULES else config.args
    kind = f"schedule '{config.name}'"
    trial = {"step": warmup, "begin": warmup, "end": warmup + 1, "epoch": 0.0}
    registry.call_with_args(function, args, kind, where="schedule.args", **trial)

    def lr(step: int, total_steps: int, epoch: float, plateau_factor: float = 1.0) -> float:
        if step < warmup:
            return plateau_factor * (peak * (step + 1) / warmup)
        return plateau_factor * (peak * function(step, begin=warmup, end=total_steps, epoch=epoch, **args))

    return lr


def _arguments(function: Callable[..., float], config: ScheduleConfig) -> dict[str, Any]:
    """Those of the config and the defaults of the others. Raises UserError for one of a wrong type or size."""
    found = dict(config.args)
    for name, parameter in inspect.signature(function).parameters.items():
        if name in config.args:
            try:
                found[name] = TypeAdapter(parameter.annotation).validate_python(config.args[name])
            except ValidationError as error:
                wanted = error.errors()[0]["msg"].partition("should ")[2]
                raise UserError(
                    f"schedule '{config.name}': {name} should {wanted} (got {config.args[name]!r})",
                    where="schedule.args",
                    fix=(inspect.getdoc(function) or "").partition("\n")[0],
                ) from None
        elif parameter.default is not parameter.empty:
            found[name] = parameter.default
    return found


# --- plateau ---


@dataclass(frozen=True, slots=True)
class Plateau:
    """What the plateau schedule remembers; its `asdict` is plain JSON."""

    factor: float = 1.0  # of the rate
    best: float | None = None  # value of the metric
    n_bad: int = 0  # evaluations in a row without improvement
    cooldown_left: int = 0  # evaluations for which none counts


def plateau_metric(config: ScheduleConfig) -> str | None:
    """The metric of the evaluation that the schedule follows, None if it follows none."""
    return _arguments(plateau, config)["metric"] if config.name == "plateau" else None


def observe(
    config: ScheduleConfig,
    state: Mapping[str, Any] | None,
    metrics: Mapping[str, float],
    lower_is_better: frozenset[str],
) -> dict[str, Any]:
    """The state of the plateau schedule, a `Plateau` as a dict, after an evaluation with these `metrics`."""
    args = _arguments(plateau, config)
    seen = Plateau(**(state or {}))
    value, best, threshold = metrics[args["metric"]], seen.best, args["threshold"]
    if not math.isfinite(value):
        is_better = False
    elif best is None:
        is_better = True
    elif args["metric"] in lower_is_better:
        is_better = value < best * (1 - threshold)
    else:
        is_better = value > best * (1 + threshold)
    n_bad = 0 if is_better or seen.cooldown_left else seen.n_bad + 1
    factor, cooldown_left = seen.factor, max(0, seen.cooldown_left - 1)
    if n_bad > args["patience"]:
        factor, n_bad, cooldown_left = max(factor * args["factor"], args["min_factor"]), 0, args["cooldown"]
    return asdict(Plateau(factor, value if is_better else best, n_bad, cooldown_left))
