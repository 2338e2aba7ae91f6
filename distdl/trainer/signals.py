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

_FIRST_GUESS_S = 60.0  # before the end of a job, while no save has been seen
_ENDING_S = 20.0  # of the processes, after the last save


class StopRequests:
    """Handlers on the main thread: "preempted" after one of `names`, "interrupted" after Ctrl-C.

    A second Ctrl-C ends the process at once. `announce`: tell the user, where no supervisor has done so. After
    `after_s` seconds it is as if a signal had come, and before `end_s` seconds are over: then it is ended the hard way.
    """

    def __init__(
        self,
        names: Sequence[str] = (),
        *,
        announce: bool = True,
        after_s: float = math.inf,
        end_s: float = math.inf,
    ) -> None:
        self._preempted = False
        self._time_is_up, self._end = time.monotonic() + after_s, time.monotonic() + end_s
        self._stopping_s = min(_FIRST_GUESS_S, 0.2 * end_s)
        self._save_s = 0.0
        self._interrupted = False
        self._announce = announce
        for name in names:
            signal.signal(getattr(signal, name), self._on_preempt)
        if names:
            signal.signal(signal.SIGINT, self._on_interrupt)

    def votes(self) -> dict[str, int]:
        until = min(self._time_is_up, self._end - self._stopping_s)
        is_time = self._preempted or time.monotonic() >= until
        return {"preempted": int(is_time), "interrupted": int(self._interrupted)}

    def saved_in(self, seconds: float) -> None:
        """Tells how long a save takes, which a stop has to wait for, and one that is under way before it."""
        self._save_s = max(self._save_s, seconds)
        self._stopping_s = min(_ENDING_S + 3 * self._save_s, max(self._stopping_s, 3 * self._save_s))

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
