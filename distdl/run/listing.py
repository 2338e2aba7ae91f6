"""`distdl runs`: every run here, what became of it, and its last numbers."""

import json
import time
from pathlib import Path
from typing import Any

from distdl.run import lease
from distdl.run.folder import RunFolder, runs_root

Row = dict[str, Any]


def list_runs(root: Path | None = None) -> list[Row]:
    """Name, state, step, epoch, last metrics and time of the last change of each run, newest first.

    state: running (somebody holds its lease), the outcome in final.json, failed (a worker left a record), or killed.
    """
    folders = [RunFolder(path.parent) for path in (root or runs_root()).glob("*/run.json")]
    return sorted((_row(folder) for folder in folders), key=lambda row: -row["changed"])


def format_runs(rows: list[Row]) -> str:
    if not rows:
        return f"no runs in {runs_root()}/ yet; start one: distdl train configs/digits/lenet5.yaml --nproc 2"
    cells = [("run", "state", "step", "epoch", "last evaluation", "changed")]
    for row in rows:
        last = row["eval"] or {}
        shown = [f"{name} {value:.4f}" for name, value in last.items() if name in ("top1", "loss", "wer", "miou")]
        changed = time.strftime("%Y-%m-%d %H:%M", time.localtime(row["changed"]))
        epoch = "" if row["epoch"] is None else f"{row['epoch']:.2f}"
        step = "" if row["step"] is None else str(row["step"])
        cells.append((row["run"], row["state"], step, epoch, ", ".join(shown), changed))
    widths = [max(len(line[column]) for line in cells) for column in range(len(cells[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in cells)


def _row(folder: RunFolder) -> Row:
    final = _read_json(folder.final)
    rows = _metrics(folder)
    last = {kind: next((row for row in reversed(rows) if row["kind"] == kind), None) for kind in ("train", "eval")}
    newest = rows[-1] if rows else {}
    if lease.holder(folder) is not None:  # it is {} while the holder writes its name
        state = "running"
    elif "outcome" in final:
        state = str(final["outcome"])
    else:
        state = "failed" if any(folder.failures.glob("*.json")) else "killed"
    changed = (folder.metrics if folder.metrics.exists() else folder.identity).stat().st_mtime
    place = {"step": final.get("steps", newest.get("step")), "epoch": final.get("epochs", newest.get("epoch"))}
    return {"run": folder.name, "state": state, **place, **last, "best": final.get("best"), "changed": changed}


def _metrics(folder: RunFolder) -> list[Row]:
    rows = []
    if folder.metrics.exists():
        for line in folder.metrics.read_bytes().splitlines():
            try:
                row = json.loads(line)
            except ValueError:
                continue  # a torn last line
            if isinstance(row, dict) and {"kind", "step"} <= row.keys():
                rows.append(row)
    return rows


def _read_json(path: Path) -> Row:
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}
