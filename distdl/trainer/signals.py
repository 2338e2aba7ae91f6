"""Signals that ask for a stop: the handler only sets a flag; the loop votes on it and stops at an agreed step."""

import math
import os
import signal
import time
from collections.abc import Mapping, Sequence
from types import FrameType
from typing import Literal

from distdl.errors import EXIT_INTERRUPTED

Stop = Literal["preempted", "interrupted"]


class StopRequests:
    """Handlers on the main thread: "preempted" after one of `names`, "interrupted" after Ctrl-C.

    A second Ctrl-C ends the process at once. `announce`: tell the user, where no supervisor has done so. After
    `after_s` seconds it is as if a signal had come: before a job's time limit does it the hard way.
    """

    def __init__(self, names: Sequence[str] = (), *, announce: bool = True, after_s: float = math.inf) -> None:
        self._preempted = False
        self._time_is_up = time.monotonic() + after_s
        self._interrupted = False
        self._announce = announce
        for name in names:
            signal.signal(getattr(signal, name), self._on_preempt)
        if names:
            signal.signal(signal.SIGINT, self._on_interrupt)

    def votes(self) -> dict[str, int]:
        is_time = self._preempted or time.monotonic() >= self._time_is_up
        return {"preempted": int(is_time), "interrupted": int(self._interrupted)}

    def _on_preempt(self, number: int, frame: FrameType | None) -> None:
        self._preempted = True

    def _on_interrupt(self, number: int, frame: FrameType | None) -> None:
        if self._interrupted:
            os._exit(EXIT_INTERRUPTED)
        self._interrupted = True
        if self._announce:
            os.write(2, b"\nstopping after this step and saving; press Ctrl-C again to stop at once\n")


def agreed_stop(votes: Mapping[str, int]) -> Stop | None:
    """What the summed votes of all workers come to."""
    if votes["interrupted"]:
        return "interrupted"
    return "preempted" if votes["preempted"] else None
