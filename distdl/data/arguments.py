"""What the arguments of random transforms may be.

Each function returns what it was given, or raises a UserError that says what it has to be; where it stands in the
config is added by the one who builds the transform.
"""

from collections.abc import Sequence

from distdl.errors import UserError


def number(value: float, name: str, argument: str, *, least: float, most: float) -> float:
    return numbers([value], name, argument, least=least, most=most, n=1)[0]


def count(value: int, name: str, argument: str, *, least: int, most: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise UserError(f"{name}: {argument} is a whole number from {least} to {most} (got {value})")
    return value


def numbers(
    values: Sequence[float], name: str, argument: str, *, least: float, most: float, n: int
) -> tuple[float, ...]:
    given = tuple(values) if isinstance(values, list | tuple) else (values,)
    are_numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in given)
    if len(given) != n or not are_numbers or not all(least <= value <= most for value in given):
        what = "a number" if n == 1 else f"{n} numbers, each"
        got = values if n > 1 else given[0]
        raise UserError(f"{name}: {argument} is {what} from {least:g} to {most:g} (got {got})")
    return given


def between(values: Sequence[float], name: str, argument: str, *, least: float, most: float) -> tuple[float, float]:
    """[low, high]."""
    low, high = numbers(values, name, argument, least=least, most=most, n=2)
    if low > high:
        raise UserError(f"{name}: {argument} is [low, high], in this order (got {values})")
    return low, high


def either_side(value: float | Sequence[float], name: str, argument: str, *, most: float) -> tuple[float, float]:
    """x -> [-x, x]; or [low, high]."""
    if isinstance(value, int | float):
        side = number(value, name, argument, least=0, most=most)
        return -side, side
    return between(value, name, argument, least=-most, most=most)


def probability(p: float, name: str) -> float:
    return number(p, name, "p", least=0, most=1)
