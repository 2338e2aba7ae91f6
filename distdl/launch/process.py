"""Workers as processes: started by the supervisor itself, or for it by another launcher (mpi_job.py)."""

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import IO, Protocol

_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


def stop_with_caller() -> None:
    """In a child, before it is executed: the end of whoever starts it, however that comes, means save and stop."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)


class Process(Protocol):
    """A worker. It leads a session and a process group of its own, which holds what it has started."""

    pid: int
    stdout: IO[bytes]  # what it prints, there and to stderr

    @property
    def connection(self) -> socket.socket | None:
        """Readable when it may have ended; None where a SIGCHLD tells."""

    def has_ended(self) -> bool:
        """By itself or not. Until `wait`, nothing else gets its number."""

    def kill(self) -> None:
        """It and its group, which may be gone."""

    def wait(self, timeout_s: float | None = None) -> int:
        """Its exit code, negative for a signal; raises subprocess.TimeoutExpired."""


class Starter(Protocol):
    """What starts the workers of one attempt."""

    grace_s: float  # for workers to notice that another one has failed, and to end

    def start(
        self, rank: int, command: Sequence[str], environment: Mapping[str, str], descriptors: Sequence[int]
    ) -> Process:
        """Raises OSError or UserError. `environment`: all of it; `descriptors`: that the worker inherits."""

    def close(self) -> None:
        """After the workers' end."""


class Own:
    """A child of this process."""

    connection = None

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], descriptors: Sequence[int]) -> None:
        self._process = subprocess.Popen(
            command,
            env=environment,
            pass_fds=descriptors,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            bufsize=0,
            start_new_session=True,  # Ctrl-C in the terminal reaches the supervisor alone
        )
        assert self._process.stdout is not None
        self.pid, self.stdout = self._process.pid, self._process.stdout

    def has_ended(self) -> bool:
        return self._process.returncode is not None or is_zombie(self._process)

    def kill(self) -> None:
        kill_group(self.pid)

    def wait(self, timeout_s: float | None = None) -> int:
        return self._process.wait(timeout_s)


class OwnStarter:
    grace_s = 3.0

    def start(
        self, rank: int, command: Sequence[str], environment: Mapping[str, str], descriptors: Sequence[int]
    ) -> Own:
        return Own(command, environment, descriptors)

    def close(self) -> None:
        pass


def is_zombie(process: subprocess.Popen[bytes]) -> bool:
    """Whether a child has ended. It is not reaped by that: its zombie keeps the number from being given anew."""
    if hasattr(os, "waitid"):
        return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    return process.poll() is not None  # macOS


def kill_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):  # it is gone; macOS refuses for a zombie
        os.killpg(pid, signal.SIGKILL)
