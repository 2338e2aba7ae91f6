"""What differs between the config that a run was started with and the one it is resumed with, and what of it may."""

from typing import Any

from pydantic import BaseModel

from distdl.config.layout import flow
from distdl.config.schema import Config


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
    prefix = f"{name}." if name else ""
    if isinstance(old, BaseModel) and type(old) is type(new):
        return [
            change
            for key, field in type(old).model_fields.items()
            for change in _changes(
                getattr(old, key),
                getattr(new, key),
                prefix + key,
                is_free=is_free or bool(isinstance(field.json_schema_extra, dict) and field.json_schema_extra["free"]),
            )
        ]
    if isinstance(old, dict) and isinstance(new, dict):
        return [
            change
            for key in old | new
            for change in _changes(old.get(key, _NOT_SET), new.get(key, _NOT_SET), prefix + key, is_free=is_free)
        ]
    return [(is_free, f"{name}: {_shown(old)} -> {_shown(new)}")]


_NOT_SET = object()


def _shown(value: Any) -> str:
    if value is _NOT_SET:
        return "(not set)"
    return flow(_given(value))


def _given(value: Any) -> Any:
    """A split or several as plain values, without the defaults."""
    if isinstance(value, BaseModel):
        return value.model_dump(exclude_defaults=True)
    return {key: _given(item) for key, item in value.items()} if isinstance(value, dict) else value
