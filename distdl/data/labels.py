"""What a label is: how the bytes of a component, or the value that a dataset of one's own gives, become numbers.

A task names one of these; without it a label is a class number. As text, numbers stand with spaces or commas between
them, also as a JSON list: "3", "3 17", "[0.5, 1.2]". A label that breaks its rule is a mistake of packing and not
damage, which a checksum would have shown: `parse` raises ValueError, and the loader says which sample it was.
"""

import math
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np

IGNORED = -100  # label of rows that don't count; torch's losses leave it out by default


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelSpec:
    """`shape` and `dtype` are those of one row's label; `ignored` fills it where the row does not count."""

    parse: Callable[[Any], Any]
    """bytes, or a value -> what numpy can write into the row; raises ValueError with the reason. Where processes read
    the data (data.worker_type), it is sent to them: a function of a module, or a functools.partial of one"""
    expected: str  # in words, for the error: "class numbers"
    fits: str = "model.args.classes"  # what in the config says which labels there are, for the error
    shape: tuple[int, ...] = ()
    dtype: Literal["int64", "float32"] = "float32"
    ignored: float = 0.0
    most_per_s: float | None = None
    """of sounds: a label is a sequence of whole numbers, not more than so many a second. A row has their number, then
    they themselves, then zeros (see `sequence`)"""


def class_number(n_classes: int | None) -> LabelSpec:
    """0 to n_classes - 1, or without a bound if the number of classes is not known; IGNORED where it does not count."""
    return LabelSpec(parse=partial(_class_number, n_classes), expected="class numbers", dtype="int64", ignored=IGNORED)


def class_numbers(n_classes: Sequence[int]) -> LabelSpec:
    """One class number for each of several questions, which have so many classes -> a vector of them."""
    return LabelSpec(
        parse=partial(_class_numbers, tuple(n_classes)),
        expected=f"{len(n_classes)} class numbers a sample",
        shape=(len(n_classes),),
        dtype="int64",
        ignored=IGNORED,
    )


def class_set(n_classes: int) -> LabelSpec:
    """The numbers of all classes that apply, none twice -> 1.0 at their places of a vector (n_classes,).

    A dataset of one's own may give the vector itself, as an array or tensor of bool or float.
    """
    return LabelSpec(
        parse=partial(_class_set, n_classes), expected="the numbers of all classes that apply", shape=(n_classes,)
    )


def numbers(n: int) -> LabelSpec:
    """`n` finite numbers -> a vector (n,)."""
    return LabelSpec(parse=partial(_numbers, n), expected=f"{n} numbers a sample", shape=(n,))


def sequence(parse: Callable[[Any], Sequence[int]], expected: str, fits: str, most_per_s: float = 100.0) -> LabelSpec:
    """What `parse` makes of a transcript: numbers of its units -> a vector (1 + most, ) for sounds."""
    return LabelSpec(parse=parse, expected=expected, fits=fits, dtype="int64", most_per_s=most_per_s)


def words(text: bytes) -> list[str]:
    """What stands between spaces, commas and the brackets of a list."""
    return text.decode("utf-8", "replace").strip().removeprefix("[").removesuffix("]").replace(",", " ").split()


def are_numbers(text: bytes) -> bool:
    """Whether a label is made of finite numbers, as all are but class names; none at all is one as well."""
    try:
        return all(math.isfinite(float(word)) for word in words(text))
    except ValueError:
        return False


def _class_number(n_classes: int | None, label: Any) -> int:
    return _in_range(_whole_number(label), n_classes)


def _class_numbers(n_classes: tuple[int, ...], label: Any) -> list[int]:
    given: list[Any] = words(label) if isinstance(label, bytes) else np.asarray(label).reshape(-1).tolist()
    if len(given) != len(n_classes):
        raise ValueError(f"has {len(given)} numbers: the task has {len(n_classes)} heads")
    return [_in_range(_whole_number(value), count) for value, count in zip(given, n_classes)]


def _class_set(n_classes: int, label: Any) -> np.ndarray:
    named: list[Any] = words(label) if isinstance(label, bytes) else np.asarray(label).reshape(-1).tolist()
    if any(isinstance(value, bool | float) for value in named):
        if len(named) != n_classes or not all(value in (0, 1) for value in named):
            raise ValueError(f"is not a vector of {n_classes} zeros and ones")
        return np.array(named, np.float32)
    vector = np.zeros(n_classes, np.float32)
    for value in named:
        number = _in_range(_whole_number(value), n_classes)
        if vector[number]:  # a vector of zeros and ones, taken for class numbers, shows itself here
            raise ValueError(f"names class {number} twice")
        vector[number] = 1
    return vector


def _numbers(n: int, label: Any) -> np.ndarray:
    try:
        given = np.asarray(words(label) if isinstance(label, bytes) else label, np.float32).reshape(-1)
    except (TypeError, ValueError):
        raise ValueError("is not made of numbers") from None
    if len(given) != n:
        raise ValueError(f"has {len(given)} numbers: the network has {n} outputs")
    if not np.isfinite(given).all():
        raise ValueError("is not finite")
    return given


def _whole_number(value: Any) -> int:
    try:
        return int(value) if isinstance(value, bytes | str) else operator.index(value)
    except (TypeError, ValueError):
        raise ValueError("is not a whole number") from None


def _in_range(number: int, n_classes: int | None) -> int:
    if number < 0 or (n_classes is not None and number >= n_classes):
        bound = f": the network has {n_classes} classes (0 to {n_classes - 1})" if n_classes else ""
        raise ValueError(f"is out of range{bound}")
    return number
