"""Where a step's time goes: forward, backward, exchange and update, on the clock of whatever computes.

`enter(name)` ends one phase and begins the next, `leave` ends the last. On a CPU that is the clock; on an accelerator
an event in its stream, which costs a microsecond and no wait, and is read when a line is logged.
"""

import itertools
import time
from typing import Protocol

import torch
from torch.profiler import record_function

from distdl.watch import pulse

NAMES = ("forward", "backward", "exchange", "update")

_MOST_EVENTS = 4096  # between two log lines; a longer time is known from its first steps


class Phases(Protocol):
    annotate: bool  # name the phases in a profile

    def enter(self, name: str) -> None: ...

    def leave(self) -> None:
        """Ends a step."""

    def take(self) -> dict[str, float]:
        """Seconds of each phase since the last call, a step's mean; {} without a step. Waits for the device."""


def build(device: torch.device) -> Phases:
    return HostPhases() if device.type == "cpu" else DevicePhases()


class HostPhases:
    def __init__(self) -> None:
        self.annotate = False
        self._marks = _Annotations()
        self._seconds = dict.fromkeys(NAMES, 0.0)
        self._n_steps = 0
        self._name: str | None = None
        self._since = 0.0

    def enter(self, name: str) -> None:
        pulse.mine.enter(name)
        now = time.perf_counter()
        if self._name is not None:
            self._seconds[self._name] += now - self._since
        self._name, self._since = name, now
        if self.annotate:
            self._marks.next(name)

    def leave(self) -> None:
        pulse.mine.enter("log")
        if self._name is not None:
            self._seconds[self._name] += time.perf_counter() - self._since
        self._name = None
        self._n_steps += 1
        self._marks.end()

    def take(self) -> dict[str, float]:
        n_steps, seconds = self._n_steps, self._seconds
        self._n_steps, self._seconds = 0, dict.fromkeys(NAMES, 0.0)
        return {name: total / n_steps for name, total in seconds.items()} if n_steps else {}


class DevicePhases:
    def __init__(self) -> None:
        self.annotate = False
        self._marks = _Annotations()
        self._events: list[tuple[str | None, torch.Event]] = []  # None: the end of a step
        self._is_full = False

    def enter(self, name: str) -> None:
        pulse.mine.enter(name)
        self._record(name)
        if self.annotate:
            self._marks.next(name)

    def leave(self) -> None:
        pulse.mine.enter("log")
        self._record(None)
        self._is_full = len(self._events) >= _MOST_EVENTS  # looked at between steps: none is timed in part
        self._marks.end()

    def _record(self, name: str | None) -> None:
        if not self._is_full:
            event = torch.Event(torch.accelerator.current_accelerator(), enable_timing=True)
            event.record()
            self._events.append((name, event))

    def take(self) -> dict[str, float]:
        events, self._events, self._is_full = self._events, [], False
        if not events:
            return {}
        pulse.mine.wait()
        events[-1][1].synchronize()
        pulse.mine.go_on()
        seconds = dict.fromkeys(NAMES, 0.0)
        for (name, event), (_, following) in itertools.pairwise(events):
            if name is not None:
                seconds[name] += event.elapsed_time(following) / 1000
        n_steps = sum(name is None for name, _ in events)
        return {name: total / max(1, n_steps) for name, total in seconds.items()}


class _Annotations:
    """The phases as ranges of torch's profiler."""

    def __init__(self) -> None:
        self._open: record_function | None = None

    def next(self, name: str) -> None:
        self.end()
        self._open = record_function(name)
        self._open.__enter__()

    def end(self) -> None:
        if self._open is not None:
            self._open.__exit__(None, None, None)
            self._open = None
