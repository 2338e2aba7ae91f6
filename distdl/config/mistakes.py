"""Pydantic's errors in the reader's words: file and line, the key, what it should be, what was given, what was meant.

rn50.yaml:3: unknown key 'data.batch_szie' - did you mean train.global_batch?
rn50.yaml:5: optim.lr: should be greater than 0 (got -3)
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from distdl.config import addresses, keys
from distdl.config.layout import flow
from distdl.config.tree import Mistake, Node, Path, Place, dotted
from distdl.errors import did_you_mean

KINDS = {
    "int_type": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "text",
    "list_type": "a list",
    "tuple_type": "a list",
    "dict_type": "a mapping of keys",
    "model_type": "a mapping of keys",
}
LONGEST_SHOWN = 60  # characters of a wrong value


def explain(error: ValidationError, given: Mapping[str, Any], tree: Node, file: Place) -> list[Mistake]:
    """One mistake for each wrong key of `given`; `tree` has their places, and what is missing is missing in `file`."""
    by_key: dict[Path, list[ErrorDetails]] = {}  # several errors for one key: the alternatives of a union
    for details in error.errors(include_url=False):
        by_key.setdefault(_path(details, given), []).append(details)

    found: list[Mistake] = []
    meant: list[str] = []
    for path, errors in by_key.items():
        kind = errors[0]["type"]
        if kind == "extra_forbidden":
            suggested = keys.suggestions(path)
            meant += suggested
            found.append(Mistake(_place(path, tree), _unknown(path, suggested)))
        elif kind != "missing":
            name = f"{dotted(path)}: " if path else ""
            found.append(Mistake(_place(path, tree), name + _problem(errors)))
    for path, errors in by_key.items():
        # A required key that is there with a typo is one mistake, not two.
        if errors[0]["type"] == "missing" and not any(f"{dotted(path)}.".startswith(f"{key}.") for key in meant):
            field = keys.fields_at(path[:-1]).get(str(path[-1]))
            description = f" ({field.description})" if field else ""
            found.append(Mistake(file, f"missing key '{dotted(path)}'{description}"))
    return found


def _path(details: ErrorDetails, given: Mapping[str, Any]) -> Path:
    """Where in `given` an error is: its loc without the parts that name an alternative of a union (int, <several>)."""
    path: list[str | int] = []
    value: Any = given
    for part in details["loc"]:
        if isinstance(value, Mapping) and part in value:
            value = value[str(part)]
        elif isinstance(value, Sequence) and isinstance(part, int) and part < len(value):
            value = value[part]
        else:
            continue
        path.append(part)
    if details["type"] == "missing":  # of two keys that would do, the error itself names one
        path.append(details.get("ctx", {}).get("key", details["loc"][-1]))
    return tuple(path)


def _place(path: Path, tree: Node) -> Place:
    node = tree
    for part in path:
        if isinstance(node.value, dict) and part in node.value:
            node = node.value[str(part)]
        elif isinstance(node.value, list) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
    return node.place


def _unknown(path: Path, suggested: Sequence[str]) -> str:
    problem = f"unknown key '{dotted(path)}'"
    if suggested:
        return f"{problem} - did you mean {' or '.join(suggested)}?"
    section = f"'{dotted(path[:-1])}'" if path[:-1] else "a config"
    return f"{problem} ({section} has: {', '.join(keys.fields_at(path[:-1]))})"


def _problem(errors: Sequence[ErrorDetails]) -> str:
    first = errors[0]
    value = first["input"]
    value = addresses.shown(value) if isinstance(value, str) else value
    got = repr(value) if isinstance(value, str) else flow(value)
    got = got if len(got) <= LONGEST_SHOWN else got[:LONGEST_SHOWN] + " ..."
    if first["type"] == "value_error":  # raised by the schema's own validators, in words meant for the reader
        problem = str(first["ctx"]["error"])
        is_told = isinstance(value, dict | list | None) or (isinstance(value, str) and got in problem)
        return problem if is_told else f"{problem} (got {got})"
    wanted = " or ".join(dict.fromkeys(_wanted(details) for details in errors)).replace(" or be ", " or ")
    choices = [word for details in errors for word in _choices(details)]
    return f"should {wanted} (got {got}){did_you_mean(value, choices) if isinstance(value, str) else ''}"


def _wanted(details: ErrorDetails) -> str:
    if details["type"] in KINDS:
        return f"be {KINDS[details['type']]}"
    return details["msg"].partition("should ")[2] or details["msg"]


def _choices(details: ErrorDetails) -> list[str]:
    return re.findall(r"'([^']*)'", details["ctx"]["expected"]) if details["type"] == "literal_error" else []
