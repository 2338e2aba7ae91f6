"""What the workers print: all of it into their logs, rank 0's to the screen as well, byte by byte and at once.

A live progress line redraws itself after a carriage return. The screen gets every state of it, the log only the last.
"""

import contextlib
import os
import queue
import re
import select
import threading
from collections import deque
from pathlib import Path
from typing import IO

N_LAST_LINES = 20
CLOSE_S = 2.0  # for the last lines to get into a log
STUCK_S = 1.0  # after which a log that takes no line is waited for no more

_READ_BYTES = 1 << 16
_LONGEST_LINE_BYTES = 1 << 16
_MOST_LINES_WAITING = 10_000
_MOST_READS_AT_END = 64  # a process that escaped may hold the pipe open and print for ever
_ERASE_LINE = re.compile(rb"^(\x1b\[[0-2]?K)+")


class Screen:
    """The terminal, or whatever takes its place: rank 0's output on stdout, the supervisor's own words on stderr."""

    def __init__(self, stdout: int = 1, stderr: int = 2) -> None:
        self._stdout, self._stderr = stdout, stderr
        self._inside_a_line = False

    def show(self, output: bytes) -> None:
        _write(self._stdout, output)
        self._inside_a_line = not output.endswith(b"\n")

    def say(self, text: str) -> None:
        """Prints `text` on lines of its own, below a live line that is being shown."""
        start = "\n" if self._inside_a_line else ""
        _write(self._stderr, f"{start}{text}\n".encode(errors="replace"))
        self._inside_a_line = False


class Output:
    """The output of one process: `pump` when there is some, `close` after its end. `last_lines` are for a report."""

    def __init__(self, pipe: IO[bytes], log: Path | None, screen: Screen | None, header: str = "") -> None:
        os.set_blocking(pipe.fileno(), False)
        self._pipe, self._screen = pipe, screen
        self._log = Log(log) if log else None
        self._line = b""  # the unfinished one
        self.at_end = False
        self.last_lines: deque[str] = deque(maxlen=N_LAST_LINES)
        if self._log and header:
            self._log.write(f"{header}\n".encode())

    def fileno(self) -> int:
        return self._pipe.fileno()

    def pump(self) -> bool:
        """Passes on what has been printed, without waiting; whether there was any. `at_end` when no more can come."""
        try:
            new = os.read(self._pipe.fileno(), _READ_BYTES)
        except BlockingIOError:
            return False
        self.at_end = not new
        if self._screen and new:
            self._screen.show(new)
        *lines, self._line = (self._line + new).split(b"\n")
        for line in lines:
            self._end_line(line)
        if b"\r" in self._line:
            self._line = last_state(self._line) + (b"\r" if self._line.endswith(b"\r") else b"")
        if len(self._line) > _LONGEST_LINE_BYTES:
            self._end_line(self._line)
            self._line = b""
        return not self.at_end

    def close(self) -> None:
        """Passes on what is left in the pipe, whoever else may hold it open."""
        if self._pipe.closed:
            return
        for _ in range(_MOST_READS_AT_END):
            if not self.pump():
                break
        if self._line:
            self._end_line(self._line)
        self._pipe.close()
        if self._log:
            self._log.close()

    def _end_line(self, line: bytes) -> None:
        line = last_state(line)
        self.last_lines.append(line.decode(errors="replace"))
        if self._log:
            self._log.write(line + b"\n")


class Log:
    """A file that a thread writes: a disk that answers no more costs lines of it, but nobody's words on the screen."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("ab", buffering=0)
        self._lines: queue.Queue[bytes | None] = queue.Queue(_MOST_LINES_WAITING)
        self._is_stuck = False
        self._thread = threading.Thread(target=self._write, name=f"log {path.name}", daemon=True)
        self._thread.start()

    def write(self, line: bytes) -> None:
        """Waits for a slow disk, as whoever prints does then."""
        try:
            self._lines.put(line, block=not self._is_stuck, timeout=STUCK_S)
            self._is_stuck = False
        except queue.Full:
            self._is_stuck = True

    def close(self) -> None:
        """Once all lines are written, which are waited for as long as CLOSE_S."""
        with contextlib.suppress(queue.Full):
            self._lines.put(None, timeout=CLOSE_S)
        self._thread.join(CLOSE_S)

    def _write(self) -> None:
        with self._file:
            while (line := self._lines.get()) is not None:
                with contextlib.suppress(OSError):  # as of a full disk
                    self._file.write(line)


def last_state(line: bytes) -> bytes:
    """What a terminal shows last of a line that was redrawn: `b"step 1\\rstep 2\\r"` -> `b"step 2"`."""
    return _ERASE_LINE.sub(b"", line.rstrip(b"\r").rpartition(b"\r")[2])


def _write(descriptor: int, data: bytes) -> None:
    while data:
        try:
            data = data[os.write(descriptor, data) :]
        except BlockingIOError:
            select.select([], [descriptor], [])
        except OSError:
            return  # the terminal is closed, or `| head` has seen enough: the logs go on
