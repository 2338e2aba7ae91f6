"""Who is missing, and why: from what the workers told of themselves and what the kernel knows of them.

A worker that waits in a collective waits for others. Those that are late and don't wait are the ones that are missing;
where all wait, they wait in unlike collectives, or what lies between them carries nothing. A worker in a phase that may
take long (start, a first step, an evaluation, a save) is late later.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from distdl.watch import calls
from distdl.watch.facts import Facts
from distdl.watch.pulse import State

LONG = 20  # times the stall budget: of phases that may take long
LONG_START = 60  # of the start, where rank 0 may be indexing a large corpus
UNPROVEN = 3  # of the stall budget, where all wait alike and nothing but the silence tells that it is for ever
PACE = 3  # times the longest that a worker has told nothing in its steps so far

Cause = Literal["stopped", "input", "disk", "not arrived", "mismatched", "ended", "link"]

FIX = {
    "stopped": "Something stopped it: a debugger, a signal by hand, or the batch system. It was killed.",
    "input": "See the stacks of its reading threads. If reading may take so long, raise dist.stall_s.",
    "disk": "Look at the disk or the file server. If it may take so long, raise dist.stall_s.",
    "not arrived": "If this may take so long, raise dist.stall_s.",
    "mismatched": "All workers have to call the same collectives, in one order, with equal shapes and dtypes.",
    "ended": "All workers have to take equally many steps: is its part of the data shorter?",
    "link": "Look at the network between the hosts (`distdl doctor` measures it). If a step may take so long, raise "
    "dist.stall_s.",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """A worker, as seen from outside."""

    rank: int
    host: str
    state: State
    facts: Facts
    has_ended: bool = False
    is_busy: bool = False  # it used its processor of late
    has_moved: bool = False  # bytes came or went of late
    has_unsent: bool = False  # its connections hold bytes that the other side does not take
    has_unread: bool = False  # that it does not take itself
    own_collective: str = ""  # that it stands in without having told of it: `train.py:12 in forward`

    @property
    def name(self) -> str:
        return f"rank {self.rank} on {self.host}"

    def is_late(self, stall_s: float) -> bool:
        return self.state.beat_age_s > budget_s(self.state, stall_s)

    @property
    def waits(self) -> bool:
        return self.state.waits_in is not None or bool(self.own_collective)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    cause: Cause
    ranks: list[int]
    what: str  # one line
    after_s: float
    others: list[str] = field(default_factory=list)  # what the rest does, a line each

    @property
    def fix(self) -> str:
        return FIX[self.cause]


def budget_s(state: State, stall_s: float) -> float:
    if state.phase == "start":
        return stall_s * LONG_START
    return stall_s * LONG if state.is_long else max(stall_s, PACE * state.longest_s)


def is_stalled(seen: Sequence[Seen], stall_s: float) -> bool:
    """Whether there is something to judge: cheap, for every look."""
    alive = [each for each in seen if not each.has_ended]
    if _stopped(seen, stall_s):
        return True
    if any(not each.waits and each.is_late(stall_s) and not each.facts.is_stopped for each in alive):
        return True
    return bool(alive) and all(each.waits for each in alive) and any(_has_waited(each, stall_s) for each in alive)


def judge(seen: Sequence[Seen], stall_s: float) -> Verdict | None:
    """None while nobody is missing. With `own_collective` filled in where a worker's stack shows one."""
    alive = [each for each in seen if not each.has_ended]
    if stopped := _stopped(seen, stall_s):
        how = f"stopped by a signal (SIGSTOP or alike), in {_phase(stopped[0].state)}"
        return _against(stopped, "stopped", how, seen)
    missing = [each for each in alive if not each.waits and each.is_late(stall_s) and not each.facts.is_stopped]
    if missing:
        if len(missing) == len(alive) > 1 and (parting := _parting(seen)):
            return _mismatched(parting, seen)
        if len(missing) == len(alive):  # where devices wait and not their hosts: for who has begun the fewest
            fewest = min(_n_common(each, len(seen)) for each in missing)
            missing = [each for each in missing if _n_common(each, len(seen)) == fewest]
            # Collectives of other libraries are not told: who is not in a step keeps those who are waiting.
            missing = [each for each in missing if each.state.phase not in _IN_STEP] or missing
        return _against(missing, *_why_missing(missing[0]), seen)
    if not alive or not all(each.waits for each in alive):
        return None
    if parting := _parting(seen) or _parting_across_groups(seen):
        return _mismatched(parting, seen)
    if not all(_has_waited(each, stall_s) for each in alive):
        return None  # one of them came from a phase that may take long
    ended = [each for each in seen if each.has_ended]
    if ended:
        return _against(ended, "ended", "ended, and the others wait for it", seen)
    if len({each.own_collective for each in alive}) > 1:
        odd = [each for each in alive if each.own_collective]
        if len(odd) == len(alive):
            return _against(alive, "mismatched", "waiting in unlike collectives", seen)
        how = f"waiting in a collective that the others have not come to, called at {odd[0].own_collective}"
        return _against(odd, "mismatched", how, seen)
    times = LONG if any(each.has_moved for each in alive) else UNPROVEN  # what moves is slow, but not dead
    if not all(_has_waited(each, stall_s * times) for each in alive):
        return None
    hosts = sorted({each.host for each in alive})
    between = f"the network between {' and '.join(hosts[:4])}" if len(hosts) > 1 else f"the network on {hosts[0]}"
    what = (
        f"all workers have come to {_waiting_in(alive[0])}, but nothing gets through: {between}, or a device, is down"
    )
    return Verdict(cause="link", ranks=[], what=what, after_s=_waited_s(alive[0]))


_IN_STEP = ("forward", "backward", "exchange", "update")


def _n_common(each: Seen, n_workers: int) -> int:
    """How many collectives of all workers it has begun: leaders of hosts have others as well."""
    places = [call.place_in_size for call in each.state.calls if call.size == n_workers]
    return max(places, default=each.state.n_calls)


def _stopped(seen: Sequence[Seen], stall_s: float) -> list[Seen]:
    """Who is alone may be stopped, by Ctrl-Z say: nobody waits for it."""
    found = [each for each in seen if each.facts.is_stopped and each.state.beat_age_s > stall_s]
    return found if len(seen) > 1 else []


def _against(whom: Sequence[Seen], cause: Cause, how: str, seen: Sequence[Seen]) -> Verdict:
    ranks = [each.rank for each in whom]
    return Verdict(
        cause=cause,
        ranks=ranks,
        what=f"{_names(whom)} {how}",
        after_s=max(each.state.beat_age_s for each in whom),
        others=_others([each for each in seen if each.rank not in ranks]),
    )


def _mismatched(parting: calls.Parting, seen: Sequence[Seen]) -> Verdict:
    others = _others([each for each in seen if each.rank not in parting.ranks])
    after_s = max(_waited_s(each) for each in seen)
    return Verdict(cause="mismatched", ranks=parting.ranks, what=parting.text, after_s=after_s, others=others)


def _parting(seen: Sequence[Seen]) -> calls.Parting | None:
    return calls.find({each.rank: each.state.calls for each in seen})


def _parting_across_groups(seen: Sequence[Seen]) -> calls.Parting | None:
    waited_for = {each.state.waits_in.group for each in seen if each.state.waits_in}
    if len(waited_for) < 2 or any(each.has_moved for each in seen):
        return None  # what moves may still get there: calls in several groups need not come in one order
    return calls.find_across_groups({each.rank: each.state.calls for each in seen}, len(seen))


def _why_missing(each: Seen) -> tuple[Cause, str]:
    state = each.state
    for_s = f"for {state.beat_age_s:.1f} s"
    if each.facts.is_on_disk or state.phase == "save":
        return "disk", f"held up by a disk or a file server {for_s}, in {_phase(state)}"
    if state.phase == "input":
        return "input", f"got no batch {for_s}: its input is stalled"
    how = "(its processor is busy)" if each.is_busy else "(it does nothing)"
    return "not arrived", f"got no further {for_s} {how}, in {_phase(state)}"


def _others(rest: Sequence[Seen]) -> list[str]:
    """Those that do the same on one line."""
    doing: dict[str, list[Seen]] = {}
    for each in rest:
        doing.setdefault(_doing(each), []).append(each)
    return [f"{_names(whom)}: {what}" for what, whom in doing.items()]


def _doing(each: Seen) -> str:
    if each.has_ended:
        return "ended"
    return f"waiting in {_waiting_in(each)}" if each.waits else f"in {_phase(each.state)}"


def _waiting_in(each: Seen) -> str:
    return str(each.state.waits_in) if each.state.waits_in else f"a collective, called at {each.own_collective}"


def _waited_s(each: Seen) -> float:
    return each.state.waits_s if each.state.waits_in else each.state.beat_age_s


def _has_waited(each: Seen, stall_s: float) -> bool:
    return _waited_s(each) > budget_s(each.state, stall_s)


def _phase(state: State) -> str:
    names = {
        "start": "its start",
        "log": "its metrics",
        "evaluate": "an evaluation",
        "end": "its end",
        "failed": "its failure",
        "save": "a save",
    }
    return names.get(state.phase, state.phase) + " of a first step" * (state.is_first and state.phase not in names)


def _names(whom: Sequence[Seen]) -> str:
    """`rank 3 on node-b`, `ranks 0, 1 on node-a and rank 3 on node-b`"""
    by_host: dict[str, list[str]] = {}
    for each in whom:
        by_host.setdefault(each.host, []).append(str(each.rank))
    named = [f"rank{'s' * (len(ranks) > 1)} {', '.join(_few(ranks))} on {host}" for host, ranks in by_host.items()]
    return " and ".join(_few(named))


def _few(names: list[str]) -> list[str]:
    return names if len(names) <= 4 else [*names[:4], f"{len(names) - 4} more"]
