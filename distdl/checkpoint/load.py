"""Finding checkpoints: by scanning for committed manifests, newest first, never through a pointer that may be stale."""

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from distdl.checkpoint import format
from distdl.checkpoint.format import CheckpointDamaged
from distdl.errors import UserError
from distdl.run.folder import RunFolder

_NAME = re.compile(r"^step-(\d{8,})$")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    step: int
    path: Path
    manifest: dict[str, Any]
    tensors: dict[str, torch.Tensor]

    @property
    def state(self) -> dict[str, Any]:
        return self.manifest["state"]


def folder_name(step: int) -> str:
    return f"step-{step:08d}"


def committed(folder: RunFolder) -> list[tuple[int, Path]]:
    """(step, path) of every committed checkpoint, oldest first. Damaged ones are among them."""
    found = [
        (int(match[1]), path)
        for path in folder.checkpoints.glob("step-*")
        if (match := _NAME.match(path.name)) and (path / format.MANIFEST).exists()
    ]
    return sorted(found)


def load(folder: RunFolder, step: int, path: Path, only: str | None = None) -> Checkpoint:
    """Reads and verifies one checkpoint. Raises CheckpointDamaged, also if it is another run's or another step's."""
    manifest = format.read_manifest(path)
    if manifest["run_id"] != folder.run_id():
        raise CheckpointDamaged(f"{path}: it belongs to another run ({manifest['run_id'][:8]})")
    if manifest["step"] != step:
        raise CheckpointDamaged(f"{path}: its manifest says step {manifest['step']}")
    return Checkpoint(step, path, manifest, format.read(path, manifest, only))


def newest(folder: RunFolder, warn: Callable[[str], None], only: str | None = None) -> Checkpoint | None:
    """The newest whole checkpoint, or None if there is none at all. Each damaged one passed over is told to `warn`.

    Raises UserError if there are checkpoints and all are damaged: a run never starts again from 0 unasked.
    """
    problems = []
    for step, path in reversed(committed(folder)):
        try:
            return load(folder, step, path, only)
        except CheckpointDamaged as error:
            problems.append(str(error))
            warn(f"checkpoint refused: {error}")
    if problems:
        raise UserError(
            "every checkpoint of this run is damaged:\n  " + "\n  ".join(problems),
            where=str(folder.checkpoints),
            fix="Restore one from a backup; or move the folder away to start again from step 0.",
        )
    return None


def at_step(
    folder: RunFolder, step: int | str | None, only: str | None = None, warn: Callable[[str], None] = print
) -> Checkpoint:
    """The checkpoint of a step, "best", or None for the newest whole one; damaged ones passed over are told to `warn`.

    Raises UserError if there is none such.
    """
    there = dict(committed(folder))
    if step is None:
        checkpoint = newest(folder, warn, only)
        if checkpoint is None:
            raise UserError("this run has no checkpoint yet", where=str(folder.path))
        return checkpoint
    if step == "best":
        step = _best_step(folder, warn)
    try:
        wanted = int(step)
        return load(folder, wanted, there[wanted], only)
    except (KeyError, ValueError):
        steps = ", ".join(map(str, there)) or "none"
        raise UserError(
            f"no checkpoint of step {step}", where=str(folder.path), fix=f"There are: {steps}; or 'best'."
        ) from None
    except CheckpointDamaged as error:
        raise UserError(f"the checkpoint is damaged: {error}") from error


def _best_step(folder: RunFolder, warn: Callable[[str], None]) -> int:
    best = at_step(folder, None, only="-", warn=warn).state["train_state"].get("best")
    if not best:
        raise UserError("this run keeps no best checkpoint", where=str(folder.path), fix="Set checkpoint.best.")
    return int(best["step"])


def evaluated_weights(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Of a checkpoint's tensors the weights and buffers by name; averages come in the place of what they are of."""
    weights: dict[str, torch.Tensor] = {}
    for kind in ("model/", "ema/"):
        weights |= {name.removeprefix(kind): t for name, t in tensors.items() if name.startswith(kind)}
    return weights


def weights_hash(checkpoint: Checkpoint) -> str:
    """SHA-256 over the bytes of the weights and buffers, in the order of their names."""
    digest = hashlib.sha256()
    for name in sorted(checkpoint.tensors):
        if name.startswith("model/"):
            digest.update(format.raw_bytes(checkpoint.tensors[name]))
    return digest.hexdigest()
