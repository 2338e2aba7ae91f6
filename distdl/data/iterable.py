"""An iterable of one's own to train on, such as a wds.WebDataset: it decides what comes, and in which order.

The function that `data.train.dataset` names is called by each worker, which takes the next item for each of its rows:
what a dataset of one's own may give (distdl/data/own.py), or a sample of webdataset's. To share the shards out among
the workers is the iterable's part (webdataset: nodesplitter=wds.split_by_node). One that ends begins again, so that all
workers take equally many steps, whatever they have.

Items are taken by one thread, in the order of the rows, ahead of the threads that decode and transform them. Nothing is
known of what comes at a position: a resumed run begins a new pass.
"""

import contextlib
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, InvalidStateError
from queue import SimpleQueue
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from distdl.config.sources import SourceConfig
from distdl.data import own, stages
from distdl.data.own import OwnDataset
from distdl.data.samples import BadSample, Example
from distdl.errors import UserError

_NOT_EXACT = "the order of its samples is not exact, and a resumed run begins a new pass"
_NOT_SPLIT = (
    "two workers began with the same sample: does the iterable share its data out among them? "
    "(webdataset: nodesplitter=wds.split_by_node)"
)

Ticket = Future[Any]  # for an item, in the order in which they are asked for


class OwnIterable:
    """Made by `open_own`. As far as the sample plan goes, an epoch is a shard of `n_samples`."""

    def __init__(self, items: Any, split: SourceConfig, n_samples: int) -> None:
        self.path, self.n_samples = str(split.dataset), n_samples
        self.identity = f"iterable-{own.identity(split, n_samples)}"
        self.sizes: npt.NDArray[np.int64] = np.array([n_samples], np.int64)
        self.classes: list[str] | None = None
        self._items, self._split = items, split
        self._iterator: Iterator[Any] | None = None
        self._failed = ""
        self._shared_out = True
        self._closed = False
        self._lock = threading.Lock()
        self._announced: dict[tuple[int, int], deque[Ticket]] = {}
        self._asked: SimpleQueue[Ticket | None] = SimpleQueue()
        threading.Thread(target=self._read, name="iterable", daemon=True).start()
        self._first: Ticket | None = self._ask()  # looked at before it is trained on

    def advance(self) -> None:
        """Items come when they are announced."""

    def announce_rows(self, rows: list[tuple[int, int]]) -> None:
        """Sample ids and keys that are asked for next, in the order of their rows."""
        with self._lock:
            for row in rows:
                ticket, self._first = self._first or self._ask(), None
                self._announced.setdefault(row, deque()).append(ticket)

    def example(self, sample_id: int, key: int = 0) -> Example:
        """What was taken for this sample; the next item where it was not announced.

        Raises BadSample if it can't be had, and UserError if it is not an image with a label.
        """
        with self._lock:
            announced = self._announced.get((sample_id, key))
            if not announced:
                ticket = self._first or self._ask()
            else:
                ticket = announced.popleft()
                if not announced:
                    del self._announced[sample_id, key]
        return self._example(ticket.result())

    def first_digest(self) -> str | None:
        """Of the first sample; None if it is bad."""
        try:
            example = self.example(0)
        except BadSample:
            return None
        return xxhash.xxh3_64_hexdigest(bytes(example.content) + repr(example.label).encode())

    def compare(self, digests: list[str | None]) -> None:
        """With those of all workers."""
        known = [digest for digest in digests if digest is not None]
        self._shared_out = len(set(known)) == len(known)

    def remarks(self) -> list[str]:
        found = [_NOT_EXACT] if self._shared_out else [_NOT_EXACT, _NOT_SPLIT]
        return [f"warning: data.train.dataset: {self.path} is an iterable: {found[0]}", *found[1:]]

    def close(self) -> None:
        """Whoever waits for an item is let go, as soon as the iterable has given the one that it is at."""
        with self._lock:
            self._closed = True
            self._asked.put(None)

    def _ask(self) -> Ticket:
        ticket: Ticket = Future()
        if self._closed:
            ticket.cancel()
        else:
            self._asked.put(ticket)
        return ticket

    def _read(self) -> None:
        for ticket in iter(self._asked.get, None):
            if self._closed:
                ticket.cancel()
                continue
            with contextlib.suppress(InvalidStateError):
                try:
                    ticket.set_result(self._next())
                except (BadSample, UserError) as error:
                    ticket.set_exception(error)

    def _next(self) -> Any:
        for _ in range(2):  # the second time from the beginning
            try:
                if self._iterator is None:
                    self._iterator = iter(self._items)
                item = next(self._iterator)
                self._failed = ""
                return item
            except StopIteration:
                self._iterator = None
                if self._failed:
                    raise UserError(
                        f"it ended with an exception: {self._failed}",
                        where=f"data.train.dataset: {self.path}",
                        fix="Have it pass over what is damaged (webdataset: handler=wds.warn_and_continue).",
                    ) from None
            except Exception as error:  # the user's code
                self._failed = f"{type(error).__name__}: {error}"
                raise own.given_up(error, self.path, "an item") from error
        raise UserError(
            "it gives a worker no sample at all",
            where=f"data.train.dataset: {self.path}",
            fix="Each worker needs something to read: where shards are shared out, as many as there are workers.",
        )

    def _example(self, item: Any) -> Example:
        if not isinstance(item, dict) or "__key__" not in item:
            return own.example_of(item, self.path, "an item")
        label = self._split.label
        shard = str(item.get("__url__", self.path))
        return stages.example_of(item, self._split.image, label if label in item else None, shard, str(item["__key__"]))


Own = OwnDataset | OwnIterable


def open_own(split: SourceConfig, where: str, draws: int | None) -> Own:
    """Calls the function or class that `split.dataset` names; `draws`: of an iterable's epoch.

    Raises UserError if it is neither a dataset nor an iterable, or of unknown length.
    """
    items = own.items_of(split)
    if own.is_indexed(items) or not hasattr(items, "__iter__"):
        return OwnDataset.of(items, split, where)
    try:
        n_samples = draws or len(items)
    except TypeError:
        raise UserError(
            f"{split.dataset} is a {type(items).__name__}, which has no length",
            where="data.draws",
            fix="Say how many of its samples, over all workers, make up an epoch: data.draws: 50000.",
        ) from None
    if n_samples == 0:
        raise UserError("there are no samples in it", where=f"{where}.dataset: {split.dataset}")
    return OwnIterable(items, split, n_samples)
