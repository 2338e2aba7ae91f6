"""The head of a report: what came of each run, in large figures for one run and as a table for several."""

import time
from collections import Counter
from typing import Any

from distdl.report.markup import Html, element, join, table
from distdl.report.record import Record, Row, number
from distdl.report.timing import samples_per_second
from distdl.track.console import duration, metric_text, rate_text
from distdl.track.jsonl import NOT_METRICS

_ON_TILES = ("state", "best", "length", "training time", "speed")


def render(records: list[Record]) -> Html:
    facts = {record.label: _facts(record) for record in records}
    names = dict.fromkeys(name for each in facts.values() for name in each)
    if len(records) == 1:
        entries = (_entry(name, fact) for name, fact in facts[records[0].label].items() if name not in _ON_TILES)
        return join([_tiles(records[0]), element("dl", *entries, class_="card")])
    head = ["", *(record.label for record in records)]
    rows = [[name, *(facts[record.label].get(name, "–") for record in records)] for name in names]
    return element("div", table(head, rows, class_="facts side-by-side"), class_="card")


def _entry(name: str, fact: str) -> Html:
    return element("div", element("dt", name), element("dd", fact), class_="wide" if name == "command" else None)


def state_badge(state: str) -> Html:
    good, bad = ("done", "running"), ("failed", "killed")
    return element("span", state, class_=f"badge {'good' if state in good else 'bad' if state in bad else 'fair'}")


def _tile(value: str, label: str) -> Html:
    return element("div", element("strong", value), element("span", label), class_="tile")


def value_text(metric: str, value: Any) -> str:
    """A metric's value as the console prints it: `98.90 %`, `0.034`."""
    return metric_text(metric, value).removeprefix(f"{metric} ")


def shown_metrics(row: Row) -> dict[str, str]:
    """The metrics of an evaluation row as text, the loss last."""
    metrics = {key: value for key, value in row.items() if key not in NOT_METRICS and number(value) is not None}
    return {key: value_text(key, metrics[key]) for key in sorted(metrics, key=lambda key: key == "loss")}


def _tiles(record: Record) -> Html:
    tiles = []
    if best := record.best:
        metric = str(best.get("metric"))
        tiles.append(_tile(value_text(metric, best["value"]), f"best {metric}, step {best.get('step')}"))
    for name, row in list(record.last_evaluations.items())[:2]:
        of_set = "" if name == "eval" else f" on {name}"
        tiles += [_tile(text, f"last {metric}{of_set}") for metric, text in shown_metrics(row).items()][:2]
    rate = samples_per_second(record)
    if rate is not None:
        tiles.append(_tile(f"{rate:,.0f}", "samples per second"))
    if record.rows:
        tiles.append(_tile(duration(record.seconds), "training time"))
        tiles.append(_tile(f"{record.rows[-1]['step']:,}", _steps_of(record.rows[-1])))
    return element("div", *tiles, class_="tiles")


def _facts(record: Record) -> dict[str, str | Html]:
    facts: dict[str, str | Html] = {"state": state_badge(record.state)}
    if best := record.best:
        facts["best"] = f"{metric_text(str(best.get('metric')), best['value'])} at step {best.get('step')}"
    for name, row in record.last_evaluations.items():
        metrics = ", ".join(f"{metric} {text}" for metric, text in shown_metrics(row).items())
        facts["last evaluation" if name == "eval" else f"last evaluation on {name}"] = f"{metrics} (step {row['step']})"
    if train := record.of_kind("train"):
        facts["last training loss"] = value_text("loss", train[-1].get("loss"))
    if record.rows:
        facts["length"] = f"{record.rows[-1]['step']:,} {_steps_of(record.rows[-1])}"
        facts["training time"] = duration(record.seconds)
    rate = samples_per_second(record)
    if rate is not None:
        facts["speed"] = rate_text(rate)
    return facts | _setting(record)


def _setting(record: Record) -> dict[str, str | Html]:
    """What ran, where and when."""
    facts: dict[str, str | Html] = {}
    config, environment = record.config, record.environment
    if config is not None:
        facts["network"] = config.model.name
        facts["task"] = config.task.name
        facts["data"] = config.data.train.source
        facts["global batch"] = f"{config.train.global_batch:,}"
        facts["optimiser"] = f"{config.optim.name}, lr {config.optim.lr:g}"
        facts["precision"] = config.train.precision
    workers = environment.get("workers")
    if isinstance(workers, list) and all(isinstance(worker, dict) for worker in workers):
        by_device = Counter(f"{worker.get('device')} on {worker.get('host')}" for worker in workers)
        facts["workers"] = ", ".join(f"{n} × {device}" for device, n in by_device.items())
    earlier = environment.get("earlier")
    starts = [each.get("started") for each in earlier if isinstance(each, dict)] if isinstance(earlier, list) else []
    starts.append(environment.get("started"))
    if starts[0]:
        facts["started"] = _moment(str(starts[0])) + (f", {len(starts)} launches" if len(starts) > 1 else "")
    if environment.get("git"):
        commit, _, changes = str(environment["git"]).partition("+")
        facts["git commit"] = commit[:12] + (" with changes" if changes else "")
    if environment.get("command"):
        facts["command"] = element("code", str(environment["command"]))
    return facts


def _steps_of(row: Row) -> str:
    epoch = number(row.get("epoch"))
    return "steps" if epoch is None else f"steps, {epoch:.4g} epochs"


def _moment(text: str) -> str:
    """2026-11-21T13:53:10+0000 -> 2026-11-21 13:53; any other text as it is."""
    try:
        return time.strftime("%Y-%m-%d %H:%M", time.strptime(text[:16], "%Y-%m-%dT%H:%M"))
    except ValueError:
        return text
