"""A config file and the overrides of the command line -> a checked Config, or every mistake at once.

    schema defaults < $DISTDL_SITE < base: ../other.yaml (and its own base) < the file < overrides a.b=c

Mappings merge key by key, lists and values replace. The merge is done on trees that remember file and line, so that
each mistake, and each value in `distdl config show`, names its place. Checks that span several keys of a section
(epochs or steps) are made once each of its keys is right by itself. The names that the config's plugins register are
read off those files, which are found from the file that names them, and on the command line from the working folder.
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from distdl import plugins, registry
from distdl.config import addresses, keys
from distdl.config.mistakes import explain
from distdl.config.schema import Config
from distdl.config.tree import COMMAND_LINE, Mistake, Node, Place, dotted, parse, plain
from distdl.errors import UserError, nearest

OF_A_SITE = ("paths", "slurm", "track")  # sections that say how and where runs are started, and not what they are
END_OF_FILE = 1_000_000_000  # orders what is said of a file as a whole after what is said of its lines


@dataclass(frozen=True, slots=True)
class Loaded:
    config: Config
    # For each key that was given, and each item of a list: "configs/x.yaml:12", or "command line 'a.b=c'".
    sources: dict[tuple[str, ...], str]


def load(path: str | os.PathLike[str], overrides: Sequence[str] = ()) -> Loaded:
    """Reads a config with its bases, applies overrides such as "optim.lr=0.1", and checks the whole.

    Raises UserError with all mistakes, one a line: those of the file from top to bottom, its bases', the overrides'.
    """
    mistakes: list[Mistake] = []
    file = Place((0, END_OF_FILE), os.fspath(path))
    tree = _read(Path(path), file, (), mistakes)
    if site := os.environ.get("DISTDL_SITE"):
        tree = _over_site(Path(site), tree, mistakes)
    for number, text in enumerate(overrides):
        place = Place((COMMAND_LINE, number), f"command line '{addresses.shown(text)}'")
        tree = _override(tree, text, place, mistakes)
    tree = _with_plugins_found(tree, Path.cwd()) if tree else None
    config = _check(tree, file, mistakes) if tree else None
    if config is None or tree is None or mistakes:
        mistakes.sort(key=lambda mistake: mistake.place.order)
        raise UserError("\n".join(dict.fromkeys(map(str, mistakes))))
    return Loaded(config, _sources(tree))


def _check(tree: Node, file: Place, mistakes: list[Mistake]) -> Config | None:
    given = keys.with_required_sections(plain(tree))
    declared = _declared_names(tree, mistakes)
    try:
        # Strict, so that true is not 1 and "3" not 3; as JSON, where being strict still allows a list for a tuple.
        return Config.model_validate_json(json.dumps(given), strict=True, context=declared)
    except ValidationError as error:
        mistakes += explain(error, given, tree, file)
        return None


def _sources(node: Node, path: tuple[str, ...] = ()) -> dict[tuple[str, ...], str]:
    found = {path: node.place.text} if path else {}
    if isinstance(node.value, dict):
        for name, child in node.value.items():
            found |= _sources(child, (*path, name))
    elif isinstance(node.value, list):
        for number, child in enumerate(node.value):
            found |= _sources(child, (*path, str(number)))
    return found


# --- files ---


def _read(path: Path, asked_by: Place, below: tuple[Path, ...], mistakes: list[Mistake]) -> Node | None:
    """The tree of a file merged over that of its base; `below` are the files that this one is the base of."""
    name = os.path.normpath(path) if below else asked_by.text
    text = _text(path, name, asked_by, mistakes)
    if text is None:
        return None
    number = len(below)
    tree = parse(text, lambda line: Place((number, line), f"{name}:{line}"), mistakes)
    if tree is None:
        return None
    if not isinstance(tree.value, dict):
        mistakes.append(Mistake(tree.place, "a config is a mapping of sections: model, data, train, optim, ..."))
        return None
    own = Node({key: node for key, node in tree.value.items() if key != "base"}, tree.place)
    own = _with_plugins_found(own, path.parent)
    if "base" not in tree.value:
        return own
    place, base = tree.value["base"].place, tree.value["base"].value
    if not isinstance(base, str) or not base:
        mistakes.append(Mistake(place, "base: should be the path of another config, relative to this file"))
        return None
    base_path = path.parent / base
    chain = (*below, path)
    if os.path.realpath(base_path) in map(os.path.realpath, chain):
        files = " -> ".join(os.path.normpath(each) for each in (*chain, base_path))
        mistakes.append(Mistake(place, f"base: these files are each other's base: {files}"))
        return None
    base_tree = _read(base_path, place, chain, mistakes)
    return merge(base_tree, own) if base_tree else None


def _over_site(path: Path, tree: Node | None, mistakes: list[Mistake]) -> Node | None:
    """`tree` over what the administrators of a cluster, or a group, have written for all their configs."""
    site = Place((-1, 0), os.fspath(path))
    text = _text(path, f"DISTDL_SITE: {path}", site, mistakes)
    below = parse(text, lambda line: Place((-1, line), f"{path}:{line}"), mistakes) if text is not None else None
    if below is None:
        return tree
    if not isinstance(below.value, dict) or not below.value.keys() <= set(OF_A_SITE):
        mistakes.append(Mistake(below.place, f"the file of a site has these sections alone: {', '.join(OF_A_SITE)}"))
        return tree
    return merge(below, tree) if tree else None


def of_site(section: str) -> Mapping[str, Any]:
    """What the file of the site says, for commands that read no config; mistakes in it are told by those that do."""
    mistakes: list[Mistake] = []
    site = Path(os.environ.get("DISTDL_SITE") or os.devnull)
    text = _text(site, "", Place((-1, 0), ""), mistakes)
    tree = parse(text, lambda line: Place((-1, line), ""), mistakes) if text else None
    found = plain(tree) if tree and not mistakes else None
    said = found.get(section) if isinstance(found, dict) else None
    return said if isinstance(said, dict) else {}


def _text(
    path: Path, name: str, asked_by: Place, mistakes: list[Mistake], kind: Literal["YAML", "Python"] = "YAML"
) -> str | None:
    """The text of a config, which the command line or another config's `base` asks for, or of a plugin."""
    said_of = "" if name == asked_by.text else f"{'base' if kind == 'YAML' else 'plugins'}: {name}: "
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        mistakes.append(Mistake(Place(asked_by.order, f"{name}:{line}"), "not UTF-8 text"))
    except FileNotFoundError:
        there = {other.stem: other.name for other in path.parent.glob("*.y*ml" if kind == "YAML" else "*.py")}
        near = "".join(f" - did you mean {there[stem]}?" for stem in nearest(path.stem, there)[:1])
        kept = " (the copies that a run keeps are in its plugins/)" if kind == "Python" and not near else ""
        mistakes.append(Mistake(asked_by, f"{said_of}there is no such file{near}{kept}"))
    except IsADirectoryError:
        mistakes.append(Mistake(asked_by, f"{said_of}this is a folder, not a {kind} file"))
    except (OSError, ValueError) as error:
        mistakes.append(Mistake(asked_by, f"{said_of}can't be read ({getattr(error, 'strerror', None) or error})"))
    return None


# --- plugins ---


class _Any(frozenset[tuple[str, str]]):
    """Stands for the names in plugins that can't be read: a name that is not known may be one of them."""

    def __contains__(self, name: object) -> bool:
        return True


def _with_plugins_found(tree: Node, folder: Path) -> Node:
    """The tree with absolute paths of plugins, of which the relative ones are in `folder`."""
    listed = tree.value.get("plugins") if isinstance(tree.value, dict) else None
    if not isinstance(tree.value, dict) or not listed or not isinstance(listed.value, list):
        return tree
    found = [
        Node(os.path.normpath(folder.absolute() / item.value), item.place) if isinstance(item.value, str) else item
        for item in listed.value
    ]
    return Node({**tree.value, "plugins": Node(found, listed.place)}, tree.place)


def _declared_names(tree: Node, mistakes: list[Mistake]) -> registry.Names:
    """The names that the plugins of a config register; each file is read, and none is run."""
    listed = tree.value.get("plugins") if isinstance(tree.value, dict) else None
    declared: dict[tuple[str, str], str] = {}
    before = len(mistakes)
    if listed and listed.value is not None and not isinstance(listed.value, list):
        return _Any()  # which is told as the mistake that it is
    for item in listed.value if listed and isinstance(listed.value, list) else []:
        if not isinstance(item.value, str):
            continue
        path = Path(item.value)
        name = str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)
        text = _text(path, name, item.place, mistakes, "Python")
        found, problems = plugins.scan(text) if text is not None else ({}, [])
        for line, problem in problems:
            mistakes.append(Mistake(Place(item.place.order, f"{name}:{line}"), problem))
        for own, line in found.items():
            if own in declared:
                problem = f"the {own[0]} '{own[1]}' is in {declared[own]} already"
                mistakes.append(Mistake(Place(item.place.order, f"{name}:{line}"), problem))
            declared[own] = f"{name}:{line}"
    return declared if len(mistakes) == before else _Any(declared)


# --- merging ---


def merge(old: Node, new: Node, path: tuple[str, ...] = ()) -> Node:
    """`new` over `old`. Mappings merge, except one split over several in data.eval, or the other way round."""
    if not isinstance(old.value, dict) or not isinstance(new.value, dict):
        return new
    if path == ("data", "eval") and _is_one_split(old) != _is_one_split(new):
        return new
    merged = dict(old.value)
    for name, node in new.value.items():
        merged[name] = merge(merged[name], node, (*path, name)) if name in merged else node
    # A section stays where its file has it, when an override changes one key of it.
    return Node(merged, old.place if new.place.on_command_line else new.place)


def _is_one_split(node: Node) -> bool:
    return not (
        isinstance(node.value, dict)
        and node.value
        and all(isinstance(child.value, dict) for child in node.value.values())
    )


def _override(tree: Node | None, text: str, place: Place, mistakes: list[Mistake]) -> Node | None:
    """`tree` with one override applied; without a tree (its file is unreadable) the override is checked alone."""
    name, _, value = text.partition("=")
    path = tuple(part.strip() for part in name.split("."))
    problem = ""
    if not value.strip():
        problem = "an override is key=value, such as optim.lr=0.1 (to unset a key: key=null)"
    elif not all(path):
        problem = f"'{name}' is not a key: keys are written with single dots, such as data.train.shards"
    elif path[0] == "base":
        problem = "base belongs at the top of a file"
    if problem:
        mistakes.append(Mistake(place, problem))
        return tree
    node = parse(value, lambda line: place, mistakes)
    if node is None or tree is None:
        return tree
    parent: Node | None = tree
    for depth, part in enumerate(path[:-1], start=1):
        parent = parent.value.get(part) if parent and isinstance(parent.value, dict) else None
        if parent and parent.value is not None and not isinstance(parent.value, dict):
            kind = "a list; give the whole of it" if isinstance(parent.value, list) else "not a mapping of keys"
            mistakes.append(Mistake(place, f"'{dotted(path[:depth])}' is {kind} ({parent.place.text})"))
            return tree
    for part in reversed(path):
        node = Node({part: node}, place)
    return merge(tree, node)
