"""How two things that take time compare: rounds that alternate, and the median of the ratios of adjacent rounds.

Whatever else the machine does hits both halves of a round alike, and a round that it hits alone is not the median.
"""

import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

_DRAWS = 2000


class Ratio(NamedTuple):
    median: float
    low: float
    high: float


def ratio(over: Sequence[float], under: Sequence[float]) -> Ratio:
    """The median of over[i] / under[i], with its 95 % interval from the bootstrap (Efron 1979)."""
    ratios = [a / b for a, b in zip(over, under, strict=True)]
    draw = random.Random(0)
    medians = sorted(statistics.median(draw.choices(ratios, k=len(ratios))) for _ in range(_DRAWS))
    return Ratio(statistics.median(ratios), medians[int(0.025 * _DRAWS)], medians[int(0.975 * _DRAWS)])


def alternate(
    functions: Mapping[str, Callable[[], None]], n_rounds: int, ready: Callable[[], None] = lambda: None
) -> dict[str, list[float]]:
    """Seconds that each function took in each round; every second round is in reverse order.

    `ready` is called before each function and after it, within its time: to wait for a device or for other workers.
    """
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for number in range(n_rounds):
        for name in list(functions)[:: 1 if number % 2 else -1]:
            ready()
            began = time.perf_counter()
            functions[name]()
            ready()
            seconds[name].append(time.perf_counter() - began)
    return seconds
