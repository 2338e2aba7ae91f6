"""`python -m distdl.launch.mpi_child ADDRESS`: what an mpirun of the supervisor's starts in the place of a worker.

It tells the supervisor that it is there, is given the worker's environment and descriptors, and starts the worker with
them, in the place of its own among the processes of the MPI job. So the supervisor has the workers' output, their exit
codes and their processes as if they were its own, and mpirun, which would end the others at once and tell little, sees
nothing of a failure.

    child:       its rank, a line
    supervisor:  a descriptor of a Task in JSON, and those that the task names
    child:       the worker's process id, a line; at its end the exit code, a line
    supervisor:  closes the connection, and the child ends; with its worker if that is still there
"""

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass

from distdl.launch.process import is_zombie, kill_group

MOST_DESCRIPTORS = 32
_RANKS = ("OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK")
_HIGH = 200  # numbers of descriptors that the supervisor does not use


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    command: list[str]
    changes: dict[str, str]  # of the environment
    descriptors: list[int]  # their numbers in the worker, in the order in which they are sent; the first is its stdout


def main() -> None:
    session = _out_of_the_way(socket.socket(socket.AF_UNIX))
    session.connect(sys.argv[1])
    session.sendall(b"%d\n" % rank_of(os.environ))
    _, received, _, _ = socket.recv_fds(session, 1, MOST_DESCRIPTORS)
    if not received:
        return  # the supervisor is gone
    told, *descriptors = [_high(each) for each in received]
    with os.fdopen(told, "rb") as file:
        task = Task(**json.load(file))
    if "PMI_FD" in os.environ:  # MPICH's way to its mpirun
        os.environ["PMI_FD"] = str(_high(int(os.environ["PMI_FD"]), inherited=True))
    process = _start(task, descriptors)
    session.sendall(b"%d\n" % process.pid)
    _stay_with(process, session)


def rank_of(environment: Mapping[str, str]) -> int:
    return int(next(environment[name] for name in _RANKS if name in environment))


def _start(task: Task, descriptors: list[int]) -> "subprocess.Popen[bytes]":
    for there, here in zip(task.descriptors, descriptors, strict=True):
        os.dup2(here, there, inheritable=True)
        os.close(here)
    output = task.descriptors[0]
    process = subprocess.Popen(
        task.command,
        env={**os.environ, **task.changes, "DISTDL_SUPERVISOR_PID": str(os.getpid())},
        close_fds=False,  # PMI_FD, too
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        start_new_session=True,
    )
    for each in task.descriptors:
        os.close(each)
    return process


def _stay_with(process: "subprocess.Popen[bytes]", session: socket.socket) -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    signal.set_wakeup_fd(writer)
    while not is_zombie(process):
        readable, _, _ = select.select([reader, session.fileno()], [], [])
        if session.fileno() in readable:  # it is closed
            break
        os.read(reader, 1)
    kill_group(process.pid)  # before it is reaped
    code = process.wait()
    with contextlib.suppress(OSError):
        session.sendall(b"%d\n" % code)
        session.recv(1)


def _high(descriptor: int, inherited: bool = False) -> int:
    """The same, of a number above those that the supervisor may name."""
    import fcntl

    moved = fcntl.fcntl(descriptor, fcntl.F_DUPFD if inherited else fcntl.F_DUPFD_CLOEXEC, _HIGH)
    os.close(descriptor)
    return moved


def _out_of_the_way(session: socket.socket) -> socket.socket:
    return socket.socket(fileno=_high(session.detach()))


if __name__ == "__main__":
    main()
