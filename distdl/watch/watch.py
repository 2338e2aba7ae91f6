"""The watch over the workers of this machine: `look` now and then, and the verdict when one of them is missing.

It reads what they tell of themselves (pulse.py) and what the kernel tells of them (facts.py), which costs them nothing.
Only when something stalls are they asked for their stacks.
"""

import os
import socket
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from distdl.watch import calls, facts, judge, pulse, stacks
from distdl.watch.calls import Parting
from distdl.watch.facts import Facts
from distdl.watch.judge import Seen, Verdict
from distdl.watch.pulse import Board

INTERVAL_S = 0.25  # between two looks

_OF_LATE = 0.6  # of the stall budget: what was done within it counts as done of late
_BUSY = 0.3  # of a processor
_FEW_BYTES = 1 << 16  # other threads of a worker may read and write a little
_MOST_FRAMES = 12
_ASK_AGAIN = 0.1  # of the stall budget: after workers were asked for their stacks and none of them was missing


@dataclass(frozen=True, slots=True)
class Sample:
    time: float
    facts: Facts


class Watch:
    """Over `n` workers of this machine, whose ranks begin with `first_rank`. `stall_s`: None to look at nothing."""

    def __init__(self, n: int, stall_s: float | None, first_rank: int = 0, host: str | None = None) -> None:
        self.stall_s = stall_s
        self.host = host or socket.gethostname()
        self.ranks = range(first_rank, first_rank + n)
        self._board = Board(n)
        self._stacks = [stacks.new_file() for _ in range(n)]
        self._samples: list[deque[Sample]] = [deque() for _ in range(n)]
        self._last_look = time.monotonic()
        self._blind_until = self._ask_again_at = 0.0
        for number in range(n):
            pulse.prepare(self._board.slot(number))

    def close(self) -> None:
        for descriptor in self._stacks:
            os.close(descriptor)
        self._board.close()

    def environment(self, number: int) -> dict[str, str]:
        """What worker `number` of this machine has to know; it inherits `descriptors(number)`."""
        if self.stall_s is None:
            return {}
        return {"DISTDL_PULSE": f"{self._board.descriptor}:{number}:{self._stacks[number]}"}

    def descriptors(self, number: int) -> tuple[int, ...]:
        return (self._board.descriptor, self._stacks[number]) if self.stall_s is not None else ()

    def look(self, pids: Sequence[int], ended: Sequence[bool]) -> tuple[Verdict, dict[int, str]] | None:
        """A verdict, and the workers' stacks by rank; None while all is well. `pids`: of the workers, in order."""
        if self.stall_s is None:
            return None
        now = time.monotonic()
        if now - self._last_look > max(1.0, 4 * INTERVAL_S):  # this process was stopped itself, or starved
            self._blind_until = now + self.stall_s
        self._last_look = now
        seen = [self._seen(number, pid, has_ended, now) for number, (pid, has_ended) in enumerate(zip(pids, ended))]
        if now < max(self._blind_until, self._ask_again_at) or not judge.is_stalled(seen, self.stall_s):
            return None
        texts = self._ask(seen)
        verdict = judge.judge([self._with_stack(each, texts) for each in seen], self.stall_s)
        self._ask_again_at = now + max(1.0, _ASK_AGAIN * self.stall_s)
        return (verdict, texts) if verdict else None

    def parting(self) -> Parting | None:
        """Where the workers' collectives have parted, also after their end."""
        return calls.find({rank: self._state(number).calls for number, rank in enumerate(self.ranks)})

    def state_of(self, rank: int) -> pulse.State:
        return self._state(rank - self.ranks.start)

    def place_of(self, rank: int, text: str) -> str:
        """Where a worker stands by its stacks: `model.py:12 in forward`; "" if that can't be told."""
        frame = stacks.place(stacks.main_thread(text, self.state_of(rank).thread))
        return str(frame) if frame else ""

    def short_stack(self, rank: int, text: str) -> str:
        """The main thread's, the innermost frame last, as Python shows an error's."""
        frames = stacks.without_libraries(stacks.main_thread(text, self.state_of(rank).thread))[:_MOST_FRAMES]
        return "\n".join(f'  File "{each.file}", line {each.line}, in {each.function}' for each in reversed(frames))

    def _state(self, number: int) -> pulse.State:
        return pulse.read(self._board.slot(number))

    def _seen(self, number: int, pid: int, has_ended: bool, now: float) -> Seen:
        assert self.stall_s is not None
        now_facts, samples = facts.of(pid), self._samples[number]
        samples.append(Sample(now, now_facts))
        while len(samples) > 2 and samples[1].time < now - _OF_LATE * self.stall_s:
            samples.popleft()
        before = samples[0]
        span_s = max(now - before.time, 1e-3)
        return Seen(
            rank=self.ranks[number],
            host=self.host,
            state=self._state(number),
            facts=now_facts,
            has_ended=has_ended or now_facts.is_gone,
            is_busy=now_facts.cpu_s - before.facts.cpu_s > _BUSY * span_s,
            has_moved=now_facts.moved_bytes - before.facts.moved_bytes > _FEW_BYTES,
        )

    def _ask(self, seen: Sequence[Seen]) -> dict[int, str]:
        asked = {
            each.rank: self._stacks[number]
            for number, each in enumerate(seen)
            if each.state.attached and not each.has_ended and stacks.ask(each.state.pid, self._stacks[number])
        }
        return stacks.collect(asked)

    def _with_stack(self, each: Seen, texts: Mapping[int, str]) -> Seen:
        if each.waits or each.rank not in texts:
            return each
        frame = stacks.in_collective(stacks.main_thread(texts[each.rank], each.state.thread))
        return replace(each, own_collective=str(frame)) if frame else each
