"""When something is due: every n steps, epochs or seconds. All workers find the same answer at the same step."""

import math
import time
from collections.abc import Mapping

from distdl.config.values import parse_period


class Due:
    """One recurring event. Steps and epochs are functions of the state; seconds are rank 0's clock, told by a vote."""

    def __init__(self, period: int | str | None, epoch_length: int) -> None:
        self._amount, self._unit = parse_period(period) if period is not None else (0.0, "never")
        self._epoch_length = epoch_length
        self._since = time.monotonic()
        self._last_step = -1

    @property
    def is_by_clock(self) -> bool:
        return self._unit == "seconds"

    def clock_says_so(self) -> bool:
        """Whether a period of seconds has passed on this process's clock: what rank 0 votes."""
        return self._unit == "seconds" and time.monotonic() - self._since >= self._amount

    def now(self, step: int, position: int, n_samples: int, votes: int) -> bool:
        """Asked after `step` updates, the last of `n_samples`, at `position`; `votes`: the sum for this event."""
        if self._unit == "steps":
            return step % int(self._amount) == 0
        if self._unit == "epochs":
            return self._periods(position) > self._periods(position - n_samples)
        # On a device a vote is read a step after it was cast: the next one may still mean the time before.
        if self._unit == "seconds" and votes and step > self._last_step + 1:
            self._since, self._last_step = time.monotonic(), step
            return True
        return False

    def _periods(self, position: int) -> int:
        """Whole periods before `position`, also where a part of an epoch (0.07 of 100) is rounded up."""
        return math.floor(position / (self._amount * self._epoch_length) + 1e-9)


class Schedule:
    """The recurring events of a run by name: which are due now."""

    def __init__(self, periods: Mapping[str, int | str | None], epoch_length: int, end: int) -> None:
        self._end = end
        self._events = {name: Due(period, epoch_length) for name, period in periods.items()}
        self._by_clock = {name: event for name, event in self._events.items() if event.is_by_clock}

    def votes(self, is_rank0: bool) -> dict[str, int]:
        """Of the events that go by the clock; the others need none."""
        return {name: int(is_rank0 and event.clock_says_so()) for name, event in self._by_clock.items()}

    def now(self, step: int, position: int, n_samples: int, votes: Mapping[str, int]) -> set[str]:
        """Names of the events that are due; all of them at the end of the run. `votes`: of those by the clock."""
        due = {name for name, each in self._events.items() if each.now(step, position, n_samples, votes.get(name, 0))}
        return set(self._events) if position >= self._end else due
