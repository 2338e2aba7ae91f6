"""What a worker tells of itself as it goes, into memory that another process reads: its phase, step and collectives.

The worker only stores numbers and short texts, at a microsecond each: no thread, no lock, nothing that the interpreter
has to come to. Whoever watches reads them at any time, also while a thread of the worker holds the interpreter, and
after its end.

    Board        the memory: a slot for each worker of a machine
    Pulse        a worker's hand on its slot, `mine` within a worker; `Silent` where nobody watches
    read         a slot as the watcher sees it: a State

A slot holds numbers of 64 bits and, behind them, the texts of the last collectives. A number is stored in one go and
the count of collectives last, so a reader sees whole numbers and never half a text.
"""

import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from mmap import mmap
from pathlib import Path
from typing import Any
from zlib import crc32

# The order in which they are stored: append only. Seconds spent in each are counted.
PHASES = ("start", "input", "forward", "backward", "exchange", "update", "log", "evaluate", "save", "end", "failed")
LONG_PHASES = ("start", "evaluate", "save", "end", "failed")  # as is the first step, which may compile
N_CALLS_KEPT = 64

_PHASE_NUMBER = {name: number for number, name in enumerate(PHASES)}
_EXCHANGE = _PHASE_NUMBER["exchange"]
_IS_SHORT = [name not in LONG_PHASES for name in PHASES]
(
    _PID,
    _BEAT,
    _PHASE,
    _SINCE,
    _STEP,
    _FIRST,
    _N_CALLS,
    _WAITS,
    _WAITS_SINCE,
    _THREAD,
    _ATTACHED,
    _PATIENT,
    _PACED,
    _LONGEST,
) = range(14)
_SPENT = 16  # one number for each phase
_CALLS = 32  # and some for each collective
_OF_CALL = 6  # its group, the group's size, its place in the group's and in such groups' order, its key, when it was
_TEXT_BYTES = 256
_TEXTS = 8 * (_CALLS + _OF_CALL * N_CALLS_KEPT)
SLOT_BYTES = _TEXTS + N_CALLS_KEPT * _TEXT_BYTES
NEWS_BYTES = 4096  # behind the slots: the number of the news, its length, its text

_PACKAGE = Path(__file__).resolve().parents[1]
_PASS_ON = (str(_PACKAGE / "watch"), str(_PACKAGE / "comm"))  # not where a collective was called from
_TORCH = f"-packages{os.sep}torch{os.sep}"  # not a folder of that name in which somebody works


@dataclass(frozen=True, slots=True)
class Call:
    """A collective that a worker has begun."""

    group: int
    size: int  # of the group
    place: int  # in the order of its group's calls, from 1
    place_in_size: int  # in the order of calls in groups of this size
    key: int  # equal for workers that call the same
    text: str  # `all_reduce of [10] torch.float32 (gradient bucket 0)`
    line: str  # `exchange.py:210`: where it was called from
    age_s: float

    def __str__(self) -> str:
        return f"{self.text}, called at {self.line}" if self.line else self.text


_LONG_AGO = Call(0, 0, 0, 0, 0, "a collective that many others came after", "", 0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """A worker as its slot tells. Ages are seconds."""

    pid: int
    attached: bool  # it has begun to tell
    phase: str
    beat_age_s: float  # since it last told anything
    phase_age_s: float
    step: int | None
    is_first: bool  # its first step, or one that compiles anew
    waits_in: Call | None
    waits_s: float
    n_calls: int = 0
    calls: list[Call] = field(default_factory=list)  # the last ones, oldest first
    spent_s: dict[str, float] = field(default_factory=dict)  # by phase, without the one that it is in
    thread: int = 0  # its main thread, as stacks name it
    is_patient: bool = False  # its input comes from elsewhere, and has a deadline of its own
    longest_s: float = 0.0  # without a word in its steps so far, but for the first one

    @property
    def is_long(self) -> bool:
        """Whether it is in a phase that may take long."""
        return self.is_first or self.phase in LONG_PHASES or (self.is_patient and self.phase == "input")


class Board:
    """Slots for the workers of this machine, in memory that they inherit as a file descriptor."""

    def __init__(self, n_slots: int, descriptor: int | None = None) -> None:
        """`descriptor`: of one that there is already."""
        if descriptor is None:
            descriptor = os.memfd_create("distdl-pulse") if hasattr(os, "memfd_create") else _unnamed_file()
            os.ftruncate(descriptor, n_slots * SLOT_BYTES + NEWS_BYTES)
        self.descriptor = descriptor
        self.memory = mmap(self.descriptor, n_slots * SLOT_BYTES + NEWS_BYTES)

    def tell(self, news: Any) -> None:
        """The workers of something that was seen from outside, as JSON: they look for it when they like."""
        place = memoryview(self.memory)[-NEWS_BYTES:]
        numbers, text = place[:16].cast("q"), json.dumps(news).encode()[: NEWS_BYTES - 16]
        numbers[1] = 0
        place[16 : 16 + len(text)] = text
        numbers[1] = len(text)
        numbers[0] += 1

    def slot(self, number: int) -> memoryview:
        return memoryview(self.memory)[number * SLOT_BYTES : (number + 1) * SLOT_BYTES]

    def close(self) -> None:
        os.close(self.descriptor)


def slot_of(descriptor: int, number: int) -> tuple[memoryview, memoryview]:
    """A worker's slot in the board that it has inherited, and the news."""
    memory = memoryview(mmap(descriptor, os.fstat(descriptor).st_size))
    return memory[number * SLOT_BYTES : (number + 1) * SLOT_BYTES], memory[-NEWS_BYTES:]


def _unnamed_file() -> int:
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


class Pulse:
    """Of this worker. Every method may be called by any of its threads."""

    def __init__(self, slot: memoryview, news: memoryview) -> None:
        self._news, self._n_news = news, 0
        self._numbers = slot[:_TEXTS].cast("q")
        self._texts = slot[_TEXTS:]
        self._places: dict[tuple[int, int], int] = {}
        numbers = self._numbers
        numbers[_PID], numbers[_THREAD] = os.getpid(), threading.main_thread().ident or 0
        numbers[_BEAT] = numbers[_SINCE] = time.monotonic_ns()
        numbers[_PHASE], numbers[_STEP], numbers[_FIRST] = 0, -1, 1
        numbers[_ATTACHED] = 1

    def enter(self, phase: str) -> None:
        """Ends one phase and begins the next."""
        now, numbers = time.monotonic_ns(), self._numbers
        before = numbers[_PHASE]
        numbers[_SPENT + before] += now - numbers[_SINCE]
        if numbers[_PACED] and _IS_SHORT[before] and now - numbers[_BEAT] > numbers[_LONGEST]:
            numbers[_LONGEST] = now - numbers[_BEAT]
        numbers[_PHASE], numbers[_SINCE], numbers[_BEAT] = _PHASE_NUMBER[phase], now, now

    @contextmanager
    def phase(self, phase: str) -> Iterator[None]:
        """A phase within another one."""
        before = PHASES[self._numbers[_PHASE]]
        self.enter(phase)
        try:
            yield
        finally:
            self.enter(before)

    def beat(self) -> None:
        """Progress within a phase."""
        self._numbers[_BEAT] = time.monotonic_ns()

    def step(self, done: int, is_first: bool = False, is_paced: bool = True) -> None:
        """So many steps are done. `is_first`: the next one may take long; `is_paced`: it tells how long they take."""
        self._numbers[_STEP], self._numbers[_FIRST], self._numbers[_PACED] = done, is_first, is_paced

    def be_patient(self) -> None:
        """Its input comes from elsewhere, and has a deadline of its own."""
        self._numbers[_PATIENT] = 1

    def call(self, group: int, size: int, text: str, alike: str) -> int:
        """A collective of a group is about to begin; returns its number, for `wait`. `alike`: what it has in common
        with the others' calls."""
        numbers, places = self._numbers, self._places
        n = numbers[_N_CALLS]
        place = places[group, size] = places.get((group, size), 0) + 1
        place_in_size = places[-1, size] = places.get((-1, size), 0) + 1
        entry = n % N_CALLS_KEPT
        line = f"\n{_calling_line()}".encode()[:_TEXT_BYTES]
        packed = (text.encode()[: _TEXT_BYTES - len(line)] + line).ljust(_TEXT_BYTES, b"\0")
        self._texts[entry * _TEXT_BYTES : (entry + 1) * _TEXT_BYTES] = packed
        now, at = time.monotonic_ns(), _CALLS + _OF_CALL * entry
        numbers[at], numbers[at + 1], numbers[at + 2], numbers[at + 3] = group, size, place, place_in_size
        numbers[at + 4], numbers[at + 5] = crc32(alike.encode()), now
        numbers[_N_CALLS], numbers[_BEAT] = n + 1, now
        return n + 1

    def wait(self, call: int = 0) -> None:
        """It waits for this collective, or for all so far: what it does not do is the others' matter."""
        now, numbers = time.monotonic_ns(), self._numbers
        numbers[_SPENT + numbers[_PHASE]] += now - numbers[_SINCE]
        numbers[_SINCE] = numbers[_WAITS_SINCE] = now
        numbers[_WAITS] = call or numbers[_N_CALLS]

    def go_on(self) -> None:
        """The time that it has waited counts as exchange, whatever phase it is in."""
        now, numbers = time.monotonic_ns(), self._numbers
        numbers[_SPENT + _EXCHANGE] += now - numbers[_SINCE]
        numbers[_WAITS] = 0
        numbers[_SINCE] = numbers[_BEAT] = now

    def news(self) -> Any:
        """What was seen from outside, since it was last asked for; None without any."""
        numbers = self._news[:16].cast("q")
        if numbers[0] == self._n_news:
            return None
        self._n_news = numbers[0]
        try:
            return json.loads(bytes(self._news[16 : 16 + numbers[1]]))
        except ValueError:  # it was about to be replaced
            return None


class Silent:
    """A worker's, where nobody watches."""

    def enter(self, phase: str) -> None: ...

    @contextmanager
    def phase(self, phase: str) -> Iterator[None]:
        yield

    def beat(self) -> None: ...

    def step(self, done: int, is_first: bool = False, is_paced: bool = True) -> None: ...

    def be_patient(self) -> None: ...

    def call(self, group: int, size: int, text: str, alike: str) -> int:
        return 0

    def wait(self, call: int = 0) -> None: ...

    def go_on(self) -> None: ...

    def news(self) -> Any:
        return None


mine: Pulse | Silent = Silent()


def attach(slot: memoryview, news: memoryview) -> None:
    """Has this worker tell of itself in a slot from now on."""
    global mine
    mine = Pulse(slot, news)


def detach() -> None:
    global mine
    mine = Silent()


def prepare(slot: memoryview) -> None:
    """Of a worker that is about to be started: it is in its start from now on."""
    slot[:] = bytes(len(slot))
    numbers = slot[:_TEXTS].cast("q")
    numbers[_BEAT] = numbers[_SINCE] = time.monotonic_ns()
    numbers[_STEP], numbers[_FIRST] = -1, 1


def read(slot: memoryview) -> State:
    """What the worker has told. The clock is that of this machine."""
    numbers = slot[:_TEXTS].cast("q").tolist()
    n_calls, waits = numbers[_N_CALLS], numbers[_WAITS]
    now = time.monotonic_ns()

    def seconds_since(then: int) -> float:
        return max(0, now - then) / 1e9

    def call(number: int) -> Call:
        entry = (number - 1) % N_CALLS_KEPT
        packed = bytes(slot[_TEXTS + entry * _TEXT_BYTES : _TEXTS + (entry + 1) * _TEXT_BYTES])
        text, _, line = packed.rstrip(b"\0").decode(errors="replace").partition("\n")
        at = _CALLS + _OF_CALL * entry
        group, size, place, place_in_size, key, then = numbers[at : at + _OF_CALL]
        return Call(group, size, place, place_in_size, key, text, line, seconds_since(then))

    calls = {number: call(number) for number in range(max(1, n_calls - N_CALLS_KEPT + 1), n_calls + 1)}
    # By now entries may have been overwritten, and the one that is next may be half a text.
    first = slot[:_TEXTS].cast("q")[_N_CALLS] - N_CALLS_KEPT + 2
    calls = {number: each for number, each in calls.items() if number >= first}
    return State(
        pid=numbers[_PID],
        attached=bool(numbers[_ATTACHED]),
        phase=PHASES[numbers[_PHASE] % len(PHASES)],
        beat_age_s=seconds_since(numbers[_BEAT]),
        phase_age_s=seconds_since(numbers[_SINCE]),
        step=numbers[_STEP] if numbers[_STEP] >= 0 else None,
        is_first=bool(numbers[_FIRST]),
        waits_in=calls.get(waits, _LONG_AGO if 0 < waits < first else None),
        waits_s=seconds_since(numbers[_WAITS_SINCE]) if waits else 0.0,
        n_calls=n_calls,
        calls=list(calls.values()),
        spent_s={name: numbers[_SPENT + number] / 1e9 for number, name in enumerate(PHASES)},
        thread=numbers[_THREAD],
        is_patient=bool(numbers[_PATIENT]),
        longest_s=numbers[_LONGEST] / 1e9,
    )


def _calling_line() -> str:
    """`file.py:12`: the nearest line outside of the layers that only pass a collective on."""
    frame: Any = sys._getframe(2)
    while frame is not None:
        file = frame.f_code.co_filename
        if not file.startswith(_PASS_ON) and _TORCH not in file:
            return f"{file.rpartition(os.sep)[2]}:{frame.f_lineno}"
        frame = frame.f_back
    return ""
