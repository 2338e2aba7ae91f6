"""Feeds a tracker that may be slow, hang or fail, from a thread of its own, so that training never notices.

The training loop only puts rows into a bounded queue. Whatever goes wrong behind it (the package is missing, the
server does not answer, a call never returns) is kept as one sentence in `fault`, and the tracker is off from then on.
"""

import queue
import threading
import time
from collections.abc import Callable
from typing import Protocol

from distdl.track.jsonl import Row

Say = Callable[[str], None]


class Sink(Protocol):
    """A tracker behind the queue. Its methods run in the background thread; any exception switches it off."""

    def log(self, rows: list[Row]) -> None: ...

    def close(self, outcome: str) -> None: ...


def _nothing() -> None: ...


class Background:
    """Opens a sink and feeds it, all in a daemon thread.

    `open_sink(say)` makes the sink; what it passes to `say` is collected in `news`. `abandon()` is called once, from
    whichever thread finds the fault, to end what the sink may have left running. A call that takes longer than
    `stall_s` seconds, or more than `capacity` rows waiting for it, counts as a hang.
    """

    def __init__(
        self,
        name: str,
        open_sink: Callable[[Say], Sink],
        *,
        abandon: Callable[[], None] = _nothing,
        capacity: int = 1000,
        stall_s: float = 120.0,
    ) -> None:
        self.name = name
        self.fault: str | None = None
        self.news: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._open_sink, self._abandon, self._stall_s = open_sink, abandon, stall_s
        self._queue: queue.Queue[Row | str] = queue.Queue(capacity)  # rows, and at the end the outcome
        self._failing = threading.Lock()
        self._busy_since: float | None = time.monotonic()
        self._thread = threading.Thread(target=self._run, name=f"track-{name}", daemon=True)
        self._thread.start()

    def put(self, row: Row) -> None:
        """Hands a row over; never waits, never raises."""
        if self.fault is not None:
            return
        busy_since = self._busy_since
        if busy_since is not None and time.monotonic() - busy_since > self._stall_s:
            self._fail(f"has not answered for {self._stall_s:.0f} s")
            return
        try:
            self._queue.put_nowait(row)
        except queue.Full:
            self._fail(f"does not keep up ({self._queue.maxsize} rows are waiting for it)")

    def close(self, outcome: str, timeout_s: float) -> None:
        """Lets the sink finish, for at most `timeout_s` seconds; after that it is abandoned."""
        if self.fault is not None:
            return
        try:
            self._queue.put_nowait(outcome)
        except queue.Full:
            self._fail("does not keep up, its last rows are missing")
            return
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            self._fail(f"did not finish within {timeout_s:g} s, its last rows may be missing")

    def _run(self) -> None:
        try:
            sink = self._open_sink(self.news.put)
            outcome = None
            while outcome is None and self.fault is None:
                self._busy_since = None
                items = self._take()
                self._busy_since = time.monotonic()
                if rows := [item for item in items if not isinstance(item, str)]:
                    sink.log(rows)
                outcome = next((item for item in items if isinstance(item, str)), None)
            if outcome is not None:
                sink.close(outcome)
        except BaseException as error:  # trackers also raise SystemExit: nothing may end this thread unseen
            message = " ".join(str(error).split())
            self._fail(f"{type(error).__name__}: {message}" if message else type(error).__name__)
        finally:
            self._busy_since = None

    def _take(self) -> list[Row | str]:
        """Everything that waits, at least one item."""
        items = [self._queue.get()]
        while True:
            try:
                items.append(self._queue.get_nowait())
            except queue.Empty:
                return items

    def _fail(self, why: str) -> None:
        with self._failing:
            if self.fault is not None:
                return
            self.fault = f"{self.name} is off for the rest of this run, which goes on without it: {why}"
        self._abandon()
