"""The watch over the workers of this machine: `look` now and then, and the verdict when one of them is missing.

It reads what they tell of themselves (pulse.py) and what the kernel tells of them (facts.py), which costs them nothing.
Only when something stalls are they asked for their stacks.
"""

import contextlib
import os
import signal
import socket
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from distdl.watch import calls, facts, judge, pulse, stacks, straggler
from distdl.watch.calls import Parting
from distdl.watch.facts import Facts
from distdl.watch.judge import Seen, Verdict
from distdl.watch.pulse import Board
from distdl.watch.straggler import Spent

INTERVAL_S = 0.25  # between two looks

_OF_LATE = 0.6  # of the stall budget: what was done within it counts as done of late
_BUSY = 0.3  # of a processor
_FEW_BYTES = 1 << 16  # other threads of a worker may read and write a little
_MOST_FRAMES = 12
_QUESTIONS_S = 2.0  # between two times that workers are asked for their stacks

Stacks = Mapping[int, str]  # by rank


@dataclass(frozen=True, slots=True)
class Sample:
    time: float
    facts: Facts


class Watch:
    """Over the workers of this machine. `stall_s`: None to look at nothing."""

    def __init__(
        self,
        ranks: Sequence[int],
        stall_s: float | None,
        *,
        host: str | None = None,
        board: Board | None = None,
        stack_files: Sequence[int] = (),
    ) -> None:
        """`ranks`: of the workers of this machine, by slot. `board`, `stack_files`: such that there are already."""
        self.stall_s = stall_s
        self.host = host or socket.gethostname()
        self.ranks = list(ranks)
        self._board = board or Board(len(ranks))
        self._stacks = list(stack_files) or [stacks.new_file() for _ in ranks]
        self._samples: dict[int, deque[Sample]] = {rank: deque() for rank in ranks}
        self._stopped_at: dict[int, float] = {}
        self._stopped_in: dict[int, pulse.State] = {}  # where they were stopped that have gone on a little since
        self._histories: dict[int, deque[Spent]] = {}
        self._teller = straggler.Teller()
        self._last_look = time.monotonic()
        self._blind_until = self._next_question = self._next_search = 0.0
        for number in range(len(ranks) if board is None else 0):
            pulse.prepare(self._board.slot(number))

    def prepare(self, number: int) -> None:
        """Worker `number` of this machine is being started now."""
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

    def look(self, pids: Sequence[int], ended: Sequence[bool]) -> tuple[Verdict, Stacks] | None:
        """A verdict, and the workers' stacks; None while all is well. `pids`: of the workers, in order."""
        if self.stall_s is None:
            return None
        seen = self.survey(pids, ended)
        self.tell_of_straggler(seen)
        return self.verdict(seen)

    @property
    def is_blind(self) -> bool:
        """Whether this process was stopped itself a while ago, and what it sees of the others says nothing yet."""
        return time.monotonic() < self._blind_until

    def survey(self, pids: Sequence[int], ended: Sequence[bool]) -> list[Seen]:
        assert self.stall_s is not None
        now = time.monotonic()
        if now - self._last_look > max(1.0, self.stall_s / 4):  # this process was stopped itself, or starved
            self._blind_until = now + self.stall_s
        self._last_look = now
        self._stopped_in.clear()
        return [self._seen(number, pid, has_ended, now) for number, (pid, has_ended) in enumerate(zip(pids, ended))]

    def verdict(self, seen: Sequence[Seen]) -> tuple[Verdict, Stacks] | None:
        """On workers of this machine, and of others if there are any. Asks those of this one for their stacks."""
        assert self.stall_s is not None
        now = time.monotonic()
        if now < max(self._blind_until, self._next_question) or not judge.is_stalled(seen, self.stall_s):
            return None
        self._next_question = now + _QUESTIONS_S
        texts = self.ask(seen)
        found = judge.judge([self._with_stack(each, texts) for each in seen], self.stall_s)
        return (found, texts) if found else None

    def parting(self) -> Parting | None:
        """Where the workers' collectives have parted, also after their end."""
        return calls.find({rank: self.state_of(rank).calls for rank in self.ranks})

    def state_of(self, rank: int) -> pulse.State:
        return self._stopped_in.get(rank) or pulse.read(self._board.slot(self.ranks.index(rank)))

    def place_of(self, rank: int, text: str) -> str:
        """Where a worker stands by its stacks: `model.py:12 in forward`; "" if that can't be told."""
        frame = stacks.place(self._frames(rank, text))
        return str(frame) if frame else ""

    def short_stack(self, rank: int, text: str) -> str:
        """Of the thread that holds the worker up, the innermost frame last, as Python shows an error's."""
        frames = stacks.without_libraries(self._frames(rank, text))[:_MOST_FRAMES]
        return "\n".join(f'  File "{each.file}", line {each.line}, in {each.function}' for each in reversed(frames))

    def _frames(self, rank: int, text: str) -> list[stacks.Frame]:
        """The main thread's; of one that waits for its input, those of a thread in the user's code, if there is one."""
        state, threads = self.state_of(rank), stacks.threads(text)
        main = threads.get(state.thread, [])
        if state.phase != "input" or stacks.own_code(main):
            return main
        return next(filter(stacks.own_code, threads.values()), main)

    def tell_of_straggler(self, seen: Sequence[Seen]) -> None:
        """To the workers of this machine, when there is a new one or the last one has caught up."""
        now = time.monotonic()
        for each in seen:
            history = self._histories.setdefault(each.rank, deque())
            if each.state.is_long or each.state.step is None or each.has_ended:
                history.clear()
            elif not history or each.state.step != history[-1].step or each.state.phase == "exchange":
                history.append(Spent.of(each.state, now, each.has_unsent, each.has_unread))
            while history and history[0].time < now - straggler.LONGEST_S:
                history.popleft()
        if now < self._next_search:
            return
        self._next_search = now + straggler.INTERVAL_S
        found = straggler.find([(each.rank, each.host, self._histories[each.rank]) for each in seen])
        if news := self._teller.news(found, now):
            told = {} if news == "over" else {"rank": news.rank, "cost": news.cost, "message": str(news)}
            self._board.tell({"straggler": told})

    def ask(self, seen: Sequence[Seen]) -> Stacks:
        """Those of this machine for their stacks."""
        own = [each for each in seen if each.rank in self.ranks and not each.has_ended and each.state.attached]
        texts: dict[int, str] = {}
        for each in own:
            if each.facts.is_stopped:
                self._stopped_in[each.rank] = each.state
                texts |= self._ask([each])
                with contextlib.suppress(ProcessLookupError):
                    os.kill(each.state.pid, signal.SIGSTOP)  # it is not to train on now
        return texts | self._ask([each for each in own if not each.facts.is_stopped])

    def _ask(self, whom: Sequence[Seen]) -> dict[int, str]:
        asked: dict[int, int] = {}
        for each in whom:
            file = self._stacks[self.ranks.index(each.rank)]
            os.ftruncate(file, 0)
            if stacks.ask(each.state.pid):
                asked[each.rank] = file
        return stacks.collect(asked)

    def _seen(self, number: int, pid: int, has_ended: bool, now: float) -> Seen:
        assert self.stall_s is not None
        rank, now_facts = self.ranks[number], facts.of(pid)
        samples = self._samples[rank]
        samples.append(Sample(now, now_facts))
        while len(samples) > 2 and samples[1].time < now - _OF_LATE * self.stall_s:
            samples.popleft()
        before = samples[0]
        span_s = max(now - before.time, 1e-3)
        state = pulse.read(self._board.slot(number))
        if now_facts.is_stopped:
            self._stopped_at[rank] = now
        elif state.beat_age_s > now - self._stopped_at.get(rank, 0.0):  # it was let go on, and has to catch up
            state = replace(state, beat_age_s=now - self._stopped_at[rank])
        unsent, unread = facts.has_full_sockets(pid) if state.waits_in else (False, False)
        return Seen(
            rank=rank,
            host=self.host,
            state=state,
            facts=now_facts,
            has_ended=has_ended or now_facts.is_gone,
            is_busy=now_facts.cpu_s - before.facts.cpu_s > _BUSY * span_s,
            has_moved=now_facts.moved_bytes - before.facts.moved_bytes > _FEW_BYTES,
            has_unsent=unsent,
            has_unread=unread,
        )

    def _with_stack(self, each: Seen, texts: Stacks) -> Seen:
        if each.waits or each.rank not in texts:
            return each
        frames = stacks.main_thread(texts[each.rank], each.state.thread)
        frame = stacks.in_collective(frames)
        if frame is None and not each.is_busy:  # as under DistributedDataParallel, whose collectives nobody tells of
            frame = stacks.in_backward(frames)
        return replace(each, own_collective=str(frame)) if frame else each
