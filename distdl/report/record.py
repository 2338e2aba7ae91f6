"""A run as its folder tells it, read without torch. What is missing or damaged there is empty here.

Rows of metrics.jsonl come in as they were written; `number` is how the other modules look at a value that may be
absent, null (it was NaN) or something else altogether.
"""

import contextlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distdl.config import load
from distdl.config.schema import Config
from distdl.errors import UserError
from distdl.run import listing
from distdl.run.folder import RunFolder, find
from distdl.track import jsonl

Row = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    label: str  # its name; its path where two runs have the same name
    folder: RunFolder
    state: str
    best: Row  # metric, value and step of the best evaluation
    config: Config | None  # None where it is damaged, or of another version
    config_problem: str  # why there is none
    written_config: Row  # what is written there all the same
    rows: list[Row]
    final: Row
    environment: Row
    failures: list[Row]
    git_diff: str

    def of_kind(self, kind: str) -> list[Row]:
        return [row for row in self.rows if row["kind"] == kind]

    @property
    def last_evaluations(self) -> dict[str, Row]:
        """The newest row of each evaluation set."""
        return {row["set"]: row for row in self.of_kind("eval")}

    @property
    def seconds(self) -> float:
        """Time of training, over restarts."""
        return number(self.final.get("wall_s")) or max(
            (number(row.get("time_s")) or 0.0 for row in self.rows), default=0
        )


def read_records(runs: Sequence[str]) -> list[Record]:
    """Each run once, in the order given. Raises UserError for one that isn't there."""
    folders = list({folder.path.resolve(): folder for folder in map(find, runs)}.values())
    names = [folder.name for folder in folders]
    return [_read(folder, folder.name if names.count(folder.name) == 1 else folder.shown) for folder in folders]


def number(value: Any) -> float | None:
    return value if type(value) in (int, float) and math.isfinite(value) else None


def _read(folder: RunFolder, label: str) -> Record:
    config, problem = None, ""
    try:
        config = load(folder.config).config
    except UserError as error:
        problem = str(error)
    known = listing.describe(folder)
    best = known["best"]
    return Record(
        label=label,
        folder=folder,
        state=known["state"],
        best=best if isinstance(best, dict) and number(best.get("value")) is not None else {},
        config=config,
        config_problem=problem,
        written_config=listing.read_config(folder),
        rows=[row for row in jsonl.read(folder.metrics) if _is_row(row)],
        final=listing.read_json(folder.final),
        environment=listing.read_json(folder.environment),
        failures=[listing.read_json(path) for path in sorted(folder.failures.glob("*.json"))],
        git_diff=_text(folder.git_diff),
    )


def _is_row(row: Row) -> bool:
    try:
        jsonl.check_row(row)
    except (ValueError, TypeError):
        return False
    return True


def _text(path: Path) -> str:
    with contextlib.suppress(OSError):
        return path.read_text(errors="replace")
    return ""
