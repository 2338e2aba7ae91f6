"""A supervisor over workers of a few lines, in a process of its own: what tests start and look at.

Each worker script reads its place from the environment (RANK, ...) and does what a real one would: writes failure
records, saves on a signal, hangs. Most need no torch.
"""

import os
import re
import subprocess
import sys
import textwrap
import time
import uuid
from collections.abc import Callable
from pathlib import Path

from distdl.run.folder import RunFolder, create_or_reopen

SUPERVISOR = """
import sys
from pathlib import Path
from distdl.errors import UserError
from distdl.launch import supervise
from distdl.run import lease
from distdl.run.folder import create_or_reopen

path, worker, nproc, max_restarts = sys.argv[1:]
try:
    folder = create_or_reopen(Path(path), resume=True)
    sys.exit(supervise.run([sys.executable, worker], int(nproc), folder, max_restarts=int(max_restarts),
                           lease=lease.take(folder)))
except UserError as error:
    print(error, file=sys.stderr)
    sys.exit(2)
"""

WORKER = """
from distdl.launch.worker import attempt, fence, tie_to_supervisor
tie_to_supervisor()
import os, signal, subprocess, sys, time
from pathlib import Path
from distdl.errors import PeerLost, UserError
from distdl.run import failures
from distdl.run.folder import RunFolder

rank = int(os.environ["RANK"])
folder = RunFolder(Path(os.environ["DISTDL_RUN_FOLDER"]))

def fail(error, step=None):
    try:
        raise error
    except Exception as raised:
        sys.exit(failures.write(folder, rank, step, raised, attempt()).exit_code)

def save_and_exit_on(number, exit_code):
    signal.signal(number, lambda *_: (print("saved", flush=True), os._exit(exit_code)))

def ready():
    (folder.path / f"ready-{rank}-{attempt()}").touch()

def commit(step):
    checkpoint = folder.checkpoints / f"step-{step:08}"
    checkpoint.mkdir()
    (checkpoint / "manifest.json").write_text("{}")
"""

HANG = """
ready()
time.sleep(100)
"""


class Launch:
    """One supervisor process over `worker` scripts. All its descendants carry `mark` in their environment."""

    def __init__(self, path: Path) -> None:
        self.folder: RunFolder = create_or_reopen(path / "run", resume=True)
        self.mark = f"DISTDL_TEST={uuid.uuid4().hex}"
        self._script = path / "worker.py"
        self._supervisor: subprocess.Popen[bytes] | None = None

    def start(self, worker: str, nproc: int = 2, max_restarts: int = 0) -> subprocess.Popen[bytes]:
        self._script.write_text(WORKER + textwrap.dedent(worker))
        name, value = self.mark.split("=")
        self._supervisor = subprocess.Popen(
            [sys.executable, "-c", SUPERVISOR, str(self.folder.path), str(self._script), str(nproc), str(max_restarts)],
            env={**os.environ, name: value},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        return self._supervisor

    def wait(self) -> tuple[int, str]:
        """The exit code and the screen."""
        assert self._supervisor is not None
        screen, _ = self._supervisor.communicate(timeout=30)
        return self._supervisor.returncode, screen.decode()

    def kill_supervisor(self) -> None:
        """All that it has started has to go with it."""
        assert self._supervisor is not None
        self._supervisor.kill()
        self._supervisor.communicate()
        assert eventually(lambda: self.pids() == [], 2)

    def run(self, worker: str, nproc: int = 2, max_restarts: int = 0) -> tuple[int, str]:
        self.start(worker, nproc, max_restarts)
        return self.wait()

    def is_ready(self, nproc: int = 2, attempt: int = 0) -> bool:
        return all((self.folder.path / f"ready-{rank}-{attempt}").exists() for rank in range(nproc))

    def pids(self, what: str = "") -> list[int]:
        """The live processes of this launch whose command line contains `what`; zombies have no environment."""
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            try:
                environment, command = (process / "environ").read_bytes(), (process / "cmdline").read_bytes()
            except OSError:
                continue
            if self.mark.encode() in environment and what.encode() in command:
                found.append(int(process.name))
        return found

    def log(self, rank: int) -> str:
        return re.sub(r"(?m)^--- .* ---\n", "", self.folder.log(rank).read_text())


def eventually(condition: Callable[[], bool], within_s: float) -> bool:
    deadline = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True
