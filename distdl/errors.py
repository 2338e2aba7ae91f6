"""What a user can get wrong, and the exit codes that every way of starting shares.

A user's mistake raises UserError: what is wrong, where, and how to fix it. It is printed without a traceback and ends
the process with exit code 2. ProcessLost is nobody's mistake, and is told alike, with exit code 1. Any other exception
is a bug (exit code 1) and keeps its traceback.
"""

import difflib
from collections.abc import Iterable
from functools import partial
from typing import Any

EXIT_DONE = 0
EXIT_BUG = 1
EXIT_USER_ERROR = 2
EXIT_PREEMPTED = 75  # stopped by a signal and saved: "requeue me" (EX_TEMPFAIL of sysexits.h)
EXIT_INTERRUPTED = 130  # Ctrl-C, after saving


class UserError(Exception):
    """A mistake in the input. Its text is what the user reads: `where: what`, then the fix on a line of its own."""

    def __init__(self, what: str, *, where: str = "", fix: str = "") -> None:
        super().__init__(what, where, fix)
        self.what, self.where, self.fix = what, where, fix

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(type(self), where=self.where, fix=self.fix), (self.what,)

    def __str__(self) -> str:
        first = f"{self.where}: {self.what}" if self.where else self.what
        return f"{first}\n  {self.fix}" if self.fix else first


class ProcessLost(RuntimeError):
    """A process that a worker had started is gone: no mistake in the config, so that another start may go better.

    Its text is what the user reads, as a UserError's.
    """


class PeerLost(RuntimeError):
    """A collective failed because another worker is gone: the echo of a failure elsewhere, never its first cause."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`' - did you mean x?'` for the nearest known words, or an empty string when none is near."""
    near = nearest(word, known)
    return f" - did you mean {' or '.join(near)}?" if near else ""


def nearest(word: str, known: Iterable[str], likeness: float = 0.6) -> list[str]:
    """The one known word that is clearly nearest, or two that are near alike, or none of at least that likeness."""
    near = difflib.get_close_matches(word, list(known), n=2, cutoff=likeness)
    if len(near) == 2 and _likeness(word, near[0]) - _likeness(word, near[1]) > 0.1:
        return near[:1]
    return near


def _likeness(one: str, other: str) -> float:
    return difflib.SequenceMatcher(None, one, other).ratio()
