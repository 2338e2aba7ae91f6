"""What the supervisor is told by signals: save and stop, stop at once, or just "a worker has ended"."""

import os
import signal
from collections.abc import Sequence
from types import TracebackType
from typing import Any

from distdl.errors import EXIT_INTERRUPTED, EXIT_PREEMPTED


class Signals:
    """Signals as bytes in a pipe: the loop waits for them as for output, and none interrupts it halfway."""

    def __init__(self, stop_signals: Sequence[str]) -> None:
        """Without `stop_signals` the workers have nothing to save, and the first Ctrl-C stops them at once."""
        self.stop_code: int | None = None  # the exit code that a stop asks for, once one was asked for
        self.kill_code: int | None = None  # the same for an end without saving
        self._stop_signals = {signal.Signals[name] for name in stop_signals}
        self._previous: dict[signal.Signals, Any] = {}

    @property
    def first_stop_signal(self) -> int:
        return next(iter(self._stop_signals))

    def __enter__(self) -> "Signals":
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._reader, False)
        os.set_blocking(self._writer, False)
        self._previous_wakeup = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        handled = {signal.SIGINT, signal.SIGTERM, signal.SIGCHLD, *self._stop_signals}
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as nohup sets it
            handled.add(signal.SIGHUP)
        for number in handled:
            self._previous[number] = signal.signal(number, lambda number, frame: None)
        return self

    def fileno(self) -> int:
        return self._reader

    def arrived(self) -> list[signal.Signals]:
        """Those since the last call that the workers are to get as well. What they ask for is noted here."""
        forward: list[signal.Signals] = []
        for number in self._read():
            if number == signal.SIGCHLD:
                continue  # it only wakes the loop
            if number in self._stop_signals:
                self.stop_code = self.stop_code or EXIT_PREEMPTED
                forward.append(number)
            elif self._stop_signals and number in (signal.SIGINT, signal.SIGHUP) and self.stop_code != EXIT_INTERRUPTED:
                self.stop_code = EXIT_INTERRUPTED
                forward.append(signal.SIGINT)  # a closed terminal means what a Ctrl-C in it would have meant
            elif number != signal.SIGHUP or not self._stop_signals:
                self.kill_code = 128 + number  # the second Ctrl-C, or a SIGTERM that doesn't mean "save"
        return forward

    def _read(self) -> list[signal.Signals]:
        try:
            numbers = os.read(self._reader, 4096)
        except BlockingIOError:
            return []
        return [signal.Signals(number) for number in numbers if number in self._previous]

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number, previous in self._previous.items():
            signal.signal(number, previous)
        signal.set_wakeup_fd(self._previous_wakeup)
        os.close(self._reader)
        os.close(self._writer)
