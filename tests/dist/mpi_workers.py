"""Workers as those of spawn.py, with the same cases, that an mpirun has started: they talk to each other by MPI.

    with MPIWorkers(3, MPICH) as workers:
        results = workers.run("sum_of_ranks")
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from multiprocessing.connection import Client, Listener
from pathlib import Path
from typing import Any

sys.path.insert(1, str(Path(__file__).resolve().parents[1]))  # as pytest has it, for a worker

from fork_server import START_S, Worker, work
from mpis import AS_ROOT, Library
from spawn import Workers


class MPIWorkers(Workers):
    """N processes, started at the first `run`."""

    def __init__(self, n: int, library: Library, *, timeout_s: float = 600.0) -> None:
        super().__init__(n, timeout_s=timeout_s)
        self._library = library

    def _start(self) -> None:
        folder = Path(tempfile.mkdtemp())
        log = (folder / "log").open("w+b")
        environment = {
            **os.environ,
            **AS_ROOT,
            "TIMEOUT_S": str(self._timeout_s),
            "OMP_NUM_THREADS": "1",
        }
        with Listener(str(folder / "socket"), "AF_UNIX") as listener:
            command = [*self._library.mpirun, "-n", str(self.n), sys.executable, __file__, str(folder / "socket")]
            job = subprocess.Popen(
                command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
            self._server = _Job(job, folder)
            listener._listener._socket.settimeout(START_S)  # type: ignore[attr-defined]
            told: dict[int, Worker] = {}
            try:
                while len(told) < self.n:
                    calls = listener.accept()
                    rank, pid = calls.recv()
                    told[rank] = Worker(pid=pid, calls=calls, log=(folder / "log").open("rb"))
            except TimeoutError:
                raise AssertionError(f"{self._library.name} has not started:\n{(folder / 'log').read_text()}") from None
        self._workers = [told[rank] for rank in range(self.n)]
        self._results("the start", START_S)


class _Job:
    """In the place of the server that forks."""

    def __init__(self, process: subprocess.Popen[bytes], folder: Path) -> None:
        self._process, self._folder = process, folder

    def end(self, workers: list[Worker]) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        for worker in workers:
            with contextlib.suppress(ProcessLookupError):  # mpirun gives them groups of their own
                os.kill(worker.pid, signal.SIGKILL)
            worker.calls.close()
            worker.log.close()
        self._process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)


def main(address: str) -> None:
    from distdl.comm.world import detect

    world = detect()
    assert world is not None
    session: Any = Client(address, "AF_UNIX")
    session.send((world.rank, os.getpid()))
    work(session, "mpi")


if __name__ == "__main__":
    main(sys.argv[1])
