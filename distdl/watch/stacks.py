"""Python stacks of a worker's threads, written by a signal handler in C: also while a thread holds the interpreter.

The worker's side is `answer`, called once; `ask` and `read` are those of whoever watches it.
"""

import contextlib
import ctypes
import faulthandler
import fcntl
import os
import re
import signal
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from distdl.watch import facts

# Nobody else uses it: torch, MPI and Slurm leave real-time signals alone, and so do shells.
SIGNAL = signal.SIGRTMIN + 9 if hasattr(signal, "SIGRTMIN") else signal.SIGUSR2

_PATIENCE_S = 1.0  # on a loaded machine
_FRAME = re.compile(r'^  File "(?P<file>[^"]+)", line (?P<line>\d+) in (?P<function>.+)$')
_THREAD = re.compile(r"(?<=hread )0x[0-9a-f]+")
_LIBRARIES = re.compile(r"/(site|dist)-packages/|/lib(64)?/python3|^<")
_COLLECTIVES = ("torch/distributed/distributed_c10d.py", "torch/distributed/c10d_logger.py")
_BACKWARD = "torch/autograd/graph.py"
_PACKAGE = str(Path(__file__).resolve().parents[1]) + os.sep
_PASSES_ON = tuple(_PACKAGE + name for name in ("comm", "watch", "launch", "cli", "__main__"))  # to whom it calls


@dataclass(frozen=True, slots=True)
class Frame:
    file: str
    line: int
    function: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line} in {self.function}"


def new_file() -> int:
    """For the stacks of one worker, which inherits it."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("distdl-stacks")
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    fcntl.fcntl(descriptor, fcntl.F_SETFL, os.O_APPEND)  # it may be emptied for the next time
    return descriptor


def answer(descriptor: int) -> None:
    """From now on this process writes its stacks there when it is asked."""
    faulthandler.register(SIGNAL, file=descriptor, all_threads=True)


def ask(pid: int) -> bool:
    """Whether the process was asked; it has to have said that it answers, for the signal would end it otherwise."""
    if sys.platform == "linux" and not facts.catches(pid, SIGNAL):
        return False
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if facts.of(pid).is_stopped:  # then it handles no signal
            _signal_main_thread(pid)
            os.kill(pid, signal.SIGCONT)
        else:
            os.kill(pid, SIGNAL)
        return True
    return False


def _signal_main_thread(pid: int) -> None:
    """So that it answers before it does anything else: of the process, any other thread may, while this one goes on."""
    tgkill = getattr(ctypes.CDLL(None), "tgkill", None)  # glibc 2.30
    if tgkill is None or tgkill(pid, pid, SIGNAL) != 0:
        os.kill(pid, SIGNAL)


def collect(asked: dict[int, int]) -> dict[int, str]:
    """By key, what the processes have written that were asked; `asked`: their files. Waits a second at most."""
    until = time.monotonic() + _PATIENCE_S
    texts = dict.fromkeys(asked, "")
    while time.monotonic() < until:
        time.sleep(0.01)  # a stopped process runs meanwhile
        before, texts = texts, {key: read(descriptor) for key, descriptor in asked.items()}
        if all(texts.values()) and texts == before:
            break
    return texts


def read(descriptor: int) -> str:
    size = os.fstat(descriptor).st_size
    return os.pread(descriptor, size, 0).decode(errors="replace")


def threads(text: str) -> dict[int, list[Frame]]:
    """The frames of each thread, innermost first, by its ident. Of two answers the last."""
    found: dict[int, list[Frame]] = {}
    frames: list[Frame] = []
    for line in text.splitlines():
        if match := _THREAD.search(line):
            frames = found[int(match[0], 16)] = []
        elif match := _FRAME.match(line):
            frames.append(Frame(match["file"], int(match["line"]), match["function"]))
    return found


def main_thread(text: str, thread: int) -> list[Frame]:
    """The frames of a thread, innermost first; `thread`: its ident."""
    return threads(text).get(thread, [])


def without_libraries(frames: list[Frame]) -> list[Frame]:
    """Only the innermost frames may be those of libraries."""
    own = next((number for number, frame in enumerate(frames) if not _LIBRARIES.search(frame.file)), len(frames))
    return frames[:own] + [frame for frame in frames[own:] if not _LIBRARIES.search(frame.file)]


def in_collective(frames: list[Frame]) -> Frame | None:
    """The frame that called a collective of torch by itself; None if the thread is not in there."""
    inside = [number for number, frame in enumerate(frames) if frame.file.endswith(_COLLECTIVES)]
    return frames[inside[-1] + 1] if inside and inside[-1] + 1 < len(frames) else None


def in_backward(frames: list[Frame]) -> Frame | None:
    """The frame that called backward, where the thread is inside of torch's engine, which may sum gradients itself."""
    if not frames or not frames[0].file.endswith(_BACKWARD):
        return None
    return next((frame for frame in frames if "/torch/" not in frame.file), None)


def own_code(frames: list[Frame]) -> list[Frame]:
    """Those of the user's."""
    code = [frame for frame in frames if frame.file.endswith(".py")]  # and not the script that an installer has made
    return [frame for frame in code if not _LIBRARIES.search(frame.file) and not frame.file.startswith(_PACKAGE)]


def place(frames: list[Frame]) -> Frame | None:
    """The frame that a reader looks for: the innermost of their own code, else of what called the library."""
    own = own_code(frames)
    ours = [each for each in frames if each.file.startswith(_PACKAGE) and not each.file.startswith(_PASSES_ON)]
    return next(iter([*own[:1], *ours[:1], *frames[:1]]), None)
