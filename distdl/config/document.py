"""`python -m distdl.config.document`: docs/config-keys.md, every key of a config and every name that it may write.

The keys come from the schema. What is said of a name is the first sentence of its docstring, and its arguments are
those of its function, both read from the source: nothing is imported, so that the page can be made without torch.
"""

import ast
import re
import types
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from distdl import registry
from distdl.config import values
from distdl.config.layout import flow
from distdl.config.schema import Config

PACKAGE = Path(__file__).resolve().parents[1]

HEAD = """# Every key of a config

Made by `make docs` from the schema; `distdl config show CONFIG` shows the same texts beside a config's values.
*fixed*: another value would make it another run, so a resumed run refuses it. *free*: may change with `--resume`.
A period is a number of steps (`200`), `1 epoch` or `30 min`; a time is `30 min` or `23 h`."""

# Heading, table of names, and what of a function's parameters the framework gives itself.
NAMES: tuple[tuple[str, dict[str, str], tuple[str, ...]], ...] = (
    ("Networks: model.name", registry.MODELS, ()),
    ("Tasks: task.name", registry.TASKS, ("label_smoothing",)),
    ("Transforms: data.train.transforms", registry.TRANSFORMS, ()),
    ("Optimisers: optim.name", registry.OPTIMISERS, ("named", "config")),
    ("Schedules: schedule.name", registry.SCHEDULES, ("step", "begin", "end", "epoch")),
    ("Engines: dist.engine", registry.ENGINES, ("given",)),
)

_PLAIN = {int: "whole number", float: "number", str: "text", bool: "true or false", type(None): "`null`"}
_GRAMMARS: dict[Any, str] = {
    values.check_period: "period",
    values.check_duration: "time",
    values.check_signal: "signal",
}
_BOUNDS = {"ge": "at least {}", "gt": "above {}", "le": "at most {}", "lt": "below {}", "min_length": "{} or more"}


class Section(NamedTuple):
    names: list[str]  # dotted, of all the places where these keys may be written
    model: type[BaseModel]
    is_free: bool


def document() -> str:
    """The whole page, as Markdown."""
    parts = [HEAD]
    for section in sections():
        rows = [_row(name, field, section.is_free) for name, field in section.model.model_fields.items()]
        title = ", ".join(section.names) or "The whole"
        parts.append(
            "\n".join(
                [f"## {title}\n", "| key | type | default | on resume | meaning |", "|---|---|---|---|---|", *rows]
            )
        )
    for title, table, given in NAMES:
        modules = Counter(path.partition(":")[0] for path in table.values())
        rows = [f"| `{name}` | {_arguments(path, given)} | {_summary(path, modules)} |" for name, path in table.items()]
        parts.append("\n".join([f"## {title}\n", "| name | arguments | |", "|---|---|---|", *rows]))
    return "\n\n".join(parts) + "\n"


# --- keys ---


def sections() -> list[Section]:
    """The config and all sections in it, each once, in the order of the schema."""
    found: dict[type[BaseModel], Section] = {}
    for name, model, is_free in _walk(Config, "", False):
        found.setdefault(model, Section([], model, is_free)).names.append(name)
    return [section._replace(names=[name for name in section.names if name]) for section in found.values()]


def _walk(model: type[BaseModel], path: str, is_free: bool) -> Iterator[tuple[str, type[BaseModel], bool]]:
    yield path, model, is_free
    for name, field in model.model_fields.items():
        for inner, place in _sections_in(field.annotation, f"{path}.{name}".lstrip(".")):
            yield from _walk(inner, place, is_free or _is_free(field))


def _sections_in(annotation: Any, path: str) -> Iterator[tuple[type[BaseModel], str]]:
    """Sections that a key may hold, and under which name: in a mapping each has one that the user chooses."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation, path
    else:
        inside = f"{path}.NAME" if get_origin(annotation) is dict else path
        for part in get_args(annotation):
            yield from _sections_in(part, inside)


def _is_free(field: FieldInfo) -> bool:
    return isinstance(field.json_schema_extra, dict) and bool(field.json_schema_extra.get("free"))


def _row(name: str, field: FieldInfo, in_free_section: bool) -> str:
    kind = ", ".join([_type(field.annotation, field.metadata), *_bounds(field.metadata)])
    default = "**required**" if field.is_required() else _default(field)
    changes = "free" if in_free_section or _is_free(field) else "" if kind == "section" else "fixed"
    return f"| `{name}` | {kind} | {default} | {changes} | {_cell(field.description or '')} |"


def _default(field: FieldInfo) -> str:
    value = field.get_default(call_default_factory=True)
    return "" if isinstance(value, BaseModel) else _code(flow(value))


def _type(annotation: Any, metadata: list[Any] | tuple[Any, ...] = ()) -> str:
    if grammar := next((word for each in metadata if (word := _GRAMMARS.get(getattr(each, "func", None)))), None):
        return grammar if type(None) not in get_args(annotation) else f"{grammar} or `null`"
    origin, inside = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return ", ".join([_type(inside[0], inside[1:]), *_bounds(inside[1:])])
    if origin is Literal:
        return " or ".join(_code(each) for each in inside)
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(_type(each) for each in inside))
    if origin is list:
        return f"list of {_type(inside[0])}"
    if origin is tuple:
        return f"list of {len(inside)}: {_type(inside[0])}"
    if origin is dict or annotation is dict:
        return "mapping"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "section"
    return _PLAIN[annotation]


def _bounds(metadata: list[Any] | tuple[Any, ...]) -> list[str]:
    """From annotated_types' Ge, Gt, Le, Lt and MinLen, or from a Field that holds them."""
    constraints = [inner for each in metadata for inner in getattr(each, "metadata", [each])]
    return [
        text.format(_number(bound))
        for each in constraints
        for name, text in _BOUNDS.items()
        if (bound := getattr(each, name, None)) is not None
    ]


def _number(bound: float) -> str:
    exponent = int(bound).bit_length() - 1
    return f"2^{exponent}" if exponent >= 20 and bound == 2**exponent else f"{bound:g}"


def _code(text: Any) -> str:
    return f"`{_cell(str(text))}`"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


# --- names ---


def _summary(path: str, modules: Counter[str]) -> str:
    """The first sentence of the docstring of a "module:attribute", or of its module if that holds no other name."""
    module = path.partition(":")[0]
    docstring = ast.get_docstring(_parse(module) if modules[module] == 1 else _definition(path)) or ""
    paragraph = " ".join(docstring.split("\n\n")[0].split())
    return _cell(re.split(r"(?<=\.)(?<! al\.) ", paragraph)[0])


def _arguments(path: str, given: tuple[str, ...]) -> str:
    """Parameters with their defaults, less those that the framework gives."""
    definition = _definition(path)
    if isinstance(definition, ast.ClassDef):
        inits = [each for each in definition.body if isinstance(each, ast.FunctionDef) and each.name == "__init__"]
        if not inits:  # a dataclass
            fields = [each for each in definition.body if isinstance(each, ast.AnnAssign)]
            return ", ".join(_argument(ast.unparse(each.target), each.value) for each in fields)
        definition = inits[0]
    spec = definition.args
    positional = zip(spec.args, [*[None] * (len(spec.args) - len(spec.defaults)), *spec.defaults])
    pairs = [*positional, *zip(spec.kwonlyargs, spec.kw_defaults)]
    own = ", ".join(_argument(each.arg, value) for each, value in pairs if each.arg not in ("self", *given))
    return ", ".join(filter(None, [own, *(_options(path, each) for each in definition.decorator_list)]))


def _options(path: str, decorator: ast.expr) -> str:
    """What `@options_of(Class)` adds to a network's arguments: the keyword-only ones of a class of its own file, or of
    one which that imports (distdl/models/options.py)."""
    if not (isinstance(decorator, ast.Call) and ast.unparse(decorator.func) == "options_of"):
        return ""
    module, name = path.partition(":")[0], ast.unparse(decorator.args[0])
    for node in _parse(module).body:
        if isinstance(node, ast.ImportFrom) and any(alias.name == name for alias in node.names):
            module = node.module or module
    (init,) = (each for each in _definition(f"{module}:{name}").body if getattr(each, "name", "") == "__init__")
    assert isinstance(init, ast.FunctionDef)
    return ", ".join(_argument(each.arg, value) for each, value in zip(init.args.kwonlyargs, init.args.kw_defaults))


def _argument(name: str, default: ast.expr | None) -> str:
    return _code(name if default is None else f"{name}={ast.unparse(default)}")


def _definition(path: str) -> ast.FunctionDef | ast.ClassDef:
    module, _, attribute = path.partition(":")
    for node in _parse(module).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == attribute:
            return node
    raise LookupError(f"{path} is neither a function nor a class")


def _parse(module: str) -> ast.Module:
    return ast.parse(PACKAGE.joinpath(*module.split(".")[1:]).with_suffix(".py").read_text())


if __name__ == "__main__":
    print(document(), end="")
