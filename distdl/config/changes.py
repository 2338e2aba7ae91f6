"""What differs between the config that a run was started with and the one it is resumed with, and what of it may."""

from collections.abc import ItemsView
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from distdl.config.layout import flow
from distdl.config.schema import Config

_NOT_SET = object()


def compare(old: Config, new: Config) -> tuple[list[str], list[str]]:
    """(refused, allowed) changes, each a line such as "optim.lr: 0.1 -> 0.2", in the order of the schema.

    A key that the schema marks as free, or that lies inside one, may change; any other change makes it another run.
    """
    refused: list[str] = []
    allowed: list[str] = []
    for is_free, line in _changes(old, new, "", is_free=False):
        (allowed if is_free else refused).append(line)
    return refused, allowed


def _changes(old: Any, new: Any, name: str, *, is_free: bool) -> list[tuple[bool, str]]:
    if old == new:
        return []
    if isinstance(old, BaseModel) and type(old) is type(new):
        inside = [(key, getattr(old, key), getattr(new, key), _is_free(field)) for key, field in _fields(old)]
    elif isinstance(old, dict) and isinstance(new, dict):
        inside = [(key, old.get(key, _NOT_SET), new.get(key, _NOT_SET), False) for key in old | new]
    else:
        return [(is_free, f"{name}: {_shown(old)} -> {_shown(new)}")]
    return [
        change
        for key, before, after, key_is_free in inside
        for change in _changes(before, after, f"{name}.{key}".lstrip("."), is_free=is_free or key_is_free)
    ]


def _fields(section: BaseModel) -> ItemsView[str, FieldInfo]:
    return type(section).model_fields.items()


def _is_free(field: FieldInfo) -> bool:
    return isinstance(field.json_schema_extra, dict) and bool(field.json_schema_extra.get("free"))


def _shown(value: Any) -> str:
    if value is _NOT_SET:
        return "(not set)"
    return flow(_given(value))


def _given(value: Any) -> Any:
    """A split or several as plain values, without the defaults."""
    if isinstance(value, BaseModel):
        return value.model_dump(exclude_defaults=True)
    return {key: _given(item) for key, item in value.items()} if isinstance(value, dict) else value
