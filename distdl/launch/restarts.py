"""Whether workers that have failed are started again, and how many of them.

Restarts    ends when as many in a row as allowed have made no checkpoint: what fails alike again would go on so
Places      where workers are started; one whose worker was lost rests for a while, longer each time
"""

import time

from distdl.run import failures
from distdl.run.failures import FailureRecord

_LONGEST_REST = 16  # times the first one
_LOST = ("signal", "hang", "process_lost")  # kinds of failure that may be the place's


class Restarts:
    def __init__(self, most: int) -> None:
        """`most`: in a row that make no progress."""
        self.most = most
        self.without_progress = 0
        self._first: FailureRecord | None = None  # of the failures since the last progress

    def note(self, cause: FailureRecord, *, is_restart: bool, made_progress: bool) -> None:
        """Of an attempt that has failed."""
        if made_progress:
            self.without_progress, self._first = 0, None
        elif is_restart:
            self.without_progress += 1
        self._first = self._first or cause

    def why_not(self, checkpoint: int | None) -> str | None:
        """Why there is no other; None if there may be one, an empty text if nobody expects one."""
        if self.most == 0:
            return ""
        if self.without_progress < self.most:
            return None
        made = "no checkpoint" if checkpoint is None else f"no checkpoint newer than step {checkpoint}"
        n = self.without_progress
        return f"{n} restart{'s' * (n > 1)} in a row made {made}"

    def first_words(self, cause: FailureRecord) -> str:
        """How the failures in a row began, where that was not as the last one; else ""."""
        first = self._first
        if first is None or first is cause or first.message == cause.message:
            return ""
        return f"it began with: {failures.headline(first)}: {first.message.strip().partition(chr(10))[0]}"

    def line(self, cause: FailureRecord, checkpoint: int | None, n_workers: int, before: int) -> str:
        """What is said of the next one."""
        message = cause.message.strip()
        if cause.kind not in ("hang", "link", "mismatched"):  # which are told whole, as nowhere else
            message = message.partition("\n")[0]
        source = "the beginning" if checkpoint is None else f"the checkpoint of step {checkpoint}"
        workers = "" if n_workers == before else f" with {n_workers} worker{'s' * (n_workers > 1)}"
        count = f" (restart {self.without_progress + 1} of {self.most} without progress)"
        counted = count if self.without_progress else ""
        return f"{failures.headline(cause)}: {message}\nstarting again from {source}{workers}{counted}"


class Places:
    """`n` of them, numbered like a machine's devices. `least`: workers that are started whatever rests; None: all."""

    def __init__(self, n: int, least: int | None, rest_s: float) -> None:
        self._n, self._least = n, n if least is None else least
        self._rest_s = rest_s
        self._n_lost = [0] * n
        self._free_at = [0.0] * n

    def lose(self, lost: list[int]) -> None:
        now = time.monotonic()
        for place in lost:
            self._free_at[place] = now + self._rest_s * min(2 ** self._n_lost[place], _LONGEST_REST)
            self._n_lost[place] += 1

    def now(self) -> list[int]:
        """Those to start workers at: at least so many as are needed, if need be before their rest is over."""
        now = time.monotonic()
        n_free = sum(free_at <= now for free_at in self._free_at)
        soonest_first = sorted(range(self._n), key=lambda place: (self._free_at[place], place))
        return sorted(soonest_first[: max(self._least, n_free)])

    def grows_at(self, places: list[int]) -> float | None:
        """When another one is free, by time.monotonic(); None if all are in use."""
        return min((self._free_at[place] for place in range(self._n) if place not in places), default=None)


def lost_ranks(records: list[FailureRecord]) -> list[int]:
    """None if it is all of them: then it is nothing of a place's."""
    found = [record.rank for record in records if record.kind in _LOST]
    return found if len(found) < len(records) else []
