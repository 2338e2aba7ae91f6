"""Real runs of the command line in a folder of their own, and what can be seen of them from outside.

A worker's pulse is read in the memory that it shares with its supervisor, by way of /proc: Linux only.
"""

import json
import mmap
import os
import subprocess
import sys
import uuid
from dataclasses import dataclass, field
from pathlib import Path

from distdl.checkpoint.load import at_step, weights_hash
from distdl.run.folder import RunFolder
from distdl.watch import pulse

ROOT = Path(__file__).resolve().parents[2]
PROC = Path("/proc")
CONFIG = {
    "model": {"name": "lenet5", "args": {"classes": 10}},
    "data": {
        "train": {
            "shards": "digits/train",
            "transforms": [{"resize": 32}, {"normalise": {"mean": [0.3], "std": [0.37]}}],
        },
        "eval": {
            "shards": "digits/test",
            "transforms": [{"resize": 32}, {"normalise": {"mean": [0.3], "std": [0.37]}}],
        },
    },
    "train": {"global_batch": 48, "steps": 60, "eval_batch": 96, "threads": 1, "deterministic": True},
    "optim": {"name": "sgd", "lr": 0.02},
}


class Place:
    """A folder with the 1,797 digits of scikit-learn, in which runs are started; temporary files have one in it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.mark = folder, uuid.uuid4().hex
        self.temporary = folder / "tmp"
        self.temporary.mkdir()
        subprocess.run(
            [sys.executable, "-m", "distdl", "data", "pack", "digits", "digits"],
            cwd=folder,
            env=self.environment(),
            check=True,
            stdout=subprocess.DEVNULL,
        )

    def config(self, name: str = "run.yaml", **changes: object) -> Path:
        """Changed by dotted keys with __ for dots: train__steps=3."""
        config = json.loads(json.dumps(CONFIG))
        for key, value in changes.items():
            section, last = key.split("__")
            config.setdefault(section, {})[last] = value
        path = self.folder / name
        path.write_text(json.dumps(config))  # which is YAML as well
        return path

    def start(self, *arguments: object, log: Path, **environment: str) -> subprocess.Popen[bytes]:
        with log.open("ab") as file:
            return subprocess.Popen(
                [sys.executable, "-m", "distdl", *map(str, arguments)],
                cwd=self.folder,
                env=self.environment() | environment,
                stdout=file,
                stderr=subprocess.STDOUT,
            )

    def environment(self) -> dict[str, str]:
        mine = {"PYTHONPATH": f"{ROOT}:{Path(__file__).parent}", "TMPDIR": str(self.temporary), "NO_COLOR": "1"}
        return {**os.environ, **mine, "XDG_STATE_HOME": str(self.folder / "state"), "DISTDL_BENCH": self.mark}

    def run_folder(self, run: str) -> Path:
        return self.folder / "runs" / run

    def hash(self, run: str) -> str:
        return weights_hash(at_step(RunFolder(self.run_folder(run)), None, only="model/"))

    def rows(self, run: str, kind: str = "train") -> list[dict]:
        text = (self.run_folder(run) / "metrics.jsonl").read_text()
        return [row for row in map(json.loads, text.splitlines()) if row["kind"] == kind]

    def processes(self) -> list[int]:
        """What still runs of all that was started here. Zombies don't count."""
        found = []
        for path in PROC.glob("[0-9]*"):
            try:
                alive = "\nState:\tZ" not in (path / "status").read_text()
                if alive and f"DISTDL_BENCH={self.mark}".encode() in (path / "environ").read_bytes():
                    found.append(int(path.name))
            except OSError:
                continue
        return found


@dataclass
class Worker:
    """A process that has a slot, as seen from outside."""

    pid: int
    rank: int
    attempt: int
    _slot: memoryview = field(repr=False)

    def state(self) -> pulse.State:
        return pulse.read(self._slot)


class Workers:
    """Those of a supervisor, attempt after attempt."""

    def __init__(self, supervisor: int) -> None:
        self._supervisor = supervisor
        self._known: dict[int, Worker] = {}

    def now(self) -> list[Worker]:
        """Those that have a process, by rank; without spares, which wait for the next attempt."""
        try:
            text = (PROC / str(self._supervisor) / "task" / str(self._supervisor) / "children").read_text()
        except OSError:
            return []
        there = {pid: worker for pid in map(int, text.split()) if is_alive(pid) and (worker := self._find(pid))}
        self._known = there
        attempt = min((worker.attempt for worker in there.values()), default=0)
        return sorted((each for each in there.values() if each.attempt == attempt), key=lambda each: each.rank)

    def _find(self, pid: int) -> Worker | None:
        if pid in self._known:
            return self._known[pid]
        try:
            environment = (PROC / str(pid) / "environ").read_bytes().split(b"\0")
            variables = dict(line.decode().split("=", 1) for line in environment if b"=" in line)
            if "DISTDL_PULSE" not in variables:
                return None  # the store, or a worker that is about to be one
            descriptor, number, _ = map(int, variables["DISTDL_PULSE"].split(":"))
            with (PROC / str(pid) / "fd" / str(descriptor)).open("rb") as file:
                memory = memoryview(mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ))
        except (OSError, ValueError):  # it is gone by now
            return None
        slot = memory[number * pulse.SLOT_BYTES : (number + 1) * pulse.SLOT_BYTES]
        return Worker(pid, int(variables["RANK"]), int(variables["TORCHELASTIC_RESTART_COUNT"]), slot)


def is_alive(pid: int) -> bool:
    try:
        text = (PROC / str(pid) / "stat").read_text()
    except OSError:
        return False
    return text[text.rindex(")") + 2] not in "XZ"
