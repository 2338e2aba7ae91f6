"""YAML text -> a tree whose every node knows where it was written: a file and its line, or an override.

Stricter and plainer than YAML 1.1. `true` and `false` alone are booleans (`off` and `yes` are text), `1e-3` is a
number, dates and numbers with leading zeros (`007`) are text, keys are always text, a key may be given once, and tags
such as !!python/object are refused. Anchors, aliases and `<<` work. Whatever is wrong is added to a list of mistakes,
so that one reading finds as many as it can.
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import yaml

MAX_DEPTH = 50  # of mappings and lists inside each other; pydantic gives up at 200, Python's stack not far beyond
COMMAND_LINE = 1_000_000  # orders overrides after all files


@dataclass(frozen=True, slots=True)
class Place:
    order: tuple[int, int]  # (number of the file, line), or (COMMAND_LINE, number of the override)
    text: str = field(compare=False)  # "configs/x.yaml:12", or "command line 'a.b=c'"

    @property
    def on_command_line(self) -> bool:
        return self.order[0] == COMMAND_LINE


@dataclass(frozen=True, slots=True)
class Mistake:
    place: Place
    text: str

    def __str__(self) -> str:
        """One line that can be printed, whatever bytes the command line held."""
        one_line = " ".join(f"{self.place.text}: {self.text}".splitlines())
        return one_line.encode(errors="backslashreplace").decode()


Scalar: TypeAlias = str | int | float | bool | None
Path: TypeAlias = tuple[str | int, ...]  # of a key: ('data', 'train', 'transforms', 0)


@dataclass(frozen=True, slots=True)
class Node:
    value: "dict[str, Node] | list[Node] | Scalar"
    place: Place


def plain(node: Node) -> Any:
    """The dicts, lists and scalars of a tree, without the places."""
    if isinstance(node.value, dict):
        return {name: plain(child) for name, child in node.value.items()}
    if isinstance(node.value, list):
        return [plain(child) for child in node.value]
    return node.value


def dotted(path: Path) -> str:
    """('data', 'train', 'transforms', 0) -> data.train.transforms[0]"""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).removeprefix(".")


def parse(text: str, at: Callable[[int], Place], mistakes: list[Mistake]) -> Node | None:
    """The tree of one YAML document; `at` gives the place of a line, counted from 1.

    None, with the reason in `mistakes`, if the text is not YAML or is empty. A value that is wrong by itself (a
    duplicate key, a tag) is left out of the tree.
    """
    try:
        document = yaml.compose(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        mistakes.append(Mistake(at(line), _syntax(error)))
        return None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        mistakes.append(Mistake(at(line), "not valid YAML: a character that can't be printed"))
        return None
    except RecursionError:
        mistakes.append(Mistake(at(1), "nested too deeply"))
        return None
    if document is None:
        mistakes.append(Mistake(at(1), "empty: nothing but blank lines and comments"))
        return None
    return _Reading(at, mistakes).node(document, at(1), ())


def _syntax(error: yaml.MarkedYAMLError) -> str:
    problem = error.problem or "something unexpected"
    if r"'\t'" in problem:
        return "not valid YAML: a tab; indent with spaces"
    context = f" ({error.context}" if error.context else ""
    if error.context_mark and error.problem_mark and error.context_mark.line != error.problem_mark.line:
        context += f" from line {error.context_mark.line + 1}"
    return f"not valid YAML: {problem}{context + ')' if context else ''}"


# --- scalars ---

_TAG = "tag:yaml.org,2002:"
_MERGE = _TAG + "merge"

_PATTERNS = {  # what a plain word is: the first that matches it whole, else text; and the characters it begins with
    "bool": (r"true|True|TRUE|false|False|FALSE", "tTfF"),
    "null": (r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    "int": (r"[-+]?(?:0|[1-9](?:_?[0-9])*|0x[0-9a-fA-F]+|0o[0-7]+)", "-+0123456789"),
    "float": (
        r"[-+]?(?:(?:[0-9]+\.[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+|\.(?:inf|Inf|INF))"
        r"|\.(?:nan|NaN|NAN)",
        "-+.0123456789",
    ),
    "merge": (r"<<", "<"),
}


def add_our_words(yaml_class: Any) -> None:
    """Has a PyYAML loader or dumper class take plain words for numbers, booleans and null the way this module does."""
    for name, (pattern, first) in _PATTERNS.items():
        yaml_class.add_implicit_resolver(_TAG + name, re.compile(rf"(?:{pattern})\Z"), list(first))


class _Loader(yaml.SafeLoader):
    """Only composes nodes; values are made of them below."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 (so declared by PyYAML); none of YAML 1.1's


add_our_words(_Loader)


def _text(text: str) -> str:
    text.encode()  # half of a surrogate pair ("\ud800") can't be written to a file again
    return text


def _bool(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise ValueError
    return text.lower() == "true"


def _float(text: str) -> float:
    value = float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
    if math.isinf(value) and "inf" not in text.lower():
        raise ValueError("too large")
    return value


_SCALARS: dict[str, Callable[[str], Scalar]] = {
    _TAG + "str": _text,
    _TAG + "bool": _bool,
    _TAG + "int": lambda text: int(text, 0),
    _TAG + "float": _float,
    _TAG + "null": lambda text: None,
    _MERGE: _text,  # << as a value is text
}


# --- collections ---


@dataclass(slots=True)
class _Reading:
    """One walk over composed nodes: PyYAML's tree in, ours out, mistakes noted on the way."""

    at: Callable[[int], Place]
    mistakes: list[Mistake]
    inside: set[int] = field(default_factory=set)  # the collections being read, by id: an alias to one never ends

    def node(self, source: yaml.Node, place: Place, path: Path) -> Node | None:
        """None if the value is wrong by itself."""
        problem = ""
        if isinstance(source, yaml.ScalarNode):
            if source.tag in _SCALARS:
                try:
                    return Node(_SCALARS[source.tag](source.value), place)
                except ValueError:
                    problem = f"{source.value[:40]!r} can't be read as {source.tag.removeprefix(_TAG)}"
        elif id(source) in self.inside:
            problem = "an alias that contains itself"
        elif len(path) > MAX_DEPTH:
            path, problem = path[:3], "nested too deeply"
        elif source.tag in (_TAG + "map", _TAG + "seq"):
            self.inside.add(id(source))
            value = self.mapping(source, path) if isinstance(source, yaml.MappingNode) else self.sequence(source, path)
            self.inside.remove(id(source))
            return Node(value, place)
        self.wrong(place, path, problem or f"the tag {source.tag.replace(_TAG, '!!')} is not supported")
        return None

    def sequence(self, source: yaml.Node, path: Path) -> list[Node]:
        items = (self.node(item, self.place(item), (*path, i)) for i, item in enumerate(source.value))
        return [item for item in items if item is not None]

    def mapping(self, source: yaml.MappingNode, path: Path) -> dict[str, Node]:
        own: dict[str, Node] = {}
        merged: dict[str, Node] = {}
        lines: dict[str, Place] = {}
        for key, value in source.value:
            place = self.place(key)
            if not isinstance(key, yaml.ScalarNode):
                self.wrong(place, path, "a key is a word, not a list or a mapping")
                continue
            if key.tag == _MERGE:
                merged = self.merged(value, path) | merged
                continue
            if self.node(key, place, path) is None:  # not text at all
                continue
            here = (*path, key.value)
            if key.value in lines:
                where = "" if place.on_command_line else f" (it is in line {lines[key.value].order[1]} already)"
                self.wrong(place, (), f"duplicate key '{dotted(here)}'{where}")
                continue
            lines[key.value] = place
            child = self.node(value, place, here)
            if child is not None:
                own[key.value] = child
        return merged | own

    def merged(self, source: yaml.Node, path: Path) -> dict[str, Node]:
        """What `<<: *anchor` or `<<: [*first, *second]` brings in; the earlier one wins."""
        found: dict[str, Node] = {}
        for item in source.value if isinstance(source, yaml.SequenceNode) else [source]:
            node = self.node(item, self.place(item), path)
            if node is not None and not isinstance(node.value, dict):
                self.wrong(self.place(source), path, "<< takes a mapping or a list of mappings")
            elif node is not None and isinstance(node.value, dict):
                found = node.value | found
        return found

    def place(self, source: yaml.Node) -> Place:
        return self.at(source.start_mark.line + 1)

    def wrong(self, place: Place, path: Path, text: str) -> None:
        self.mistakes.append(Mistake(place, f"{dotted(path)}: {text}" if path else text))
