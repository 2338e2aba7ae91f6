"""metrics.jsonl as curves: which panels there are, and the points that a screen can show of them.

Rows of one kind (and evaluation set) are a group: columns of one length, which share their places on the three x axes.

    rows -> groups {"train": {step, epoch, time, values: {loss: [...], ...}}, ...} -> thinned -> JSON for report.js

A group of more than MOST_POINTS rows is cut into stretches, each drawn as its smallest and largest value: narrower than
a pixel of an unzoomed panel, so the picture is that of all points.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from distdl.report.record import Record, Row, number
from distdl.track import jsonl
from distdl.track.console import metric_text

MOST_POINTS = 2000
MOST_EVENTS = 300

_TITLES = {
    "lr": "learning rate",
    "samples_per_s": "samples per second",
    "grad_norm": "norm of the gradient",
    "mfu": "model FLOPs utilisation",
    "peak_memory_bytes": "peak memory",
}

Column = list[float | None]
Group = dict[str, Any]  # step, epoch, time: a column each; values: {metric: column}


def groups(record: Record) -> dict[str, Group]:
    """The curves of a run, thinned; the parts of a step's time are left to `timing`."""
    rows_of: dict[str, list[Row]] = {}
    for row in record.rows:
        if row["kind"] != "event":
            rows_of.setdefault(jsonl.series(row), []).append(row)
    return {name: thinned(_columns(rows, _is_curve), low_and_high) for name, rows in rows_of.items()}


def panels(all_groups: Iterable[dict[str, Group]]) -> list[dict[str, str | bool]]:
    """{metric, title, unit, part, noisy} of each panel: the loss, evaluation, then training; "system" is a part alone.

    Smoothing is for what is noisy: it would only bend and delay a learning rate.
    """
    named = [(name, group) for each in all_groups for name, group in each.items()]
    part_of: dict[str, str] = {}
    for name, group in sorted(named, key=lambda item: _rank(item[0])):
        for metric in group["values"]:
            part_of.setdefault(metric, "system" if name == "system" else "curves")
    return [
        {
            "metric": metric,
            "title": _TITLES.get(metric, metric.replace("_bytes", "").replace("_", " ")),
            "unit": unit(metric),
            "part": part_of[metric],
            "noisy": metric != "lr",
        }
        for metric in sorted(part_of, key=lambda metric: metric != "loss")
    ]


def events(record: Record) -> list[Row]:
    """The first MOST_EVENTS events: resumed, bad samples, ..."""
    return [
        {**_place(row), "name": str(row.get("event", "event")), "message": str(row.get("message") or "")}
        for row in record.of_kind("event")[:MOST_EVENTS]
    ]


def unit(metric: str) -> str:
    if metric == "mfu" or metric_text(metric, 0.5).endswith("%"):
        return "percent"
    return "bytes" if metric.endswith(("_bytes", "_bytes_per_s")) else ""


# --- thinning ---


def thinned(group: Group, merge: Callable[[Sequence[float | None]], Column], most: int = MOST_POINTS) -> Group:
    """The group in at most `most` points. `merge` turns a stretch of a column into two values, for its two ends."""
    n_rows = len(group["step"])
    if n_rows <= most:
        return group
    parts = stretches(n_rows, most // 2)

    def ends(column: Column) -> Column:
        return [value for part in parts for value in (column[part][0], column[part][-1])]

    values = {
        metric: [value for part in parts for value in merge(column[part])] for metric, column in group["values"].items()
    }
    return {axis: ends(group[axis]) for axis in ("step", "epoch", "time")} | {"values": values}


def stretches(n_rows: int, n: int) -> list[slice]:
    """n_rows cut into n parts whose lengths differ by at most one."""
    return [slice(n_rows * i // n, n_rows * (i + 1) // n) for i in range(n)]


def low_and_high(stretch: Sequence[float | None]) -> Column:
    """Smallest and largest value in the order in which they come; a stretch without any is a gap."""
    known = [value for value in stretch if value is not None]
    if not known:
        return [None, None]
    low, high = min(known), max(known)
    return [low, high] if known.index(low) <= known.index(high) else [high, low]


# --- columns ---


def _columns(rows: Sequence[Row], wanted: Callable[[str], bool]) -> Group:
    metrics = dict.fromkeys(
        key for row in rows for key, value in row.items() if wanted(key) and number(value) is not None
    )
    places = [_place(row) for row in rows]
    return {
        **{axis: [place[axis] for place in places] for axis in ("step", "epoch", "time")},
        "values": {metric: [rounded(row.get(metric)) for row in rows] for metric in metrics},
    }


def _place(row: Row) -> dict[str, Any]:
    return {"step": row["step"], "epoch": rounded(row.get("epoch"), 7), "time": rounded(row.get("time_s"), 7)}


def rounded(value: Any, digits: int = 5) -> float | None:
    """As many digits as a curve can show: the file is a third of the size."""
    known = number(value)
    return None if known is None else float(f"{known:.{digits}g}")


def _is_curve(key: str) -> bool:
    return key not in jsonl.NOT_METRICS and not _is_time(key)


def _is_time(key: str) -> bool:
    return key.endswith("_s") and not key.endswith("_per_s")


def _rank(group: str) -> int:
    return 0 if group.startswith("eval") else 1 if group == "train" else 2
