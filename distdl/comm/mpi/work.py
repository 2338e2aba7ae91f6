"""What runs on a communicator, one operation after the other, as MPI wants it: here, or by a thread of its own.

Nonblocking collectives of MPI are no way to overlap: they move only inside of calls to MPI, and are slower. A thread
that calls the blocking ones lets go of the interpreter meanwhile.
"""

import os
import queue
import threading
import time
import weakref
from collections.abc import Callable
from datetime import timedelta
from typing import Any, ClassVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.futures import Future

from distdl.comm import mpi_library as library
from distdl.comm.mpi.staging import Staged, from_host

MPI = library.load()

_AWAKE_S = 2e-4  # about as long as the two shortest pauses take
_FIRST_PAUSE_S = 2e-5
_LONGEST_PAUSE_S = 1e-3
_GROWTH = 1.5

Function = Callable[[], None]


class Work(dist.Work):
    """One operation. `wait` returns once it is over, and raises what it has raised."""

    def __init__(self, name: str, result: list[Tensor], timeout: timedelta, staged: Staged | None = None) -> None:
        super().__init__()
        self._name, self._result, self._timeout, self._staged = name, result, timeout, staged
        self._error: BaseException | None = None
        self._is_over = False
        self._lock = threading.Lock()
        self._over: threading.Event | None = None
        self._future: Future[list[Tensor]] | None = None
        self.line: Line | None = None

    @property
    def timeout_s(self) -> float:
        return self._timeout.total_seconds()

    def wait(self, timeout: timedelta | None = None) -> bool:
        if not self._is_over:
            self._wait_for(one_of(timeout, self._timeout))
        if self._error is not None:
            raise self._error
        if self._staged:
            self._staged.join()
        return True

    def _wait_for(self, limit: timedelta) -> None:
        with self._lock:
            if self._is_over:
                return
            self._over = self._over or threading.Event()
        if not self._over.wait(limit.total_seconds()):
            if self.line is not None and limit >= self._timeout:  # else somebody looked in for a moment
                self.line.is_broken = True
            raise timed_out(self._name, limit)

    def finish(self, error: BaseException | None = None) -> None:
        with self._lock:
            self._error, self._is_over = error, True
        if self._over:
            self._over.set()
        if self._future:
            self._tell(self._future)

    def get_future(self) -> Future[list[Tensor]]:
        with self._lock:
            is_new, is_over = self._future is None, self._is_over
            if self._future is None:
                self._future = Future(devices=[self._staged.device] if self._staged and self._staged.device else None)
        if is_new and is_over:
            self._tell(self._future)
        return self._future

    def _tell(self, future: "Future[list[Tensor]]") -> None:
        if self._error is None:
            future.set_result(self._result)
        else:
            future.set_exception(self._error)  # type: ignore[arg-type]

    def is_completed(self) -> bool:
        return self._is_over

    def is_success(self) -> bool:
        return self._is_over and self._error is None

    def exception(self) -> Any:
        return self._error

    def result(self) -> list[Tensor]:
        return self._result

    def synchronize(self) -> None:
        self.wait()


class PointToPoint(Work):
    """A message. `host`: what MPI reads, or writes into."""

    def __init__(self, name: str, result: list[Tensor], timeout: timedelta, request: Any, host: Tensor) -> None:
        super().__init__(name, result, timeout)
        self._request, self._host = request, host
        self._status = MPI.Status()

    def wait(self, timeout: timedelta | None = None) -> bool:
        limit = one_of(timeout, self._timeout)
        if not sleep_until(self.is_completed, time.monotonic() + limit.total_seconds()):
            raise timed_out(self._name, limit)
        return super().wait()

    def is_completed(self) -> bool:
        if not self._is_over and self._request.Test(self._status):
            if self._name == "recv":
                from_host(self._host, self._result[0])
            self.finish()
        return self._is_over

    def get_future(self) -> Future[list[Tensor]]:
        self.wait()  # nobody else would ever look whether it has come
        return super().get_future()

    def _source_rank(self) -> int:
        return int(self._status.Get_source())


def one_of(timeout: timedelta | None, usual: timedelta) -> timedelta:
    """torch gives none, zero or a negative one for the usual."""
    return timeout if timeout and timeout > timedelta(0) else usual


def timed_out(name: str, limit: timedelta) -> Exception:
    return dist.DistBackendError(f"{name} over MPI: Timed out after {limit.total_seconds():g} s")


class Line:
    """The operations of one communicator, in the order in which they were given.

    `is_broken`: one has timed out. Who comes to it late would meet the next one there, so that no other begins.
    """

    every: ClassVar["weakref.WeakSet[Line]"] = weakref.WeakSet()  # that there is

    def __init__(self, name: str) -> None:
        Line.every.add(self)
        self._name = name
        self._waiting: queue.SimpleQueue[tuple[Work, Function] | None] = queue.SimpleQueue()
        self._n_waiting = 0
        self._changed = threading.Condition()
        self._running = threading.Lock()
        self._thread: threading.Thread | None = None
        self.is_broken = False

    def run(self, work: Work, function: Function) -> Work:
        """Here and now, behind all that was given before."""
        if self._n_waiting and not self.is_broken:
            with self._changed:
                if not self._changed.wait_for(lambda: self._n_waiting == 0, work.timeout_s):
                    self.is_broken = True
        work.finish(self._error_of(function))
        return work

    def put(self, work: Work, function: Function) -> Work:
        """Begins it."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._serve, daemon=True, name=f"distdl {self._name}")
            self._thread.start()
        with self._changed:
            self._n_waiting += 1
        work.line = self
        self._waiting.put((work, function))
        return work

    def close(self, timeout: timedelta) -> None:
        """After what was given, unless something of it hangs."""
        if self._thread is not None and not self.is_broken:
            self._waiting.put(None)
            self._thread.join(timeout.total_seconds())
            self.is_broken = self._thread.is_alive()
            self._thread = None

    def _serve(self) -> None:
        while self._serve_one():
            pass

    def _serve_one(self) -> bool:
        """In a function of its own, so that nothing holds its tensors while the next one is waited for."""
        given = self._waiting.get()
        if given is None:
            return False
        work, function = given
        error = self._error_of(function)
        with self._changed:
            self._n_waiting -= 1
            self._changed.notify_all()
        work.finish(error)
        return True

    def _error_of(self, function: Function) -> BaseException | None:
        if self.is_broken:
            return dist.DistBackendError(f"{self._name}: Timed out before, so that nothing more can be done")
        with self._running:
            error = _run(function)
        if isinstance(error, dist.DistBackendError):
            self.is_broken = True
        return error


def _run(function: Function) -> BaseException | None:
    try:
        with torch.no_grad():
            function()
    except BaseException as error:  # whoever waits for it gets it
        return error
    return None


def sleep_until(is_so: Callable[[], bool], until: float | None = None) -> bool:
    """Asks again and again without holding a core; `until`: time.monotonic(). Whether it came to be so."""
    began = time.monotonic()
    while time.monotonic() - began < _AWAKE_S:
        if is_so():
            return True
        os.sched_yield()  # to a worker that may be what is waited for
    pause = _FIRST_PAUSE_S
    while not is_so():
        if until is not None and time.monotonic() > until:
            return False
        time.sleep(pause)
        pause = min(pause * _GROWTH, _LONGEST_PAUSE_S)
    return True
