"""Where the workers' orders of collectives part: who called what, and who of them it is that does not fit.

Libraries answer unlike collectives with a hang, an abort or a wrong sum. Each worker tells of its last calls
(distdl/watch/pulse.py), with their places in the order of their group: the first place at which two calls differ is
where it began. The odd one out is the worker that differs from most; where that is a draw, the one that did not do what
all did after the same calls before, since steps are alike.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from distdl.watch.pulse import Call

_BEFORE = 3  # calls that have to be the same for what follows to be expected


@dataclass(frozen=True, slots=True)
class Parting:
    ranks: list[int]  # that do not fit; all that differ where that can't be told
    is_known: bool  # whose fault it is
    text: str


def find(calls_of: Mapping[int, Sequence[Call]]) -> Parting | None:
    """The first parting, over the groups; None where all that can be compared agree. `calls_of`: by rank."""
    found = [parting for group in _groups(calls_of) if (parting := _in_group(group, calls_of))]
    return min(found, key=lambda each: -each[0])[1] if found else None


def find_across_groups(calls_of: Mapping[int, Sequence[Call]], size: int) -> Parting | None:
    """As `find`, where workers wait in unlike groups of all `size` workers: as if these were one group.

    That calls in several groups come in one order is not promised, so it tells something only when all wait.
    """
    as_one = {
        rank: [replace(call, group=0, place=call.place_in_size, key=hash((call.group, call.key))) for call in calls]
        for rank, calls in calls_of.items()
    }
    return find({rank: [call for call in calls if call.size == size] for rank, calls in as_one.items()})


def _groups(calls_of: Mapping[int, Sequence[Call]]) -> list[int]:
    return sorted({call.group for calls in calls_of.values() for call in calls})


def _in_group(group: int, calls_of: Mapping[int, Sequence[Call]]) -> tuple[float, Parting] | None:
    """With its age in seconds."""
    at = {
        rank: {call.place: call for call in calls if call.group == group}
        for rank, calls in calls_of.items()
        if any(call.group == group for call in calls)
    }
    for place in sorted({place for of_rank in at.values() for place in of_rank}):
        there = {rank: of_rank[place] for rank, of_rank in at.items() if place in of_rank}
        keys = Counter(call.key for call in there.values())
        if len(keys) > 1:
            return max(call.age_s for call in there.values()), _parting(place, there, at)
    return None


def _parting(place: int, there: Mapping[int, Call], at: Mapping[int, Mapping[int, Call]]) -> Parting:
    expected = _expected(place, there, at)
    right = next((call for call in there.values() if expected and call.key == expected[0]), None)
    odd = sorted(rank for rank, call in there.items() if right and call.key != right.key)
    if not odd or right is None:
        told = "; ".join(f"rank {rank} called {call}" for rank, call in sorted(there.items()))
        return Parting(sorted(there), False, f"the workers called unlike collectives: {told}")
    rank, others = odd[0], [each for each in there if each not in odd]
    mine = [call for each, call in sorted(at[rank].items()) if each >= place]
    how = _how(at[rank].get(place - 1), mine, right, expected)
    text = f"rank {rank} called {mine[0]}, where {_named(others)} called {right}: {how}"
    return Parting(odd, True, text)


def _expected(place: int, there: Mapping[int, Call], at: Mapping[int, Mapping[int, Call]]) -> list[int]:
    """The keys from here on: those of most workers, or what once followed the same calls; [] where neither tells."""
    (most, n), *rest = Counter(call.key for call in there.values()).most_common()
    rank = next(each for each, call in there.items() if call.key == most)
    if n > rest[0][1]:
        following = [call.key for each, call in sorted(at[rank].items()) if each >= place]
        before = _once_followed(place, at[rank], most)
        return following if len(following) > len(before) else before
    for of_rank in at.values():
        if followed := _once_followed(place, of_rank):
            return followed
    return []


def _once_followed(place: int, calls: Mapping[int, Call], first: int | None = None) -> list[int]:
    """The keys that came after the same calls the last time, up to here; `first`: what the first of them has to be."""
    keys = [call.key for each, call in sorted(calls.items()) if each < place]
    before = keys[-_BEFORE:]
    for end in range(len(keys) - 1, len(before) - 1, -1):
        if before and keys[end - len(before) : end] == before and first in (None, keys[end]):
            return keys[end:]
    return []


def _how(before: Call | None, mine: Sequence[Call], right: Call, expected: Sequence[int]) -> str:
    """`before`: its own call before the first of `mine`."""
    is_again = before is not None and before.key == mine[0].key
    if mine[0].key in expected[1:] and not is_again:
        later = any(call.key == right.key for call in mine[1:])
        return "it calls them in another order" if later else "it left one out, or has another order"
    if _outline(mine[0]) == _outline(right):
        return "the shapes or dtypes differ"
    return "it called one more, or another one"


def _outline(call: Call) -> str:
    """A call without its shape and dtype: its operation and its name."""
    operation, _, rest = call.text.partition(" of [")
    return f"{operation} {rest.partition('(')[2]}"


def _named(ranks: Sequence[int]) -> str:
    if len(ranks) == 1:
        return f"rank {ranks[0]}"
    return f"ranks {', '.join(map(str, ranks[:4]))}" + (f" and {len(ranks) - 4} more" if len(ranks) > 4 else "")
