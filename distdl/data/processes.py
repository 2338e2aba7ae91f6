"""Worker processes that fill batches, each with a dataset and a plan of its own, started afresh and not forked.

    parent: (loader, place, rows, begin, end)  ->  child: fills these rows of the slot  ->  parent: what was bad in them

The slot, which both sides map, has the request and the result, so nothing but a few numbers crosses the border. A child
announces what it is asked for as soon as it is told, fills it in the order of asking, and ends with its connection, so
when the parent is gone at the latest. Signals are the parent's affair. Nothing that a child needs of distdl imports
torch, which would take it a second and 190 MB.
"""

import contextlib
import itertools
import mmap
import multiprocessing
import os
import pickle
import queue
import signal
import sys
import threading
import traceback
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from multiprocessing.connection import Connection
from multiprocessing.reduction import recv_handle, send_handle
from multiprocessing.resource_tracker import ensure_running
from multiprocessing.util import Finalize
from typing import Any

import numpy as np

from distdl import plugins, registry
from distdl.data.fill import Filler
from distdl.data.samples import BadRow
from distdl.data.slots import Arrays, Place, Slots, arrays_in
from distdl.data.workers import Recipe
from distdl.errors import ProcessLost, UserError
from distdl.run import endings, oom

_SPAWN = multiprocessing.get_context("spawn")
_STOP_S = 5.0
_FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)  # to the whole group

# loader, offset and bytes of the slot, rows of the batch, size of its rows (see Content), begin, end
Task = tuple[int, int, int, int, int | None, int, int]


class Processes:
    """Starts `n` worker processes with the first loader, for the training process of rank `rank`.

    See distdl.data.workers.Workers. What a process is asked for that is gone raises ProcessLost.
    """

    def __init__(self, n: int, rank: int = 0) -> None:
        self._n, self._rank = n, rank
        self._children: list[_Child] = []
        self._numbers = itertools.count()
        self._loaders: dict[int, tuple[bytes, Slots]] = {}
        self._n_submitted = 0
        # Multiprocessing would wait for them at the exit. Before that, and when nobody has them any more:
        Finalize(self, _end, args=(self._children,), exitpriority=1)

    def add(self, filler: Filler, recipe: Recipe, slots: Slots) -> int:
        """Raises UserError for what can't be sent to another process."""
        number = next(self._numbers)
        try:
            packed = pickle.dumps(recipe)
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise UserError(
                f"this can't be sent to a worker process: {error}",
                where="data.worker_type: process",
                fix="Define it at the top level of a module (no lambda, no function within a function), or use "
                "data.worker_type: thread.",
            ) from error
        self._loaders[number] = packed, slots
        if not self._children:  # it is the one to be read first: the rest of the start goes on beside them
            sources = list(plugins.loaded.items())
            with _signals_blocked():
                self._children += [_Child(sources, number, self._rank) for number in range(self._n)]
            for child in self._children:
                child.know(number, packed, slots)
        return number

    def submit(
        self, loader: int, place: Place, arrays: Arrays, size: int | None, begin: int, end: int
    ) -> Future[list[BadRow]]:
        child = self._children[self._n_submitted % self._n]
        self._n_submitted += 1
        packed, slots = self._loaders[loader]
        child.know(loader, packed, slots)
        return child.ask((loader, place.offset, place.size, len(arrays["valid"]), size, begin, end), arrays)

    def remove(self, loader: int) -> None:
        self._loaders.pop(loader, None)
        if not self._loaders:
            _end(self._children)


@contextlib.contextmanager
def _signals_blocked() -> Iterator[None]:
    """For processes that are started in it: one that comes before they ignore them would end them, with a traceback."""
    ensure_running()  # of multiprocessing: it is started with the first process, and unblocks signals
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _FORWARDED)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end(children: list["_Child"]) -> None:
    for child in children:
        child.begin_to_end()
    for child in children:
        child.end()
    children.clear()


class _Child:
    """The parent's side of one process."""

    def __init__(self, sources: Iterable[plugins.Source], number: int, rank: int) -> None:
        self._rank = rank
        self._kills = oom.count()
        self._connection, theirs = _SPAWN.Pipe()
        self._process = _SPAWN.Process(
            target=_main, args=(theirs, list(sources)), name=f"distdl-data-{number}", daemon=True
        )
        self._process.start()
        theirs.close()
        self._known: set[int] = set()
        # What was asked and not answered yet. The arrays keep a slot taken while the child may be writing into it.
        self._asked: deque[tuple[Future[list[BadRow]], Arrays]] = deque()
        self._is_gone = False
        self._lock = threading.Lock()
        self._reader = threading.Thread(target=self._read, name=f"answers-{number}", daemon=True)
        self._reader.start()

    def know(self, loader: int, packed: bytes, slots: Slots) -> None:
        if loader not in self._known:
            self._known.add(loader)
            with contextlib.suppress(OSError):  # told of by the next answer
                self._connection.send((loader, packed))
                send_handle(self._connection, slots.file, self._process.pid)

    def ask(self, task: Task, arrays: Arrays) -> Future[list[BadRow]]:
        future: Future[list[BadRow]] = Future()
        with self._lock:
            if self._is_gone:
                future.set_exception(self._loss())
                return future
            self._asked.append((future, arrays))
        with contextlib.suppress(OSError):  # the reader tells
            self._connection.send(task)
        return future

    def begin_to_end(self) -> None:
        with contextlib.suppress(OSError):
            self._connection.send(None)

    def end(self) -> None:
        self._process.join(_STOP_S)
        self._process.kill()
        self._process.join()
        self._reader.join()
        self._connection.close()

    def _read(self) -> None:
        try:
            while True:
                answer = self._connection.recv()
                future, _ = self._asked.popleft()
                if future.set_running_or_notify_cancel():
                    if isinstance(answer, BaseException):
                        future.set_exception(answer)
                    else:
                        future.set_result(answer)
                del future, _
        except (EOFError, OSError):
            with self._lock:
                self._is_gone = True
                for future, _ in self._asked:
                    if future.set_running_or_notify_cancel():
                        future.set_exception(self._loss())
                self._asked.clear()

    def _loss(self) -> ProcessLost:
        self._process.join(1.0)
        code = self._process.exitcode
        judged = oom.judge(self._process.pid or 0, self._kills) if code == -signal.SIGKILL else None
        how, _ = ("is gone", None) if code is None else endings.in_words(code, (), judged)
        who = f"data worker process {self._process.pid} of rank {self._rank}"
        return ProcessLost(f"{who}: {how}\n  Its output may say more. Then go on with --resume.")


# --- the child's side ---


def _main(connection: Connection, sources: list[plugins.Source]) -> None:
    for number in _FORWARDED:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _FORWARDED)
    _take_one_core()
    failure: Exception | None = None
    registered: registry.Registered = {}
    try:
        registered = plugins.load(sources)
    except Exception as error:  # the user's code
        failure = error
    work: queue.SimpleQueue[tuple[_Loader, Task]] = queue.SimpleQueue()
    with registry.using(registered):
        threading.Thread(target=_listen, args=(connection, work, failure), name="listen", daemon=True).start()
        while True:
            loader, task = work.get()
            try:
                answer: Any = loader.fill(task)
            except Exception as error:
                answer = _sendable(error)
            with contextlib.suppress(OSError):  # nobody waits for it any more
                connection.send(answer)


def _take_one_core() -> None:
    """The cores are shared by the processes. If torch is imported at all, then by the user's code."""
    os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(1)


def _listen(connection: Connection, work: "queue.SimpleQueue[tuple[_Loader, Task]]", failure: Exception | None) -> None:
    loaders: dict[int, _Loader] = {}
    while True:
        try:
            message = connection.recv()
        except (EOFError, OSError):
            message = None
        if message is None:
            os._exit(0)  # whatever is being done, nobody waits for it
        if len(message) == 2:
            loaders[message[0]] = _Loader(message[1], recv_handle(connection), failure)
            continue
        loader = loaders[message[0]]
        loader.announce(message)
        work.put((loader, message))


class _Loader:
    """What a child has of a loader: the filler, or why there is none; and the slots, as they come."""

    def __init__(self, packed: bytes, file: int, failure: Exception | None) -> None:
        self._file = file
        self._maps: dict[Place, mmap.mmap] = {}
        self._filler: Filler | None = None
        self._failure = failure
        try:
            self._filler = None if failure else pickle.loads(packed)()
        except Exception as error:
            self._failure = error

    def announce(self, task: Task) -> None:
        if self._filler:
            self._filler.announce(self._arrays(self._filler, task), *task[-2:])

    def fill(self, task: Task) -> list[BadRow]:
        if self._filler is None:
            assert self._failure, "there is a filler or a reason"
            raise self._failure
        _, _, _, _, size, begin, end = task
        return self._filler.fill(self._arrays(self._filler, task), size, begin, end)

    def _arrays(self, filler: Filler, task: Task) -> Arrays:
        _, offset, n_bytes, n_rows, size, _, _ = task
        place = Place(offset, n_bytes)
        if place not in self._maps:
            self._maps[place] = mmap.mmap(self._file, n_bytes, offset=offset)
        return arrays_in(np.frombuffer(self._maps[place], np.uint8), filler.fields(n_rows, size))


def _sendable(error: Exception) -> Exception:
    """The error with its traceback as a note, or what can be told of one that can't be sent."""
    text = "".join(traceback.format_exception(error))
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"in a data worker process:\n{text}")
    if not isinstance(error, UserError):
        error.add_note(f"in a data worker process:\n{text}")
    return error
