"""runs/<name>/: the one place that knows the names of the files in it, and how a run folder is made or found again.

config.yaml       the resolved config          environment.json  versions, git commit, hosts, devices
run.json          run id, name, creation time   metrics.jsonl     every number, a row each
lease             who writes here now           logs/rank-N.log   what worker N printed
failures/         one record per failed worker  checkpoints/      step-00000400/ ...
final.json        outcome, steps, best metrics  plugins/          copies of the plugins, which are what runs
quarantine.jsonl  samples that can't be used    wandb/            wandb's files, and what was sent to it
git.diff          changes not committed
"""

import json
import os
import re
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distdl.errors import UserError
from distdl.run.places import runs_root


@dataclass(frozen=True, slots=True)
class RunFolder:
    path: Path

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def shown(self) -> str:
        """The path as a person would write it: relative where it lies below the working folder."""
        path = self.path.absolute()
        return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)

    @property
    def config(self) -> Path:
        return self.path / "config.yaml"

    @property
    def identity(self) -> Path:
        return self.path / "run.json"

    @property
    def environment(self) -> Path:
        return self.path / "environment.json"

    @property
    def git_diff(self) -> Path:
        return self.path / "git.diff"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def quarantine(self) -> Path:
        return self.path / "quarantine.jsonl"

    @property
    def lease(self) -> Path:
        return self.path / "lease"

    @property
    def failures(self) -> Path:
        return self.path / "failures"

    @property
    def final(self) -> Path:
        return self.path / "final.json"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def plugins(self) -> Path:
        return self.path / "plugins"

    def log(self, rank: int) -> Path:
        return self.path / "logs" / f"rank-{rank}.log"

    def run_id(self) -> str:
        """Random identity given at creation; checkpoints carry it, so that a foreign one is recognised."""
        try:
            return str(json.loads(self.identity.read_text())["run_id"])
        except (OSError, ValueError, KeyError, TypeError):
            raise UserError(
                "this is not a run folder (run.json is missing or damaged)",
                where=str(self.path),
                fix="Give the folder of a run, such as runs/lenet5.",
            ) from None

    def add_to_identity(self, **more: Any) -> None:
        """Notes in run.json what belongs to the run for good, such as the run that it was started from."""
        write_json(self.identity, {**json.loads(self.identity.read_text()), **more})


def create_or_reopen(path: Path, *, resume: bool) -> RunFolder:
    """Makes a new run folder, or with `resume` takes one that is there. Raises UserError if one is there otherwise."""
    folder = RunFolder(path)
    if path.exists():
        if not resume and not _never_began(folder):
            raise UserError(
                "this run folder exists",
                where=str(path),
                fix="Add --resume to go on with it (or to start it, if it has no checkpoint yet), or --name OTHER.",
            )
        if not folder.identity.exists() and any(path.iterdir()):
            raise UserError("this folder exists but is not a run folder", where=str(path), fix="Choose another --name.")
    try:
        for sub in (path / "logs", folder.failures, folder.checkpoints):
            sub.mkdir(parents=True, exist_ok=True)
        if not folder.identity.exists():
            identity = {"run_id": uuid.uuid4().hex, "name": path.name, "created": time.time()}
            write_json(folder.identity, identity)
    except OSError as error:
        raise UserError(f"can't write the run folder: {error.strerror}", where=str(path)) from error
    return folder


def _never_began(folder: RunFolder) -> bool:
    """Whether a launch failed before its first step, at a mistake in the config, say: there is nothing to protect."""
    return folder.identity.exists() and not folder.metrics.exists() and not any(folder.checkpoints.glob("*"))


def find(run: str) -> RunFolder:
    """A run by its folder or by its name below runs/. Raises UserError when there is none."""
    for candidate in (Path(run), runs_root() / run):
        if (candidate / "run.json").exists():
            return RunFolder(candidate)
    there = sorted(p.parent.name for p in runs_root().glob("*/run.json"))
    raise UserError(
        f"no run '{run}' here", fix=f"Runs in {runs_root()}/: {', '.join(there) or 'none'}. `distdl runs` lists them."
    )


def split_step(text: str) -> tuple[str, str | None]:
    """RUN or RUN@STEP -> the run, and the step (a number, or "best") if one is named."""
    match = re.fullmatch(r"(.+)@(\d+|best)", text)
    return (match[1], match[2]) if match else (text, None)


def write_json(path: Path, value: Any) -> None:
    write_atomic(path, (json.dumps(value, indent=2) + "\n").encode())


def write_atomic(path: Path, content: bytes) -> None:
    """Temporary name, fsync, rename, fsync of the folder: a reader sees the old file or the new, never half of it."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        part.rename(path)
    finally:
        part.unlink(missing_ok=True)
    fsync_folder(path.parent)


def fsync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
