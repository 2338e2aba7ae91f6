"""What a check has found, and how it is told: a line each, and below one that is not ok what to do."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from distdl.errors import EXIT_BUG, EXIT_DONE

State = Literal["ok", "warning", "failed"]

_MOST_ALIKE = 4  # lines of a check that is well on all machines, each time in other words
_STATES: tuple[State, ...] = ("ok", "warning", "failed")  # from good to bad


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    name: str
    state: State
    text: str
    fix: str = ""
    details: list[str] = field(default_factory=list)  # shown below the line, whatever its state
    values: dict[str, Any] = field(default_factory=dict)  # for programs
    hosts: list[str] = field(default_factory=list)  # where it was found; none: on all

    def as_row(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> "Check":
        return cls(**row)


Values = Mapping[str, Any]


def ok(name: str, text: str, *, details: Sequence[str] = (), values: Values | None = None) -> Check:
    return Check(name=name, state="ok", text=text, details=list(details), values=dict(values or {}))


def warning(name: str, text: str, fix: str, *, details: Sequence[str] = (), values: Values | None = None) -> Check:
    return Check(name=name, state="warning", text=text, fix=fix, details=list(details), values=dict(values or {}))


def failed(name: str, text: str, fix: str, *, details: Sequence[str] = (), values: Values | None = None) -> Check:
    return Check(name=name, state="failed", text=text, fix=fix, details=list(details), values=dict(values or {}))


def worst(name: str, text: str, faults: Sequence[tuple[State, str, str]], values: Values | None = None) -> Check:
    """One line for something that may have several faults: (how bad, what, what to do). `text`: if there are none."""
    if not faults:
        return ok(name, text, values=values)
    state = max((how_bad for how_bad, _, _ in faults), key=_STATES.index)
    what = "; ".join(dict.fromkeys(what for _, what, _ in faults))
    fix = "\n".join(dict.fromkeys(fix for _, _, fix in faults))
    return Check(name=name, state=state, text=what, fix=fix, values=dict(values or {}))


def exit_code(checks: Sequence[Check]) -> int:
    """0, also with warnings; 1 if something has failed."""
    return EXIT_BUG if any(check.state == "failed" for check in checks) else EXIT_DONE


def merge(by_host: Mapping[str, Sequence[Check]]) -> list[Check]:
    """The checks of all hosts, each once where the hosts say the same, and with their names where they differ."""
    merged: dict[tuple[str, State, str], Check] = {}
    order = list(dict.fromkeys(check.name for checks in by_host.values() for check in checks))
    for host, checks in by_host.items():
        for check in checks:
            key = (check.name, check.state, check.text)
            before = merged.get(key)
            merged[key] = replace(before or check, hosts=[*(before.hosts if before else []), host])
    alike = [replace(each, hosts=[]) if len(each.hosts) == len(by_host) else each for each in merged.values()]
    return sorted(alike, key=lambda check: order.index(check.name))


def shown(checks: Sequence[Check]) -> str:
    width = max((len(check.name) for check in checks), default=0)
    indent = " " * (len("warning") + width + 4)
    lines: list[str] = []
    for check in _without_repeats(checks):
        where = f"  [{', '.join(check.hosts)}]" if check.hosts else ""
        lines.append(f"{check.state:<7}  {check.name:<{width}}  {check.text}{where}")
        lines += [f"{indent}{detail}" for detail in check.details]
        if check.state != "ok":
            lines += [f"{indent}-> {line}" for line in check.fix.splitlines()]
    n_bad = {state: sum(check.state == state for check in checks) for state in _STATES}
    lines.append(f"\n{n_bad['ok']} ok, {n_bad['warning']} to look at, {n_bad['failed']} failed")
    return "\n".join(lines)


def _without_repeats(checks: Sequence[Check]) -> Iterator[Check]:
    """What is well on many machines, on each in other words, is not told of all of them."""
    alike: dict[str, int] = {}
    for check in checks:
        if check.state == "ok" and check.hosts:
            alike[check.name] = alike.get(check.name, 0) + 1
            if alike[check.name] == _MOST_ALIKE + 1:
                yield ok(check.name, "and so on, on the other machines (--json tells all)")
            if alike[check.name] > _MOST_ALIKE:
                continue
        yield check
