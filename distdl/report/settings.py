"""How runs were set: what their configs change and where they differ, their environments, and what went wrong."""

from collections.abc import Iterable
from typing import Any

from distdl.config.layout import flow, lines
from distdl.report.markup import Html, details, element, join, table
from distdl.report.record import Record

_ABSENT = "–"
_ELSEWHERE = ("command", "started", "earlier", "git_diff")  # of the environment: in the head, or a section of its own


def render_configs(records: list[Record]) -> Html:
    """For one run what differs from the defaults; for several the keys that differ, each run's own folded away."""
    if len(records) == 1:
        return _changes(records[0])
    found = [dict(_flat(record.written_config, "")) for record in records]
    rows = []
    for key in dict.fromkeys(key for values in found for key in values):
        of_runs = [values.get(key, _ABSENT) for values in found]
        if len(set(of_runs)) > 1:
            rows.append([key, *(element("code", value) for value in of_runs)])
    head = ["key", *(record.label for record in records)]
    compared = table(head, rows, class_="side-by-side") if rows else element("p", "These runs have the same config.")
    each = (details(f"{record.label}: what differs from the defaults", _changes(record)) for record in records)
    return join([element("div", compared, class_="card"), *each])


def render_environment(record: Record) -> Html:
    """What is one value in a table; mappings (packages, variables, ...), the workers and the git diff folded away."""
    if not record.environment:
        return element("p", "The run has left no environment.json.", class_="soft")
    known = {key: value for key, value in record.environment.items() if key not in _ELSEWHERE}
    values = {key: value for key, value in known.items() if not isinstance(value, dict | list)}
    mappings = {key: value for key, value in known.items() if isinstance(value, dict) and value}
    workers = known.get("workers")
    workers = [each for each in workers if isinstance(each, dict)] if isinstance(workers, list) else []
    columns = list(dict.fromkeys(key for worker in workers for key in worker))
    by_rank = [[str(rank), *(_text(worker.get(key)) for key in columns)] for rank, worker in enumerate(workers)]
    return join(
        [
            element("div", _pairs(values), class_="card"),
            *(details(f"{key.capitalize()}: {len(value)}", _pairs(value)) for key, value in mappings.items()),
            details(f"Workers: {len(by_rank)}", table(["rank", *map(str, columns)], by_rank)) if by_rank else None,
            details("Uncommitted changes", element("pre", record.git_diff)) if record.git_diff else None,
        ]
    )


def _pairs(values: dict[str, Any]) -> Html:
    return table((), [[key, _text(value)] for key, value in values.items()], class_="facts")


def render_failures(record: Record) -> Html:
    """Each worker's record of why it failed, the earliest first. Nothing if there is none."""
    by_time = sorted((each for each in record.failures if each), key=lambda each: str(each.get("time", "")))
    return join(
        details(
            f"rank {each.get('rank')} on {each.get('host')}, step {each.get('step')}: {_headline(each.get('message'))}",
            element("pre", str(each.get("traceback") or each.get("message") or "")),
        )
        for each in by_time
    )


def _changes(record: Record) -> Html:
    if record.config is None:
        return element("p", f"The config can't be read: {record.config_problem}", class_="warning")
    text = "\n".join(line.text for line in lines(record.config, changed_only=True))
    return element("pre", text, tabindex=0)


def _flat(value: Any, name: str) -> Iterable[tuple[str, str]]:
    """("optim.lr", "0.1"), ...; an empty mapping is a value."""
    if isinstance(value, dict) and value:
        for key, inside in value.items():
            yield from _flat(inside, f"{name}.{key}".lstrip("."))
    else:
        yield name, flow(value)


def _text(value: Any) -> str:
    return _ABSENT if value is None else str(value)


def _headline(text: Any) -> str:
    return str(text or "").strip().partition("\n")[0]
