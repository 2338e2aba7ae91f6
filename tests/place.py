"""Whole runs from outside: a small real corpus, the command line, and a look at what is left of the processes."""

import contextlib
import dataclasses
import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from distdl.checkpoint.load import at_step, weights_hash
from distdl.run.folder import RunFolder

NETWORKS = Path(__file__).parent / "e2e"  # of the tests' own
CONFIG = {
    "model": {"name": "lenet5", "args": {"classes": 10}},
    "data": {
        "train": {
            "shards": "digits/train",
            "transforms": [
                {"resize": 32},
                {"random_crop": {"size": 32, "padding": 2}},
                {"normalise": {"mean": [0.3], "std": [0.37]}},
            ],
        },
        "eval": {
            "shards": "digits/test",
            "transforms": [{"resize": 32}, {"normalise": {"mean": [0.3], "std": [0.37]}}],
        },
    },
    "train": {"global_batch": 50, "steps": 40, "log_every": 1, "eval_every": 16, "eval_batch": 100, "threads": 1},
    "optim": {"name": "sgd", "lr": 0.05, "weight_decay": 5e-4},
    "schedule": {"name": "cosine", "warmup_steps": 5},
    "checkpoint": {"every": 10, "keep": 2, "best": "loss"},
}


@dataclasses.dataclass
class Result:
    code: int
    output: str
    seconds: float

    @property
    def last_line(self) -> str:
        return self.output.rstrip().splitlines()[-1]


class Place:
    """A folder with a corpus in which runs are started."""

    def __init__(self, path: Path, corpus: Path) -> None:
        self.path = path
        (path / "digits").symlink_to(corpus)
        self.mark = uuid.uuid4().hex
        self.environment = {
            **os.environ,
            "DISTDL_TEST": self.mark,
            "PYTHONPATH": str(NETWORKS),
            "NO_COLOR": "1",
        }

    def config(self, name="run.yaml", **changes) -> Path:
        """Writes the small config, changed by dotted keys with __ for dots: train__steps=3."""
        config = json.loads(json.dumps(CONFIG))
        for key, value in changes.items():
            *sections, last = key.split("__")
            place = config
            for section in sections:
                place = place.setdefault(section, {})
            place[last] = value
        path = self.path / name
        path.write_text(yaml.safe_dump(config, sort_keys=False))
        return path

    def start(self, *arguments, launcher=(sys.executable, "-m", "distdl"), cwd=None, **environment) -> subprocess.Popen:
        return subprocess.Popen(
            [*launcher, *map(str, arguments)],
            cwd=cwd or self.path,
            env={**self.environment, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, *arguments, deadline=120, **options) -> Result:
        began = time.monotonic()
        process = self.start(*arguments, **options)
        try:
            output, _ = process.communicate(timeout=deadline)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
        return Result(process.returncode, output, time.monotonic() - began)

    def hash(self, run: str) -> str:
        """What `distdl hash` says of its newest checkpoint, without a process that imports torch for it."""
        folder = RunFolder(self.path / "runs" / run)
        return weights_hash(at_step(folder, None, only="model/"))

    def rows(self, run: str, kind="train") -> list[dict]:
        text = (self.path / "runs" / run / "metrics.jsonl").read_text()
        lines = text[: text.rfind("\n") + 1].splitlines()  # not the one that a run that goes on has begun
        return [row for row in map(json.loads, lines) if row["kind"] == kind]

    def processes(self) -> list[int]:
        """What still runs of the processes that were started here. Zombies don't count."""
        found = []
        for path in Path("/proc").glob("[0-9]*"):
            try:
                alive = "\nState:\tZ" not in (path / "status").read_text()
                if alive and f"DISTDL_TEST={self.mark}".encode() in (path / "environ").read_bytes():
                    found.append(int(path.name))
            except OSError:
                continue
        return found

    def worker(self, rank: int, by: str = "RANK") -> int:
        """Its process id. `by`: the variable in which its launcher tells it its rank."""
        for pid in self.processes():
            environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            if by == "RANK":
                is_worker = b"DISTDL_RUN_FOLDER" in b"".join(environment)
            else:
                is_worker = b"distdl.launch" not in Path(f"/proc/{pid}/cmdline").read_bytes()  # and not what it started
            if f"{by}={rank}".encode() in environment and is_worker:
                return pid
        raise AssertionError(f"no worker {rank}")

    def gone_within(self, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while self.processes():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)
        return True


@contextlib.contextmanager
def somewhere(path: Path, corpus: Path) -> Iterator[Place]:
    """A place that no process may outlive."""
    there = Place(path, corpus)
    yield there
    left = there.processes()
    for pid in left:
        os.kill(pid, 9)
    assert not left, f"processes were left behind: {left}"


def mnist_config(there: Place, real_data: Path, **changes: Any) -> Path:
    """Packs it from its original files, and writes a config that trains on it."""
    packed = there.run("data", "pack", "idx", real_data / "mnist", "mnist")
    assert packed.code == 0, packed.output
    transforms = [{"pad": 2}, {"normalise": {"mean": [0.1307], "std": [0.3081]}}]
    splits = {
        "data__train": {"shards": "mnist/train", "transforms": transforms},
        "data__eval": {"shards": "mnist/test", "transforms": transforms},
    }
    return there.config(**splits, **changes)


def pack_digits(folder: Path) -> Path:
    """scikit-learn's 1,797 digits as shards."""
    pytest.importorskip("sklearn")
    path = folder / "digits"
    subprocess.run([sys.executable, "-m", "distdl", "data", "pack", "digits", str(path)], check=True)
    return path
