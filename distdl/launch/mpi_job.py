"""Workers that are started by an mpirun, for the supervisor: `distdl train --backend mpi --nproc N`.

    supervisor --starts--> mpirun --starts--> N children (mpi_child.py) --each starts--> a worker
        '------------- a socket for each: environment, descriptors; process id, exit code -------'

mpirun only joins the workers to one MPI job. Who is watched, what is printed where, what is killed and how the run ends
is the supervisor's matter, as without MPI.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO

from distdl.errors import UserError
from distdl.launch.mpi_child import Task
from distdl.launch.process import kill_group

START_S = 60.0  # for mpirun to start its children, on a busy machine
END_S = 3.0
_N_LAST_LINES = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Launcher:
    """An mpirun. The workers share the machine as they would without it: no core is kept for one of them."""

    path: str
    name: str
    options: Sequence[str] = ()
    environment: Mapping[str, str] = field(default_factory=dict)

    def command(self, n: int) -> list[str]:
        return [self.path, *self.options, "-n", str(n)]


_AS_ROOT = {f"{who}_ALLOW_RUN_AS_ROOT{what}": "1" for who in ("OMPI", "PRTE") for what in ("", "_CONFIRM")}


def find_launcher(path: str | None = None) -> Launcher:
    """The mpirun of `path` (default: PATH), else the one beside this Python. Raises UserError without one."""
    beside = str(Path(sys.executable).parent)
    names = ("mpirun", "mpiexec", "mpiexec.hydra")
    found = next(filter(None, (shutil.which(name, path=where) for where in (path, beside) for name in names)), None)
    if found is None:
        raise UserError(
            "there is no mpirun here",
            where="dist.backend: mpi",
            fix="Install an MPI (apt install openmpi-bin, module load openmpi, or pip install 'distdl[mpich]'), or use "
            "dist.backend=gloo, which needs none.",
        )
    return describe(found, _version(found))


def describe(path: str, version: str) -> Launcher:
    """What to tell this mpirun. `version`: what it says of itself."""
    if "Open MPI" in version:
        is_old = "Open MPI) 4." in version or "Open MPI) 3." in version
        shared = ["--oversubscribe"] if is_old else ["--map-by", ":OVERSUBSCRIBE"]
        return Launcher(path=path, name="Open MPI", options=[*shared, "--bind-to", "none"], environment=_AS_ROOT)
    if "Intel" in version:
        return Launcher(path=path, name="Intel MPI", environment={"I_MPI_PIN": "0"})
    return Launcher(path=path, name="MPICH")


def _version(path: str) -> str:
    try:
        return subprocess.run([path, "--version"], capture_output=True, text=True, timeout=20).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ""


class MPIWorker:
    """A worker that a child of mpirun has started."""

    def __init__(self, session: socket.socket, stdout: IO[bytes]) -> None:
        """Raises OSError if the child does not answer."""
        self.connection, self.stdout = session, stdout
        self._said = b""
        while b"\n" not in self._said:
            new = session.recv(64)
            if not new:
                raise ConnectionResetError("the launcher has ended")
            self._said += new
        pid, _, self._said = self._said.partition(b"\n")
        self.pid = int(pid)
        session.setblocking(False)
        self._exit_code: int | None = None

    def has_ended(self) -> bool:
        while self._exit_code is None and b"\n" not in self._said:
            try:
                new = self.connection.recv(64)
            except BlockingIOError:
                return False
            except OSError:
                new = b""
            self._said += new
            if not new:  # mpirun has ended its child, and the worker with it
                kill_group(self.pid)
                self._exit_code = -signal.SIGKILL
        if self._exit_code is None:
            self._exit_code = int(self._said)
        return True

    def kill(self) -> None:
        if self._exit_code is None:
            kill_group(self.pid)

    def wait(self, timeout_s: float | None = None) -> int:
        until = None if timeout_s is None else time.monotonic() + timeout_s
        while not self.has_ended():
            if until is not None and time.monotonic() > until:
                raise subprocess.TimeoutExpired(str(self.pid), timeout_s or 0.0)
            time.sleep(0.005)
        assert self._exit_code is not None
        return self._exit_code


class MPIJob:
    """Of `n` workers: a Starter. The mpirun is started with the first of them."""

    grace_s = 1.0  # MPI does not tell its processes that one of them is gone

    def __init__(self, launcher: Launcher, n: int) -> None:
        self._launcher, self._n = launcher, n
        self._folder = tempfile.mkdtemp(prefix="distdl-")
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(f"{self._folder}/meeting")
        self._listening.listen(n)
        self._output = tempfile.TemporaryFile()  # noqa: SIM115  # closed by `close`
        self._process: subprocess.Popen[bytes] | None = None
        self._sessions: dict[int, socket.socket] = {}

    def start(
        self, rank: int, command: Sequence[str], environment: Mapping[str, str], descriptors: Sequence[int]
    ) -> MPIWorker:
        if self._process is None:
            self._start_all()
        reader, writer = os.pipe()
        stdout = os.fdopen(reader, "rb", buffering=0)
        changes = {name: value for name, value in environment.items() if os.environ.get(name) != value}
        with tempfile.TemporaryFile() as told, os.fdopen(writer, "wb") as output:
            handed_on = [output.fileno(), *descriptors]
            told.write(json.dumps(asdict(Task(command=list(command), changes=changes, descriptors=handed_on))).encode())
            told.seek(0)
            try:
                socket.send_fds(self._sessions[rank], [b"."], [told.fileno(), *handed_on])
                return MPIWorker(self._sessions[rank], stdout)
            except OSError as error:
                stdout.close()
                raise self._failed("has ended at the start of a worker") from error

    def _start_all(self) -> None:
        child = [sys.executable, "-m", "distdl.launch.mpi_child", f"{self._folder}/meeting"]
        self._process = subprocess.Popen(
            [*self._launcher.command(self._n), *child],
            env={**self._launcher.environment, **os.environ},
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=self._output,
            start_new_session=True,
        )
        until = time.monotonic() + START_S
        self._listening.settimeout(0.2)
        while len(self._sessions) < self._n:
            try:
                session, _ = self._listening.accept()
            except TimeoutError:
                if self._process.poll() is not None:
                    raise self._failed(f"has ended with exit code {self._process.returncode}") from None
                if time.monotonic() > until:
                    raise self._failed(f"has started {len(self._sessions)} of {self._n} in {START_S:g} s") from None
                continue
            session.settimeout(START_S)
            self._sessions[int(session.makefile("rb", buffering=0).readline())] = session

    def _failed(self, what: str) -> UserError:
        self._output.seek(0)
        lines = [line for line in self._output.read().decode(errors="replace").splitlines() if line.strip(" -")]
        said = "".join(f"\n  {line}" for line in lines[-_N_LAST_LINES:])
        return UserError(
            f"{self._launcher.path} ({self._launcher.name}) {what}{':' * bool(said)}{said}",
            where="dist.backend: mpi",
            fix=f"See whether `{' '.join(self._launcher.command(2))} hostname` works; dist.backend=gloo needs no MPI.",
        )

    def close(self) -> None:
        """Its children end with their connections."""
        for session in self._sessions.values():
            session.close()
        self._listening.close()
        if self._process is not None:
            try:
                self._process.wait(END_S)
            except subprocess.TimeoutExpired:
                kill_group(self._process.pid)
                self._process.wait()
        self._output.close()
        shutil.rmtree(self._folder, ignore_errors=True)
