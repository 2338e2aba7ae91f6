"""Which worker makes the others wait, with what, and what that costs: from the times that all spend in their phases.

Data-parallel workers take their steps together, so their pace is the slowest one's. A worker's own time of a step is
what it does not spend waiting in a collective: computing, or waiting for its input. One whose own time is clearly above
the others' is the straggler; what it costs is the part of the step that the others would not need. Where all wait in
the exchange alike, and one worker's sockets hold what they can't get rid of, it is that worker's link.
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from distdl.watch.pulse import State

INTERVAL_S = 1.0  # between two searches
LEAST_STEPS = 5  # that are looked back on
LEAST_S = 4.0
LONGEST_S = 120.0
PATIENCE_S = 1.0  # one that stands out for less is not told of
RELIEF_S = 10.0  # and it has caught up only when it has not stood out for so long

_LEAST_COST = 0.15  # of a step
_LEAST_RATIO = 1.3  # to the others' own time
_FULL = 0.5  # of the looks, in which a socket held something
_COMPUTE = ("forward", "backward", "update")

Cause = Literal["compute", "input", "send", "receive"]


@dataclass(frozen=True, slots=True)
class Spent:
    """What a worker has told at one time."""

    time: float
    step: int
    compute_s: float
    input_s: float
    exchange_s: float
    unsent: bool  # its sockets held bytes that the other side did not take
    unread: bool  # they held bytes that it did not take itself

    @classmethod
    def of(cls, state: State, time: float, unsent: bool = False, unread: bool = False) -> "Spent":
        spent_s = state.spent_s
        compute_s = sum(spent_s[name] for name in _COMPUTE)
        return cls(time, state.step or 0, compute_s, spent_s["input"], spent_s["exchange"], unsent, unread)


@dataclass(frozen=True, slots=True)
class Straggler:
    rank: int
    host: str
    cause: Cause
    cost: float  # of the step's time
    own_s: float  # a step, in what it is slow
    others_s: float
    step_s: float

    def __str__(self) -> str:
        if self.cause in ("send", "receive"):
            does = "sends" if self.cause == "send" else "takes in"
            what = f"{does} slowly: {100 * self.cost:.0f} % of a step of {self.step_s:.3g} s go to the exchange"
        else:
            name = "computes" if self.cause == "compute" else "waits for input"
            what = f"{name} for {self.own_s:.3g} s a step, the others for {self.others_s:.3g} s"
            what += f": {100 * self.cost:.0f} % of the time of all is lost to it"
        return f"rank {self.rank} on {self.host} {what}"


class Teller:
    """What is worth telling of what is found, look by look: no more than lasts, and nothing twice."""

    def __init__(self) -> None:
        self._told: Straggler | None = None
        self._last_seen = 0.0
        self._candidate: Straggler | None = None
        self._since = 0.0

    def news(self, found: Straggler | None, now: float) -> Straggler | Literal["over"] | None:
        """A straggler that is new, or whose cost is another one by now; "over" once it is none any more."""
        if found is None or self._candidate is None or not _are_one(found, self._candidate):
            self._since = now
        self._candidate = found
        if found and self._told and _are_one(found, self._told):
            self._last_seen = now
            if abs(found.cost - self._told.cost) < 0.05:
                return None
        elif found is None or now - self._since < PATIENCE_S:
            if self._told is None or now - self._last_seen < RELIEF_S:
                return None
            self._told = None
            return "over"
        self._told, self._last_seen = found, now
        return found


def _are_one(one: Straggler, other: Straggler) -> bool:
    return (one.rank, one.cause) == (other.rank, other.cause)


def find(histories: Sequence[tuple[int, str, Sequence[Spent]]]) -> Straggler | None:
    """`histories`: rank, host and what was told over a while, of each worker; None where nobody stands out."""
    means = [(rank, host, mean) for rank, host, history in histories if (mean := _mean(history))]
    if len(means) < max(2, len(histories)):
        return None
    step_s = statistics.median(mean.step_s for _, _, mean in means)
    rank, host, slow = max(means, key=lambda each: each[2].own_s)
    others = [mean for other, _, mean in means if other != rank]
    others_s = statistics.median(mean.own_s for mean in others)
    if slow.own_s > _LEAST_RATIO * others_s and slow.own_s - others_s > _LEAST_COST * step_s:
        by_cause: dict[Cause, tuple[float, float]] = {
            "compute": (slow.compute_s, statistics.median(mean.compute_s for mean in others)),
            "input": (slow.input_s, statistics.median(mean.input_s for mean in others)),
        }
        cause = max(by_cause, key=lambda name: by_cause[name][0] - by_cause[name][1])
        cost = min(1.0, (slow.own_s - others_s) / step_s)
        return Straggler(rank, host, cause, cost, *by_cause[cause], step_s)
    return _slow_link(means, step_s)


@dataclass(frozen=True, slots=True)
class _Mean:
    """Of a step."""

    step_s: float
    compute_s: float
    input_s: float
    exchange_s: float
    unsent: float  # the part of the looks in which it was
    unread: float

    @property
    def own_s(self) -> float:
        return self.compute_s + self.input_s


def _mean(history: Sequence[Spent]) -> _Mean | None:
    """None where too little was seen."""
    if len(history) < 2:
        return None
    last = history[-1]
    of_late = []
    for each in reversed(history):
        of_late.append(each)
        if _is_long_ago(each, last):
            break
    else:
        return None
    history, first = of_late, of_late[-1]
    n_steps, seconds = last.step - first.step, last.time - first.time
    return _Mean(
        seconds / n_steps,
        (last.compute_s - first.compute_s) / n_steps,
        (last.input_s - first.input_s) / n_steps,
        (last.exchange_s - first.exchange_s) / n_steps,
        statistics.fmean(each.unsent for each in history),
        statistics.fmean(each.unread for each in history),
    )


def _is_long_ago(each: Spent, last: Spent) -> bool:
    return last.step - each.step >= LEAST_STEPS and last.time - each.time >= LEAST_S


def _slow_link(means: Sequence[tuple[int, str, _Mean]], step_s: float) -> Straggler | None:
    exchange_s = statistics.median(mean.exchange_s for _, _, mean in means)
    if exchange_s < 0.5 * step_s:
        return None
    causes: tuple[Cause, Cause] = ("receive", "send")
    for cause in causes:
        full = [mean.unread if cause == "receive" else mean.unsent for _, _, mean in means]
        most = max(full)
        slow = [each for each, part in zip(means, full) if part > 0.6 * most]
        is_one = len(slow) == 1 or {host for _, host, _ in slow} < {host for _, host, _ in means}
        if most > _FULL and is_one and len({host for _, host, _ in slow}) == 1:
            rank, host, mean = slow[0]
            cost = min(1.0, exchange_s / step_s)
            return Straggler(rank, host, cause, cost, mean.exchange_s, exchange_s, step_s)
    return None
