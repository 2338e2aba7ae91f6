"""Hosts that are reached by ssh: how they are named, and a connection to what is started there (node.py)."""

import json
import os
import re
import selectors
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distdl.errors import UserError
from distdl.launch.slurm import lists as slurm

SLURM = "slurm"
CONNECT_S = 15
ANSWER_S = 60.0  # of a host that is busy
END_S = 8.0

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*(@[A-Za-z0-9_][A-Za-z0-9_.-]*)?")
_READ_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class Spec:
    host: str
    n: int | None  # workers; None: one for each device, or one
    by_slurm: bool = False  # it is reached by srun, as a node of this process's job

    def command(self) -> list[str]:
        """What starts a node there."""
        return _srun_command(self.host) if self.by_slurm else ssh_command(self.host)


def parse(text: str, environment: Mapping[str, str] = os.environ) -> list[Spec]:
    """`a:8,b:8`; the path of a file with a host a line, as `a:8`, `a slots=8` or `a`; or `slurm`, for the nodes of the
    job that this process belongs to. Raises UserError for anything else."""
    if text == SLURM:
        return _of_job(environment)
    where, words = "command line --hosts", text.split(",")
    if "/" in text or text.endswith(".txt") or Path(text).is_file():
        where = text
        try:
            lines = [line.partition("#")[0].strip() for line in Path(text).read_text().splitlines()]
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"can't be read: {getattr(error, 'strerror', None) or error}", where=text) from None
        words = [re.sub(r"\s+slots\s*=\s*", ":", line) for line in lines if line]
    found = []
    for word in words:
        name, colon, n = word.strip().rpartition(":") if ":" in word else (word.strip(), "", "")
        if not _NAME.fullmatch(name) or (colon and not (n.isdigit() and int(n) > 0)):
            raise UserError(
                f"'{word}' is no host", where=where, fix="Write name:8, or user@name:8, with commas between."
            )
        found.append(Spec(name, int(n) if n else None))
    names = [each.host for each in found]
    if not found or len(set(names)) < len(names):
        raise UserError("a host stands there twice" if found else "there is no host", where=where)
    return found


def _of_job(environment: Mapping[str, str]) -> list[Spec]:
    try:
        hosts = slurm.expand(environment["SLURM_JOB_NODELIST"])
        tasks = environment.get("SLURM_TASKS_PER_NODE", "") if "SLURM_NTASKS_PER_NODE" in environment else ""
        sizes = slurm.tasks_per_node(tasks) if tasks else [None] * len(hosts)
        return [Spec(host, n, by_slurm=True) for host, n in zip(hosts, sizes, strict=True)]
    except KeyError:
        fix = "Start it in a batch script, or after salloc; `distdl submit` writes such a script."
        raise UserError("this is no job of Slurm's", where="command line --hosts slurm", fix=fix) from None
    except ValueError as error:
        raise UserError(str(error), where="Slurm's variables SLURM_JOB_NODELIST, SLURM_TASKS_PER_NODE") from None


class Lost(Exception):
    """A host can't be reached, or not any more."""


class Remote:
    """A host's node. `events` are what it has told by itself."""

    def __init__(self, spec: Spec, command: Sequence[str]) -> None:
        self.spec = spec
        self.is_lost = ""  # why
        self.events: list[dict[str, Any]] = []
        self.about: dict[str, Any] = {}
        self._said, self._errors = b"", b""
        self._answers: dict[int, dict[str, Any]] = {}
        self._number = 0
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            start_new_session=True,  # Ctrl-C is for this process, which passes it on
        )
        assert self._process.stdin and self._process.stdout and self._process.stderr
        self._stdin, self._stdout, self._stderr = self._process.stdin, self._process.stdout, self._process.stderr
        os.set_blocking(self._stdout.fileno(), False)
        os.set_blocking(self._stderr.fileno(), False)

    @property
    def name(self) -> str:
        return self.spec.host

    @property
    def n(self) -> int:
        return self.spec.n or max(1, int(self.about.get("devices", 1)))

    def filenos(self) -> list[int]:
        return [self._stdout.fileno(), self._stderr.fileno()]

    def send(self, do: str, **arguments: Any) -> int:
        """The number of a request, by which to ask for its answer."""
        self._number += 1
        line = json.dumps({"id": self._number, "do": do, **arguments}).encode() + b"\n"
        try:
            while line:
                line = line[self._stdin.write(line) :]
        except OSError:
            self.pump()
            self._lose("it does not listen any more")
        return self._number

    def answer(self, number: int, timeout_s: float = ANSWER_S) -> Any:
        """Raises Lost without an answer, and UserError for one that says what is wrong there."""
        until = time.monotonic() + timeout_s
        with selectors.DefaultSelector() as selector:
            for each in self.filenos():
                selector.register(each, selectors.EVENT_READ)
            while number not in self._answers:
                if self.is_lost:
                    raise Lost(self.is_lost)
                if time.monotonic() > until:
                    self._lose(f"no answer for {timeout_s:g} s")
                selector.select(0.2)
                self.pump()
        told = self._answers.pop(number)
        if "error" in told:
            raise UserError(told["error"], where=self.name)
        return told["answer"]

    def has_answered(self, number: int) -> bool:
        return number in self._answers

    def ask(self, do: str, **arguments: Any) -> Any:
        return self.answer(self.send(do, **arguments))

    def pump(self) -> None:
        """Reads what there is."""
        self._errors = (self._errors + (_read(self._stderr.fileno()) or b""))[-_READ_BYTES:]
        new = _read(self._stdout.fileno())
        *lines, self._said = (self._said + (new or b"")).split(b"\n")
        for line in lines:
            try:
                told = json.loads(line)
            except ValueError:
                continue  # a greeting of a shell's
            if isinstance(told, dict) and "id" in told:
                self._answers[told["id"]] = told
            elif isinstance(told, dict):
                self.events.append(told)
        if new == b"" and not self.is_lost:
            self._process.wait()
            self._errors += _read(self._stderr.fileno()) or b""
            by = "srun" if self.spec.by_slurm else "ssh"
            self._lose(f"{by} has ended with exit code {self._process.returncode}")

    def _lose(self, why: str) -> None:
        lines = [line.strip() for line in self._errors.decode(errors="replace").splitlines() if line.strip()]
        self.is_lost = self.is_lost or (f"{why}: {lines[-1]}" if lines else why)

    def close(self) -> None:
        """Its workers end with it."""
        self._stdin.close()
        try:
            self._process.wait(END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._stdout.close()
        self._stderr.close()


def _read(descriptor: int) -> bytes | None:
    """What there is; b"" at the end, None if there is nothing yet."""
    found = b""
    while True:
        try:
            new = os.read(descriptor, _READ_BYTES)
        except BlockingIOError:
            return found or None
        if not new:
            return found
        found += new


def _srun_command(host: str) -> list[str]:
    step = [
        "--nodes=1",
        "--ntasks=1",
        f"--nodelist={host}",
        "--overlap",
        "--cpu-bind=none",
        "--mpi=none",
        "--quiet",
        "--immediate=10",
    ]
    return ["srun", *step, "--unbuffered", sys.executable, "-m", "distdl.launch.node"]


def ssh_command(host: str) -> list[str]:
    """What starts a node there, in this folder and with this Python. `DISTDL_SSH`: ssh with options of one's own."""
    options = ["BatchMode=yes", f"ConnectTimeout={CONNECT_S}", "ServerAliveInterval=5", "ServerAliveCountMax=3"]
    own = shlex.split(os.environ.get("DISTDL_SSH", "ssh"))
    path = os.environ.get("PYTHONPATH")
    python = [*(["env", f"PYTHONPATH={path}"] if path else []), sys.executable, "-m", "distdl.launch.node"]
    there = f"cd {shlex.quote(str(Path.cwd()))} && exec {shlex.join(python)}"
    return [*own, *(word for option in options for word in ("-o", option)), "--", host, there]
