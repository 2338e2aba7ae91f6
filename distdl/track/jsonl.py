"""metrics.jsonl, the truth about a run: one JSON object a line, and what a row may hold.

A row goes to the file in a single write(), so a worker that is killed leaves at most one torn last line, which every
reader here ignores. A resumed run first drops the rows past its checkpoint, because it is about to make them again.
A disk that is full does not stop training: rows wait in memory and are tried again with the next one.

    kind:  "train", "eval", "event" or "system"
    all:   step, epoch (a float), samples, time_s (seconds since the start, over restarts)
    train: loss, lr, samples_per_s, data_wait_s, step_s      event: event (its name), message
    eval:  set, loss, top1, top5 (fractions; or the task's own metrics), count, and optionally eval_s (seconds it took)
    system: what the machine does: cpu_percent, job_memory_bytes, gpu0_power_w, ... (see system.py)
"""

import contextlib
import errno
import json
import math
import os
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from distdl.run.folder import write_atomic

KINDS = ("train", "eval", "event", "system")
PLACE = ("step", "epoch", "samples", "time_s")  # where in the run a row stands
NOT_METRICS = frozenset(("kind", "set", *PLACE, "count", "eval_s"))

Row = Mapping[str, Any]


def check_row(row: Row) -> None:
    """Raises ValueError for an unknown kind or a missing step, TypeError for a value that is not plain Python.

    A tensor or a numpy scalar is refused here, where its key can be named, and not by a JSON encoder or by a wandb
    thread later on: reading it may also be a wait for the device that nobody meant to add.
    """
    if row.get("kind") not in KINDS:
        raise ValueError(f"a row's kind is one of {', '.join(KINDS)} (got {row.get('kind')!r})")
    if type(row.get("step")) is not int:
        raise ValueError(f"a row has a step, an int (got {row.get('step')!r})")
    if row["kind"] == "eval" and not isinstance(row.get("set"), str):
        raise ValueError(f"an eval row names its set (got {row.get('set')!r})")
    for key, value in row.items():
        # By exact type: numpy's float64 is a subclass of float.
        if value is not None and type(value) not in (str, bool, int, float):
            kind = f"{type(value).__module__}.{type(value).__qualname__}"
            raise TypeError(f"{key} of a row is a {kind}: rows hold plain Python values (.item() gives one)")


def scalars(row: Row) -> dict[str, float]:
    """The numbers of a row under the names that trackers show: train/loss, eval/top1, or eval/dev/top1 for set dev."""
    if row["kind"] == "event":
        return {}
    prefix = series(row)
    return {
        f"{prefix}/{key}": float(value)
        for key, value in row.items()
        if key not in NOT_METRICS and type(value) in (int, float)
    }


def series(row: Row) -> str:
    """Which curves a row belongs to: its kind, or eval/dev for an evaluation set that is not called eval."""
    if row["kind"] == "eval" and row["set"] != "eval":
        return f"eval/{row['set']}"
    return str(row["kind"])


def encode(row: Row) -> bytes:
    """One line of strict JSON. NaN and the infinities, which JSON does not know, become null."""
    plain = {
        key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in row.items()
    }
    return json.dumps(plain, ensure_ascii=False, allow_nan=False).encode("utf-8", "backslashreplace") + b"\n"


def read(path: Path) -> list[dict[str, Any]]:
    """All rows of a metrics.jsonl, also of one that is being written; what is torn or unreadable is left out.

    A missing file has no rows. Raises OSError when the file is there and can't be read.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return []
    rows = []
    for line in content.split(b"\n"):
        with contextlib.suppress(ValueError):  # JSON and Unicode errors are both ValueErrors
            row = json.loads(line)
            if isinstance(row, dict):
                rows.append(row)
    return rows


class MetricsFile:
    """Appends rows to metrics.jsonl, after dropping those that a run resumed at `resume_step` makes again.

    Rows at steps <= resume_step are kept, and a train or eval row that equals a kept one in kind, set and step is not
    written a second time. Without a resume step the run starts from nothing, and so does the file.
    """

    def __init__(self, path: Path, resume_step: int | None) -> None:
        self._path = path
        self._resume_step = resume_step
        self._file = -1  # descriptor; -1 while the file could not be trimmed and opened
        self._end_bytes = 0  # everything up to here is whole rows
        self._torn = False
        self._waiting: deque[bytes] = deque()
        self._kept = {
            (series(row), row["step"])
            for row in _rows_to_keep(path, resume_step)
            if row.get("kind") in ("train", "eval") and row["step"] == resume_step
        }

    @property
    def n_waiting(self) -> int:
        """Rows that are not on the disk yet."""
        return len(self._waiting)

    def holds(self, row: Row) -> bool:
        """Whether this row was kept from before the restart."""
        return (series(row), row["step"]) in self._kept

    def append(self, row: Row) -> OSError | None:
        """Writes the row, and those that wait. Returns what kept them from the disk, or None when all are written."""
        if not self.holds(row):
            self._waiting.append(encode(row))
        return self._write_waiting()

    def close(self) -> OSError | None:
        """One last try for the rows that wait, then fsync. Returns what went wrong, or None."""
        trouble = self._write_waiting()
        if self._file >= 0:
            try:
                os.fsync(self._file)
            except OSError as error:
                trouble = trouble or error
            os.close(self._file)
            self._file = -1
        return trouble

    def _write_waiting(self) -> OSError | None:
        try:
            if self._file < 0:
                self._trim_and_open()
            while self._waiting:
                self._write(self._waiting[0])
                self._waiting.popleft()
        except OSError as error:
            return error
        return None

    def _trim_and_open(self) -> None:
        kept = b"".join(encode(row) for row in _rows_to_keep(self._path, self._resume_step))
        if (
            self._path.exists()
        ):  # another file of that name: a process that was thought to be gone appends to the old one
            write_atomic(self._path, kept)
        self._file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        self._end_bytes = len(kept)

    def _write(self, line: bytes) -> None:
        if self._torn:  # a full disk took the front of a row: cut it off before the row is written again
            os.ftruncate(self._file, self._end_bytes)
        self._torn = True
        if os.write(self._file, line) < len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._torn = False
        self._end_bytes += len(line)


def _rows_to_keep(path: Path, resume_step: int | None) -> list[dict[str, Any]]:
    if resume_step is None:
        return []
    return [row for row in read(path) if type(row.get("step")) is int and row["step"] <= resume_step]
