"""`distdl runs`: every run here, what became of it, and its numbers; picked by state, name or config, and sorted.

    runs/*/ -> list_runs (run.json, final.json, the end of metrics.jsonl) -> values_of (+ config.yaml, where a key is
    asked for) -> conditions, order -> a table or JSON

What a key names: run, state, step, epoch, changed; best; a metric of the last evaluation, else of the last training row
(top1, loss, samples_per_s); a key of the config (optim.lr).
"""

import argparse
import json
import operator
import re
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from distdl.errors import EXIT_DONE, UserError, did_you_mean
from distdl.run import lease
from distdl.run.folder import RunFolder
from distdl.run.places import runs_root

Row = dict[str, Any]

_TAIL_BYTES = (1 << 16, 1 << 20, 1 << 24)  # of metrics.jsonl, more and more of it until there is an evaluation
_NO_METRICS = ("kind", "set", "step", "epoch", "samples", "time_s", "count", "eval_s", "bad")
_MOST_METRICS = 3  # of an evaluation, in the table
_CONDITION = re.compile(r"(?P<key>[\w.-]+)\s*(?P<sign>!=|>=|<=|=|>|<)(?P<value>.*)")
_SIGNS: dict[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq,
    "!=": operator.ne,
    ">": operator.gt,
    "<": operator.lt,
    ">=": operator.ge,
    "<=": operator.le,
}


# --- the command ---


def add_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("--state", metavar="S[,S]", help="only these: running, done, failed, killed, preempted, ...")
    command.add_argument("--name", default="*", metavar="GLOB", help="only runs of this name, such as 'lenet*'")
    command.add_argument(
        "--where",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="only where a config key or a metric is so: optim.lr=0.1, top1>0.9, optim.name!=sgd; may be given again",
    )
    command.add_argument("--sort", metavar="KEY", help="smallest first: best, run, a metric or key (default: newest)")
    command.add_argument("--reverse", action="store_true", help="the other way round")
    command.add_argument("--columns", metavar="KEY[,KEY]", help="config keys and metrics to show")
    command.add_argument("--json", action="store_true", help="for programs")


def run(arguments: argparse.Namespace) -> int:
    columns = _comma_separated(arguments.columns)
    rows = select(
        list_runs(name=arguments.name),
        states=_comma_separated(arguments.state),
        where=arguments.where,
        sort=arguments.sort,
        reverse=arguments.reverse,
        columns=columns,
    )
    print(json.dumps(rows, indent=2) if arguments.json else format_runs(rows, columns))
    return EXIT_DONE


def _comma_separated(text: str | None) -> list[str]:
    return [part.strip() for part in (text or "").split(",") if part.strip()]


# --- what is known of a run ---


def list_runs(root: Path | None = None, name: str = "*") -> list[Row]:
    """Name, state, step, epoch, last metrics and time of the last change of each run, newest first.

    state: running (somebody holds its lease), the outcome in final.json, failed (a worker left a record), killed, not
    started (it waits in a queue, or has died before it began).
    """
    folders = [RunFolder(path.parent) for path in (root or runs_root()).glob(f"{name}/run.json")]
    return sorted((describe(folder) for folder in folders), key=lambda row: -row["changed"])


def describe(folder: RunFolder) -> Row:
    """A row of `list_runs`."""
    final = read_json(folder.final)
    newest, last = _last_rows(folder.metrics)
    if lease.holder(folder) is not None:  # it is {} while the holder writes its name
        state = "running"
    elif "outcome" in final:
        state = str(final["outcome"])
    else:
        has_begun = folder.environment.exists() or folder.metrics.exists()
        state = "failed" if any(folder.failures.glob("*.json")) else "killed" if has_begun else "not started"
    changed = (folder.metrics if folder.metrics.exists() else folder.identity).stat().st_mtime
    place = {"step": final.get("steps", newest.get("step")), "epoch": final.get("epochs", newest.get("epoch"))}
    best = final.get("best") or _best_so_far(folder)
    return {
        "run": folder.name,
        "folder": str(folder.path),
        "state": state,
        **place,
        **last,
        "best": best,
        "changed": changed,
    }


def read_json(path: Path) -> Row:
    """What a JSON file holds; {} where it is missing, damaged, or something else than a mapping."""
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def read_config(folder: RunFolder) -> Row:
    """The resolved config as it is written, unchecked: of a run of another version too. {} if it can't be read."""
    import yaml

    try:
        # In C where PyYAML was built with it: 0.6 ms instead of 4.
        value = yaml.load(folder.config.read_bytes(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return value if isinstance(value, dict) else {}


def _last_rows(path: Path) -> tuple[Row, dict[str, Row | None]]:
    """The newest row of a metrics.jsonl ({} without one), and the newest train and eval row; read from its end."""
    newest: Row = {}
    last: dict[str, Row | None] = {"train": None, "eval": None}
    for size in _TAIL_BYTES:
        newest, last = {}, {"train": None, "eval": None}
        try:
            with path.open("rb") as file:
                start = max(0, file.seek(0, 2) - size)
                file.seek(start)
                lines = file.read().splitlines()
        except OSError:
            break
        for line in reversed(lines[1:] if start else lines):
            if newest and not any(f'"{kind}"'.encode() in line for kind, row in last.items() if row is None):
                continue  # not worth decoding
            row = _decode(line)
            newest = newest or row
            if last.get(row.get("kind", ""), row) is None:
                last[row["kind"]] = row
        if not start or None not in last.values():
            break
    return newest, last


def _decode(line: bytes) -> Row:
    """A row; {} for a torn line."""
    try:
        row = json.loads(line)
    except ValueError:
        return {}
    return row if isinstance(row, dict) and {"kind", "step"} <= row.keys() else {}


def _best_so_far(folder: RunFolder) -> Row | None:
    """Of a run without a final.json: what its newest checkpoint knows."""
    manifests = sorted(folder.checkpoints.glob("step-*/manifest.json"))
    state = read_json(manifests[-1]).get("state") if manifests else None
    return state.get("train_state", {}).get("best") if isinstance(state, dict) else None


# --- picking and sorting ---


def select(
    rows: list[Row],
    *,
    states: Sequence[str] = (),
    where: Sequence[str] = (),
    sort: str | None = None,
    reverse: bool = False,
    columns: Sequence[str] = (),
) -> list[Row]:
    """The rows in one of the states for which all conditions hold, in order; each with the values of its `columns`.

    Rows without a value for the key of `sort` come last. Raises UserError for a condition that can't be read, and for
    a key that none of the runs has.
    """
    conditions = [_parse(text) for text in where]
    keys = [*(key for key, _, _ in conditions), *([sort] if sort else []), *columns]
    table = [(row, values_of(row, with_config=any("." in key for key in keys))) for row in rows]
    known = {key for _, values in table for key in values}
    for key in keys:
        if rows and key not in known:
            what = f"no run here has '{key}'{did_you_mean(key, known)}"
            own = sorted(name for name in known if "." not in name)
            fix = f"A run has: {', '.join(own)}, and every key of its config, such as optim.lr."
            raise UserError(what, where="command line", fix=fix)
    table = [
        (row, values)
        for row, values in table
        if (not states or row["state"] in states)
        and all(_holds(values.get(key), sign, wanted) for key, sign, wanted in conditions)
    ]
    if sort:
        table.sort(key=lambda each: _rank(each[1].get(sort)), reverse=reverse)
        table.sort(key=lambda each: each[1].get(sort) is None)
    elif reverse:
        table.reverse()
    return [{**row, "columns": {key: values.get(key) for key in columns}} for row, values in table]


def values_of(row: Row, with_config: bool) -> Row:
    """Everything that a key may name, by key."""
    config = _flat(read_config(RunFolder(Path(row["folder"])))) if with_config else {}
    metrics = {
        name: value
        for kind in ("train", "eval")
        for name, value in (row[kind] or {}).items()
        if name not in _NO_METRICS
    }
    best = (row["best"] or {}).get("value")
    return config | metrics | {key: row[key] for key in ("run", "state", "step", "epoch", "changed")} | {"best": best}


def _flat(value: Mapping[str, Any], prefix: str = "") -> Row:
    """{"optim": {"lr": 0.1}} -> {"optim.lr": 0.1}"""
    flat: Row = {}
    for name, item in value.items():
        key = f"{prefix}{name}"
        flat |= _flat(item, f"{key}.") if isinstance(item, dict) and item else {key: item}
    return flat


def _parse(text: str) -> tuple[str, str, str]:
    match = _CONDITION.fullmatch(text.strip())
    if not match:
        raise UserError(
            f"'{text}' is not a condition", where="command line --where", fix="Write optim.lr=0.1, or 'top1>0.9'."
        )
    key, sign, value = match["key"], match["sign"], match["value"].strip()
    if sign not in ("=", "!=") and _number(value) is None:
        raise UserError(f"'{value}' is not a number, so nothing is {sign} it", where=f"command line --where '{text}'")
    return key, sign, value


def _holds(value: Any, sign: str, wanted: str) -> bool:
    number = _number(wanted)
    if number is not None and isinstance(value, int | float) and not isinstance(value, bool):
        return _SIGNS[sign](value, number)
    return sign in ("=", "!=") and _SIGNS[sign](_text(value), wanted)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _rank(value: Any) -> tuple[bool, Any]:
    """Orders numbers before texts."""
    is_number = isinstance(value, int | float)
    return (not is_number, value if is_number else _text(value))


# --- the table ---


def format_runs(rows: list[Row], columns: Sequence[str] = ()) -> str:
    """A line for each run: with the best and the last evaluation, or instead of them with the `columns`."""
    if not rows:
        if any(runs_root().glob("*/run.json")):
            return f"none of the runs in {runs_root()}/ fits"
        return f"no runs in {runs_root()}/; start one: distdl train configs/digits/lenet5.yaml --nproc 2"
    middle = list(columns) or ["best", "last evaluation"]
    cells = [["run", "state", "step", "epoch", *middle, "changed"]]
    for row in rows:
        shown = [_text(row["columns"][key]) for key in columns] or [_best_text(row["best"]), _eval_text(row["eval"])]
        changed = time.strftime("%Y-%m-%d %H:%M", time.localtime(row["changed"]))
        epoch = "" if row["epoch"] is None else f"{row['epoch']:.2f}"
        step = "" if row["step"] is None else str(row["step"])
        cells.append([row["run"], row["state"], step, epoch, *shown, changed])
    widths = [max(len(line[column]) for line in cells) for column in range(len(cells[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in cells)


def _best_text(best: Row | None) -> str:
    return f"{best['metric']} {best['value']:.4f} at {best['step']}" if best else ""


def _eval_text(row: Row | None) -> str:
    metrics = {name: value for name, value in (row or {}).items() if name not in _NO_METRICS}
    return ", ".join(f"{name} {_text(value)}" for name, value in list(metrics.items())[:_MOST_METRICS])


def _text(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return f"{value:.4g}" if isinstance(value, float) else str(value)
