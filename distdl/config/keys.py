"""What the schema knows of a dotted key: which keys there are, and which of them a wrong word stood for."""

from collections.abc import Iterator, Mapping
from types import NoneType
from typing import Any, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from distdl.config.schema import Config
from distdl.config.tree import Path, dotted
from distdl.errors import nearest

# What other frameworks call some of the keys.
NAMES_ELSEWHERE = {
    "batch_size": "train.global_batch",
    "max_epochs": "train.epochs",
    "max_steps": "train.steps",
    "gradient_accumulation_steps": "train.micro_batch",
    "amp": "train.precision",
    "clip_grad": "train.clip_norm",
    "val": "data.eval",
    "test": "data.eval",
    "num_workers": "data.workers",
    "architecture": "model.name",
    "optimizer": "optim.name",
    "learning_rate": "optim.lr",
    "wd": "optim.weight_decay",
    "scheduler": "schedule.name",
    "warmup": "schedule.warmup_steps",
}


def fields_at(path: Path) -> Mapping[str, FieldInfo]:
    """The keys that may be written in a section, by name; none if the path ends in a plain value or in free `args`."""
    fields: Mapping[str, FieldInfo] = Config.model_fields
    for part in path:
        if part in fields:
            section = next(_sections(fields[str(part)].annotation), None)
            fields = section.model_fields if section else {}
        # Any other part is a name that the user chose, one of several splits in data.eval: its keys are a split's.
    return fields


def _sections(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _sections(part)


def with_required_sections(given: Mapping[str, Any], path: Path = ()) -> dict[str, Any]:
    """`given` with an empty section for each missing one that is required: the keys it lacks are told one by one."""
    complete = dict(given)
    for name, field in fields_at(path).items():
        is_section = isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
        if is_section and field.is_required():
            complete.setdefault(name, {})
        if is_section and isinstance(complete.get(name), dict):
            complete[name] = with_required_sections(complete[name], (*path, name))
    return complete


def suggestions(path: Path) -> list[str]:
    """The dotted keys that an unknown one may have meant, at most three.

    Tried in order: a word like it in the same section; the very word in another section; another framework's name for
    a key; a word much like it in another section; an argument of the section's component (model.args.classes).
    """
    *section, last = path
    word = str(last)
    here = fields_at(tuple(section))
    if near := nearest(word, here):
        return [dotted((*section, name)) for name in near]
    elsewhere: dict[str, list[str]] = {}
    for key in _all_keys():
        elsewhere.setdefault(str(key[-1]), []).append(dotted(key))
    if word in elsewhere:
        found = elsewhere[word]
    elif renamed := nearest(word, NAMES_ELSEWHERE):
        found = [NAMES_ELSEWHERE[name] for name in renamed]
    elif near := nearest(word, elsewhere, likeness=0.75):
        found = [key for name in near for key in elsewhere[name]]
    else:
        found = [dotted((*section, "args", word))] if "args" in here else []
    found = list(dict.fromkeys(found))
    return found if len(found) <= 3 else []


def _all_keys(path: Path = ()) -> Iterator[Path]:
    for name, field in fields_at(path).items():
        yield (*path, name)
        if not _is_by_name(field.annotation):
            yield from _all_keys((*path, name))


def _is_by_name(annotation: Any) -> bool:
    """Whether what may be written is a mapping, whose keys are names that the user chose."""
    parts = [part for part in get_args(annotation) if part is not NoneType]
    return get_origin(annotation) is dict or (len(parts) == 1 and _is_by_name(parts[0]))
