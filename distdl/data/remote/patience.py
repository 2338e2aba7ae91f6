"""The reads of a store, repeated until they succeed: what fails for a moment is no reason to end a run of days.

    Unavailable    again after a pause that doubles, with chance in it, so that many workers don't come back at once
    a short read   what has arrived is kept, and the rest is asked for
    Denied         credentials are looked up again; final if these have never worked
    Missing, Unfit final

After `deadline_s` without progress a UserError says what was wrong; what lasts longer than a moment is told before
(account.py). Requests to a host are counted over the process; those that somebody waits for go before those that fetch
ahead.
"""

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from distdl.data.remote.account import account_of
from distdl.data.remote.store import Denied, Missing, Store, Unavailable, Unfit
from distdl.errors import UserError

T = TypeVar("T")

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 10.0
_ATTEMPT_S = 30.0  # for one answer; what it has brought by then is kept
_QUIET_S, _ONE_AHEAD_EVERY_S = 0.25, 1.0
_PROGRESS_BYTES = 16 << 10  # that an attempt brings, or it counts as none: a server may send a byte now and then


class NoSuchFile(UserError):
    """Told apart by who can do without the file."""


class Closed(Exception):
    """The dataset was closed while this read waited."""


class Gate:
    """At most `most` requests at a time. Those that fetch ahead have one place less, few between the others, and while
    others are waited for one now and then: on a slow link each of them makes every sample later."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._changed = threading.Condition()
        self._urgent = self._ahead = self._urgent_waiting = 0
        self._last_urgent_s = self._last_ahead_s = time.monotonic()

    @contextmanager
    def place(self, *, urgent: bool) -> Iterator[None]:
        with self._changed:
            self._urgent_waiting += urgent
            self._changed.wait_for(lambda: self._is_free(urgent))
            self._urgent_waiting -= urgent
            self._urgent += urgent
            self._ahead += not urgent
            if not urgent:
                self._last_ahead_s = time.monotonic()
        try:
            yield
        finally:
            with self._changed:
                self._urgent -= urgent
                self._ahead -= not urgent
                if urgent:
                    self._last_urgent_s = self._last_ahead_s = time.monotonic()
                self._changed.notify_all()

    def _is_free(self, urgent: bool) -> bool:
        if urgent:
            return self._urgent + self._ahead < self._most
        now = time.monotonic()
        if self._urgent or self._urgent_waiting:  # some are fetched even then, or it would stay so for ever
            return not self._ahead and now - self._last_ahead_s > _ONE_AHEAD_EVERY_S
        is_quiet = now - self._last_urgent_s > _QUIET_S
        return self._ahead < max(1, self._most - 1 if is_quiet else self._most // 8)


_gates: dict[str, Gate] = {}
_gates_lock = threading.Lock()


def gate_of(host: str, most: int) -> Gate:
    """The one of this process for a host."""
    with _gates_lock:
        return _gates.setdefault(host, Gate(most))


class PatientStore:
    """May be used by any number of threads. `close` ends the pauses of all of them."""

    def __init__(self, store: Store, *, deadline_s: float, connections: int) -> None:
        self.where = store.where
        self._store, self._deadline_s = store, deadline_s
        self._gate = gate_of(store.host, connections)
        self.account = account_of(store.host)
        self._closing = threading.Event()
        self._has_worked = False
        self._renewed_at = 0.0
        self._renewing = threading.Lock()

    def read(self, name: str, begin: int, end: int | None, *, urgent: bool = True) -> bytes:
        """Bytes begin .. end of a file, or all from `begin` on.

        Raises UserError for what can't be read, at the latest after the deadline, and Closed after `close`.
        """
        arrived = bytearray()

        def attempt() -> bytes:
            until = time.monotonic() + min(_ATTEMPT_S, self._deadline_s)
            try:
                with self._gate.place(urgent=urgent):
                    return bytes(arrived) + self._store.read(name, begin + len(arrived), end, until)
            except Unavailable as error:
                arrived.extend(error.partial)
                if end is not None and len(arrived) == end - begin:
                    return bytes(arrived)
                raise

        content = self._patiently(attempt, name)
        self.account.came(len(content))
        return content

    def read_whole(self, name: str) -> bytes | None:
        """A small file; None if there is none."""
        try:
            return self.read(name, 0, None)
        except NoSuchFile:
            return None

    def size(self, name: str) -> int:
        return self._patiently(lambda: self._store.size(name), name)

    def names(self) -> list[str] | None:
        return self._patiently(self._store.names, "")

    def close(self) -> None:
        self._closing.set()

    def shown(self, name: str) -> str:
        """A file's address for people."""
        folder, mark, query = self.where.partition("?")
        return f"{folder.rstrip('/')}/{name}{mark}{query}"

    def _patiently(self, attempt: Callable[[], T], name: str) -> T:
        give_up = time.monotonic() + self._deadline_s
        pause_s, n_attempts, n_denied = _FIRST_PAUSE_S, 0, 0
        while True:
            if self._closing.is_set():
                raise Closed(self.where)
            n_attempts += 1
            wait_s = 0.0
            try:
                value = attempt()
                self._has_worked = True
                self.account.answers()
                return value
            except Unavailable as error:
                reason, wait_s = str(error), error.after_s
                if len(error.partial) >= _PROGRESS_BYTES:
                    give_up, pause_s = time.monotonic() + self._deadline_s, _FIRST_PAUSE_S
                    self.account.answers()
            except Denied as error:
                reason, n_denied = str(error), n_denied + 1
                if n_denied > 1 and not self._has_worked:
                    raise self._failed(f"access denied: {error}", name, _CREDENTIALS) from None
                self._renew()
            except Missing:
                self.account.answers()
                raise NoSuchFile("there is no such file", where=self.shown(name)) from None
            except Unfit as error:
                raise self._failed(str(error), name, error.fix) from None
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
            wait_s = max(random.uniform(pause_s / 4, pause_s / 2), min(wait_s, _LONGEST_PAUSE_S))
            if time.monotonic() + wait_s > give_up:
                how = f"for {self._deadline_s:g} s ({n_attempts} attempts): {reason}"
                raise self._failed(f"can't be read {how}", name, _CREDENTIALS if n_denied else _WAIT_LONGER)
            self.account.waits(reason, wait_s, give_up)
            self._closing.wait(wait_s)

    def _renew(self) -> None:
        """Once for all threads that were denied at the same time."""
        with self._renewing:
            if time.monotonic() - self._renewed_at > _FIRST_PAUSE_S:
                self._store.renew()
                self._renewed_at = time.monotonic()

    def _failed(self, what: str, name: str, fix: str = "") -> UserError:
        return UserError(what, where=self.shown(name), fix=fix)


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file in a store, named as a path is."""

    store: PatientStore
    name: str

    def __str__(self) -> str:
        return self.store.shown(self.name)

    @property
    def parent(self) -> str:
        return self.store.where

    def read(self, begin: int, end: int) -> bytes:
        return self.store.read(self.name, begin, end)

    def read_whole(self) -> bytes | None:
        return self.store.read_whole(self.name)


_WAIT_LONGER = (
    "Is the server there, and the address right? A run waits for it as long as data.remote.deadline says, and goes on "
    "from its last checkpoint with --resume."
)
_CREDENTIALS = (
    "For S3 they come from the AWS settings (environment, profile, role); for http(s) from ~/.netrc, or from "
    "a variable that the address names: https://host/prefix/?${NAME}."
)
