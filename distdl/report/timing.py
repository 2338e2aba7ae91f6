"""Where the time of a run goes: the parts of a step, evaluations, and what is left of the clock for saves and pauses.

A train row holds means per step since the row before, on the clock of rank 0: `data_wait_s`, `forward_s`, ... and
`step_s`, the whole. What the parts don't explain is the rest of the step; rows of older runs know only the data wait.
"""

from collections.abc import Sequence
from typing import Any

from distdl.report.curves import rounded, stretches
from distdl.report.record import Record, Row, number

STEP_PARTS = {
    "data_wait_s": "waiting for data",
    "forward_s": "forward",
    "backward_s": "backward",
    "exchange_s": "exchange of gradients",
    "update_s": "update",
}
REST, EVALUATION, PAUSES = "rest of the step", "evaluation", "saving and pauses"
ALL_PARTS = (*STEP_PARTS.values(), REST, EVALUATION, PAUSES)  # a part's place here is its colour

_MOST_POINTS = 300


def total_seconds(record: Record) -> dict[str, float]:
    """Seconds of each part over the run, in the order of ALL_PARTS; parts without any are left out."""
    spent = dict.fromkeys(ALL_PARTS, 0.0)
    for row, n_steps in _with_steps(record.of_kind("train")):
        for part, seconds in step_parts(row).items():
            spent[part] += n_steps * seconds
    spent[EVALUATION] = sum(number(row.get("eval_s")) or 0.0 for row in record.of_kind("eval"))
    spent[PAUSES] = max(0.0, record.seconds - sum(spent.values())) if any(spent.values()) else 0.0
    return {part: seconds for part, seconds in spent.items() if seconds > 0}


def over_the_run(record: Record) -> dict[str, Any] | None:
    """The parts of a step as curves: mean seconds per step over stretches of the run; None without train rows."""
    rows = _with_steps(record.of_kind("train"))
    if not rows:
        return None
    parts = [rows[part] for part in stretches(len(rows), min(_MOST_POINTS, len(rows)))]
    means = [_mean_parts(part) for part in parts]
    there = [part for part in ALL_PARTS if any(mean.get(part) for mean in means)]
    last = [part[-1][0] for part in parts]
    return {
        "step": [row["step"] for row in last],
        "epoch": [rounded(row.get("epoch"), 7) for row in last],
        "time": [rounded(row.get("time_s"), 7) for row in last],
        "values": {part: [rounded(mean.get(part, 0.0)) for mean in means] for part in there},
    }


def step_parts(row: Row) -> dict[str, float]:
    """Seconds per step of each part of a train row. Parts measured on a device may add up to more than the step."""
    parts = {text: number(row.get(key)) or 0.0 for key, text in STEP_PARTS.items()}
    return parts | {REST: max(0.0, (number(row.get("step_s")) or 0.0) - sum(parts.values()))}


def samples_per_second(record: Record) -> float | None:
    """Over all steps, without evaluations and saves."""
    rows = _with_steps(record.of_kind("train"))
    seconds = sum(n_steps * (number(row.get("step_s")) or 0.0) for row, n_steps in rows)
    return (number(rows[-1][0].get("samples")) or 0.0) / seconds if seconds else None


def _with_steps(rows: Sequence[Row]) -> list[tuple[Row, int]]:
    """Each train row with the number of steps that it is the mean of."""
    before = [0, *(row["step"] for row in rows)]
    return [(row, max(0, row["step"] - step)) for row, step in zip(rows, before)]


def _mean_parts(stretch: Sequence[tuple[Row, int]]) -> dict[str, float]:
    n_steps = max(1, sum(n for _, n in stretch))
    total: dict[str, float] = {}
    for row, n in stretch:
        for part, seconds in step_parts(row).items():
            total[part] = total.get(part, 0.0) + n * seconds / n_steps
    return total
