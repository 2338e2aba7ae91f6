"""A process that has imported torch and the cases, and forks itself into workers: milliseconds each, not seconds.

    session (pytest) --environment, descriptors--> server --fork--> worker
       '------------------------- calls, replies ---------------------'

The first worker of a session starts its server. The server has one thread, because a fork copies only the thread that
asks for it: a lock that another one held would stay locked in the worker. It keeps nothing open of the workers, so that
a worker's connection ends when the worker does. All die with the session: the server is tied to the session's main
thread, and each worker to the server.

Unlike processes of their own, forked workers share a hash seed: a set of strings has one order in all of them.
"""

import atexit
import contextlib
import faulthandler
import json
import os
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from multiprocessing.reduction import recv_handle, send_handle
from pathlib import Path
from typing import Any, BinaryIO

START_S = 60.0  # for the import of torch on a busy machine


# --- in the session ---


@dataclass(frozen=True, slots=True, kw_only=True)
class Worker:
    """A process that answers JSON with JSON on `calls`. `log`: what it prints."""

    pid: int
    calls: Connection
    log: BinaryIO


class ForkServer:
    """Starts the server, and asks it for workers."""

    def __init__(self) -> None:
        self._connection, theirs = Pipe()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-u", __file__, str(theirs.fileno())],  # -u: a worker that is killed has printed all
                env={**os.environ, "DISTDL_SUPERVISOR_PID": str(os.getpid()), "OMP_NUM_THREADS": "1"},
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
            )
        self.pid = self._process.pid

    def is_alive(self) -> bool:
        return self._process.poll() is None

    def fork(self, environment: dict[str, str]) -> Worker:
        """A worker with this environment: the first thing that it says is that it has joined."""
        ours, theirs = Pipe()
        log = tempfile.TemporaryFile()  # noqa: SIM115  # closed by `end`
        try:
            with theirs:
                pid = self._ask("fork", environment, handles=[theirs.fileno(), log.fileno()])
        except (EOFError, OSError) as error:
            raise RuntimeError("the fork server has ended; what it said is in the captured stderr") from error
        return Worker(pid=pid, calls=ours, log=log)

    def end(self, workers: list[Worker]) -> None:
        """Ends them, whatever they are doing; they are gone when this returns."""
        with contextlib.suppress(EOFError, OSError):  # then it is the server that is gone, and they with it
            self._ask("end", [worker.pid for worker in workers])
        for worker in workers:
            worker.calls.close()
            worker.log.close()

    def close(self) -> None:
        """Ends the server and with it its workers."""
        self._process.kill()
        self._process.wait()
        self._connection.close()

    def _ask(self, *request: Any, handles: list[int] | None = None) -> Any:
        try:
            self._connection.send(request)
            for handle in handles or []:
                send_handle(self._connection, handle, self.pid)
            if not self._connection.poll(START_S):
                raise TimeoutError
            return self._connection.recv()
        except BaseException:  # of pytest-timeout, say: a late answer must not be taken for that to the next request
            self.close()
            raise


_server: ForkServer | None = None


def running() -> ForkServer:
    """The server of this session, which the first call starts. To be called in the main thread: see the top."""
    global _server
    if _server is None or not _server.is_alive():
        _server = ForkServer()
        atexit.register(_server.close)
    return _server


# --- in the server ---


def serve(session: Connection) -> None:
    """Does what the session asks for until it is gone.

    Only `end` reaps: until then the number of a worker that died is nobody else's, and can't be killed by mistake.
    """
    while True:
        try:
            request = session.recv()
        except (EOFError, OSError):
            return
        match request:
            case "fork", environment:
                session.send(_fork(session, environment, recv_handle(session), recv_handle(session)))
            case "end", pids:
                for pid in pids:
                    os.kill(pid, signal.SIGKILL)
                for pid in pids:
                    os.waitpid(pid, 0)
                session.send(None)


def _fork(session: Connection, environment: dict[str, str], calls: int, log: int) -> int:
    server = os.getpid()
    if pid := os.fork():
        os.close(calls)
        os.close(log)
        return pid
    try:
        session.close()
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.close(log)
        os.environ.clear()
        os.environ.update(environment, DISTDL_SUPERVISOR_PID=str(server))
        work(Connection(calls))
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(1)  # never back into the server's loop


def main(handle: int) -> None:
    from distdl.launch.worker import tie_to_supervisor

    tie_to_supervisor()
    sys.path.insert(1, str(Path(__file__).resolve().parents[1]))
    import exchange_cases  # noqa: F401
    import cases  # noqa: F401
    import torch._dynamo  # noqa: F401  # the first optimizer of a process imports it, which takes another second

    serve(Connection(handle))


# --- in a worker ---


def case_named(name: str) -> Callable[..., Any]:
    import cases
    import exchange_cases

    modules = [cases, exchange_cases]
    if name.startswith("mpi_"):  # they start MPI
        import mpi_cases
        import mpi_feature_cases

        modules = [mpi_cases, mpi_feature_cases]
    found = (getattr(module, name, None) for module in modules)
    return next(filter(None, found))


def work(session: Connection, backend: str = "gloo") -> None:
    """The life of a worker: joins the others, then answers calls until it is killed."""
    from distdl.launch.worker import tie_to_supervisor

    tie_to_supervisor()
    import numpy as np
    import torch

    from distdl.comm import collectives
    from distdl.comm.world import detect

    np.random.seed()  # as in a process of its own; Python's generator does so by itself
    torch.seed()
    torch.set_num_threads(1)
    world = detect()
    assert world is not None
    timeout = timedelta(seconds=float(os.environ["TIMEOUT_S"]))
    collectives.join(world, backend, torch.device("cpu"), timeout)
    session.send_bytes(b'{"result": null}')
    while True:
        call = json.loads(session.recv_bytes())
        faulthandler.dump_traceback_later(call["deadline_s"], exit=True)
        try:
            reply = {"result": case_named(call["case"])(**call["arguments"])}
        except Exception:
            reply = {"error": traceback.format_exc()}
        faulthandler.cancel_dump_traceback_later()
        collectives.leave_new_groups()  # of the runs that the case has built
        session.send_bytes(json.dumps(reply).encode())


if __name__ == "__main__":
    main(int(sys.argv[1]))
