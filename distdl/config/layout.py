"""A resolved config as lines of YAML, in the order of the schema: what `dump` writes and `show` puts comments on."""

import math
from dataclasses import dataclass
from typing import Any

import yaml
from pydantic import BaseModel

from distdl.config.schema import Config
from distdl.config.tree import add_our_words

WIDTH = 120


@dataclass(frozen=True, slots=True)
class Line:
    path: tuple[str, ...]  # the key that the line begins; () for an item of a list
    text: str
    description: str = ""
    is_header: bool = False  # opens a section or a mapping: its values are in the lines below


def dump(config: Config) -> str:
    """The whole config as YAML, defaults included; `load` reads an equal config back."""
    return "".join(f"{line.text}\n" for line in lines(config))


def lines(section: BaseModel, path: tuple[str, ...] = (), *, changed_only: bool = False) -> list[Line]:
    """The lines of a section and all below it; with `changed_only` only what differs from the schema's defaults."""
    found: list[Line] = []
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        if changed_only and not field.is_required() and value == field.get_default(call_default_factory=True):
            continue
        found += _key_lines((*path, name), value, field.description or "", changed_only)
    return found


def _key_lines(path: tuple[str, ...], value: Any, description: str, changed_only: bool) -> list[Line]:
    indent = "  " * (len(path) - 1)
    head = f"{indent}{flow(path[-1])}:"
    inside: list[Line] = []
    if isinstance(value, BaseModel):
        inside, value = lines(value, path, changed_only=changed_only), {}
    elif isinstance(value, dict):
        inside = [line for name, item in value.items() for line in _key_lines((*path, name), item, "", changed_only)]
    if inside:
        return [Line(path, head, description, is_header=True), *inside]
    one_line = f"{head} {flow(value)}"
    if isinstance(value, list) and value and len(one_line) > WIDTH:
        return [Line(path, head, description), *(Line((), f"{indent}  - {flow(item)}") for item in value)]
    return [Line(path, one_line, description)]


def flow(value: Any) -> str:
    """A value as YAML on one line: 0.1, 'off', [a, b], {pad: 2}."""
    # In a list, because a bare word would get an end-of-document mark.
    in_a_list = yaml.dump(
        [value], Dumper=_Dumper, default_flow_style=True, sort_keys=False, allow_unicode=True, width=math.inf
    )
    return in_a_list.strip()[1:-1]


class _Dumper(yaml.SafeDumper):
    """Quotes what either YAML 1.1 (inherited here) or our own reader would not take for text."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def text(self, text: str) -> yaml.ScalarNode:
        style = None if text.splitlines() in ([], [text]) else '"'  # any other style would break the line
        return self.represent_scalar("tag:yaml.org,2002:str", text, style=style)


add_our_words(_Dumper)
_Dumper.add_representer(str, _Dumper.text)
