"""Learning-rate schedules: pure functions of the step, so that nothing about them needs saving.

A schedule is called as `schedule(step, begin=, end=, steps_per_epoch=, **args)`; it starts at `begin`, the end of the
warm-up, and is over at `end`, the end of the run, both in steps. It returns a factor of the peak rate.
"""

import math
from collections.abc import Callable, Sequence

from distdl import registry
from distdl.config.schema import ScheduleConfig


def constant(step: int, begin: int, end: int, steps_per_epoch: float) -> float:
    return 1.0


def step(step: int, begin: int, end: int, steps_per_epoch: float, epochs: Sequence[float], gamma: float = 0.1) -> float:
    """Multiplied by `gamma` at each of `epochs`."""
    return gamma ** sum(step >= epoch * steps_per_epoch for epoch in epochs)


def cosine(step: int, begin: int, end: int, steps_per_epoch: float, final: float = 0.0) -> float:
    """Half a cosine from 1 to `final` (Loshchilov and Hutter 2016, equation 5, without restarts)."""
    return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * _done(step, begin, end)))


def linear(step: int, begin: int, end: int, steps_per_epoch: float, final: float = 0.0) -> float:
    return 1 - (1 - final) * _done(step, begin, end)


def build(config: ScheduleConfig, peak: float, steps_per_epoch: float) -> Callable[[int, int], float]:
    """`lr(step, total_steps)`: the rate of the update that follows `step` finished ones.

    Warm-up rises linearly and reaches the peak at its last step (Goyal et al. 2017, section 2.2). Raises UserError for
    arguments that the schedule does not take.
    """
    function = registry.resolve(config.name, registry.SCHEDULES, "schedule")
    warmup = config.warmup_steps
    given = {"begin": warmup, "steps_per_epoch": steps_per_epoch}
    registry.call_with_args(function, config.args, f"schedule '{config.name}'", step=warmup, end=warmup + 1, **given)

    def lr(step: int, total_steps: int) -> float:
        if step < warmup:
            return peak * (step + 1) / warmup
        return peak * function(step, end=total_steps, **given, **config.args)

    return lr


def _done(step: int, begin: int, end: int) -> float:
    """The finished share of the steps after the warm-up."""
    return min(1.0, (step - begin) / max(1, end - begin))
