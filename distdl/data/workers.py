"""Who fills the rows of batches: threads of this process, or worker processes (distdl/data/processes.py).

Threads are the faster choice as long as what they call lets go of the interpreter: decoders, resizing and reading do.
Processes pay for Python in a dataset, a stage or a transform of one's own.
"""

import itertools
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from distdl.config.sources import SplitConfig
from distdl.data.fill import Filler
from distdl.data.mixture import AnyDataset
from distdl.data.samples import BadRow
from distdl.data.slots import Arrays, Place, Slots

Recipe = Callable[[], Filler]


def recipe_of(
    filler: Filler, open_again: Callable[[], AnyDataset] | None, split: SplitConfig, of_filler: Mapping[str, Any]
) -> Recipe:
    """What makes a filler once more in another process. Transforms of batches are left out: their code needs torch."""
    begin, end = filler.n_of_images, filler.n_of_images + len(filler.on_device)
    kept = [*split.transforms[:begin], *split.transforms[end:]]
    return partial(_made, open_again, split.model_copy(update={"transforms": kept}), filler.has_keys, of_filler)


def _made(
    open_again: Callable[[], AnyDataset] | None, split: SplitConfig, has_keys: bool, of_filler: Mapping[str, Any]
) -> Filler:
    assert open_again, "a loader of worker processes is told how to open its dataset in them"
    return Filler(open_again(), split, has_keys=has_keys, **of_filler)


class Part(Protocol):
    """Some rows of a batch on their way; the result tells of the bad ones."""

    def result(self) -> list[BadRow]: ...

    def cancel(self) -> bool: ...


class Workers(Protocol):
    """One group may serve several loaders; it ends with the last of them."""

    def add(self, filler: Filler, recipe: Recipe, slots: Slots) -> int:
        """The number of a loader with this filler, which `recipe` makes once more in another process."""

    def submit(self, loader: int, place: Place, arrays: Arrays, size: int | None, begin: int, end: int) -> Part:
        """Fills rows begin..end of the arrays at that place; what was wrong with the bad ones comes back."""

    def remove(self, loader: int) -> None: ...


class Threads:
    """With 0 of them it is done when the result is asked for, by who asks: to step through with a debugger."""

    def __init__(self, n: int) -> None:
        self._n = n
        self._numbers = itertools.count()
        self._fillers: dict[int, Filler] = {}
        self._pool = ThreadPoolExecutor(max(1, n), thread_name_prefix="decode")  # starts threads as they are needed

    def add(self, filler: Filler, recipe: Recipe, slots: Slots) -> int:
        number = next(self._numbers)
        self._fillers[number] = filler
        return number

    def submit(self, loader: int, place: Place, arrays: Arrays, size: int | None, begin: int, end: int) -> Part:
        filler = self._fillers[loader]
        filler.announce(arrays, begin, end)
        if self._n:
            return self._pool.submit(filler.fill, arrays, size, begin, end)
        return Later(partial(filler.fill, arrays, size, begin, end))

    def remove(self, loader: int) -> None:
        self._fillers.pop(loader, None)
        if not self._fillers:
            self._pool.shutdown(wait=True, cancel_futures=True)


@dataclass(frozen=True, slots=True)
class Later:
    result: Callable[[], list[BadRow]]

    def cancel(self) -> bool:
        return True
