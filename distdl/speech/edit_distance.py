"""How far a hypothesis is from its reference: the fewest substitutions, deletions and insertions, and which they are.

The matrix of distances (Levenshtein 1966) is held a row at a time as bits of two integers, the differences +1 and -1
between neighbours (Myers 1999, J. ACM 46(3); in the form of Hyyrö 2003): a row costs a few operations of Python's,
however long the reference. An error rate over many sentences is the sum of errors over the sum of reference lengths.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

Pair = tuple[Hashable, Hashable]


@dataclass(frozen=True, slots=True)
class Alignment:
    """`pairs` are (of the reference, of the hypothesis) in order, with None for what is missing on its side."""

    substitutions: int
    deletions: int
    insertions: int
    hits: int
    pairs: list[Pair]

    @property
    def errors(self) -> int:
        return self.substitutions + self.deletions + self.insertions

    @property
    def reference_length(self) -> int:
        return self.hits + self.substitutions + self.deletions


class Errors(NamedTuple):
    """Of one sentence or of many: `of_many` adds them up."""

    errors: int
    reference_length: int

    @property
    def rate(self) -> float:
        """Errors per unit of the reference; with an empty reference 0 where nothing was inserted, else infinite."""
        if not self.reference_length:
            return float("inf") if self.errors else 0.0
        return self.errors / self.reference_length


def words(text: str) -> list[str]:
    return text.split()


def characters(text: str) -> list[str]:
    """With the single space between words, and none at the ends."""
    return list(" ".join(text.split()))


def word_errors(reference: str, hypothesis: str) -> Errors:
    return errors(words(reference), words(hypothesis))


def character_errors(reference: str, hypothesis: str) -> Errors:
    return errors(characters(reference), characters(hypothesis))


def errors(reference: Sequence[Hashable], hypothesis: Sequence[Hashable]) -> Errors:
    return Errors(distance(reference, hypothesis), len(reference))


def of_many(counted: Sequence[Errors]) -> Errors:
    return Errors(sum(each.errors for each in counted), sum(each.reference_length for each in counted))


def distance(reference: Sequence[Hashable], hypothesis: Sequence[Hashable]) -> int:
    """The fewest changes of one unit that make the hypothesis of the reference."""
    begin, end = _common_ends(reference, hypothesis)
    middle, other = reference[begin : len(reference) - end], hypothesis[begin : len(hypothesis) - end]
    n = len(middle)
    if not n or not other:
        return n + len(other)
    rows = _rows(middle, other)
    plus, minus = rows[-1]
    # The last row begins at the length of the hypothesis, and each bit is one step from there.
    return len(other) + plus.bit_count() - minus.bit_count()


def align(reference: Sequence[Hashable], hypothesis: Sequence[Hashable]) -> Alignment:
    """One of the alignments with the fewest errors, always the same: see `_middle` for which."""
    begin, end = _common_ends(reference, hypothesis)
    middle = _middle(reference[begin : len(reference) - end], hypothesis[begin : len(hypothesis) - end])
    before = list(zip(reference[:begin], hypothesis[:begin]))
    after = list(zip(reference[len(reference) - end :], hypothesis[len(hypothesis) - end :]))
    kinds = [kind for kind, _ in middle]
    return Alignment(
        substitutions=kinds.count("substitution"),
        deletions=kinds.count("deletion"),
        insertions=kinds.count("insertion"),
        hits=kinds.count("hit") + begin + end,
        pairs=[*before, *(pair for _, pair in middle), *after],
    )


def _common_ends(one: Sequence[Hashable], other: Sequence[Hashable]) -> tuple[int, int]:
    """How many units are the same at the beginning, and how many of the rest at the end."""
    most = min(len(one), len(other))
    begin = 0
    while begin < most and one[begin] == other[begin]:
        begin += 1
    end = 0
    while end < most - begin and one[-1 - end] == other[-1 - end]:
        end += 1
    return begin, end


def _rows(reference: Sequence[Hashable], hypothesis: Sequence[Hashable]) -> list[tuple[int, int]]:
    """For 0, 1, ... units of the hypothesis: bit i is set where the distance rises, or falls, from i to i + 1 units."""
    everywhere = (1 << len(reference)) - 1
    places: dict[Hashable, int] = {}
    for number, unit in enumerate(reference):
        places[unit] = places.get(unit, 0) | 1 << number
    plus, minus = everywhere, 0
    rows = [(plus, minus)]
    for unit in hypothesis:
        equal = places.get(unit, 0)
        diagonal = (((equal & plus) + plus) ^ plus) | equal | minus
        rises = (((minus | ~(diagonal | plus)) << 1) | 1) & everywhere
        falls = ((diagonal & plus) << 1) & everywhere
        plus = (falls | ~(diagonal | rises)) & everywhere
        minus = rises & diagonal
        rows.append((plus, minus))
    return rows


def _middle(reference: Sequence[Hashable], hypothesis: Sequence[Hashable]) -> list[tuple[str, Pair]]:
    """From the end to the beginning: a deletion where one is as good as all else, then what is in both, then an
    insertion only where nothing else is as good. These are the choices of rapidfuzz, and so of jiwer."""
    rows = _rows(reference, hypothesis)
    i, j = len(reference), len(hypothesis)
    found: list[tuple[str, Pair]] = []
    while i and j:
        here = 1 << (i - 1)
        if rows[j][0] & here:
            i -= 1
            found.append(("deletion", (reference[i], None)))
        elif j > 1 and rows[j - 1][1] & here:
            j -= 1
            found.append(("insertion", (None, hypothesis[j])))
        else:
            i, j = i - 1, j - 1
            kind = "hit" if reference[i] == hypothesis[j] else "substitution"
            found.append((kind, (reference[i], hypothesis[j])))
    found += [("deletion", (reference[number], None)) for number in reversed(range(i))]
    found += [("insertion", (None, hypothesis[number])) for number in reversed(range(j))]
    return found[::-1]
