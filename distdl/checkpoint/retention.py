"""Which checkpoints are kept: the newest, one of each period, the best. A function of what is on disk."""

import math
from collections.abc import Callable, Collection

from distdl.config.schema import KeepConfig
from distdl.config.values import parse_period


def kept(
    steps: Collection[int],
    position_of: Callable[[int], int | None],
    keep: KeepConfig,
    epoch_length: int,
    best_steps: Collection[int] = (),
) -> set[int]:
    """Those of `steps`, the committed checkpoints, that a rule keeps.

    Of each period of `keep.every` it is the first checkpoint at or after its beginning, counted from the start of the
    run: whatever settings and restarts came between, the same ones are found again. `position_of` a step: samples
    since the start, None where the checkpoint can't tell (it is kept); asked only when periods are epochs.
    """
    in_order = sorted(steps)
    found = {*in_order[-keep.last :], *best_steps} & set(steps)
    if keep.every is None:
        return found
    amount, unit = parse_period(keep.every)
    periods_seen = {0}  # what lies before the end of the first one belongs to none
    for step in in_order:
        position = position_of(step) if unit == "epochs" else step
        period = None
        if position is not None:
            length = amount * epoch_length if unit == "epochs" else amount
            period = math.floor(position / length + 1e-9)  # the rounding of trainer/due.py
        if period not in periods_seen:
            found.add(step)
        if period is not None:
            periods_seen.add(period)
    return found
