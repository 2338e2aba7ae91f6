"""How a step's rows are cut into forwards that fit a device: the same number for each of its parts.

Ranks that reduce gradients together make equally many forwards, however long their sounds are. The cut is a function of
the lengths of the whole step, which all ranks know from the sample plan, so that they agree on it without a word. The
parts are those of distdl.data.order.Rows.parts: one for each rank, or the leaves of a fixed reduction tree.
"""

import itertools

import numpy as np

from distdl.data.order import Int64s, Rows


def sorted_in_parts(rows: Rows, lengths_of_step: Int64s, n_parts: int) -> Rows:
    """The step with the rows of each part by length, shortest first, rows that are not valid last in their part.

    Every part has the rows that it had. Its forwards have less padding then, where lengths in a step differ much.
    """
    part = np.repeat(np.arange(n_parts), np.diff(np.arange(n_parts + 1) * len(rows) // n_parts))
    order = np.lexsort((lengths_of_step, ~rows.valid, part))
    of_rows = rows.sample_id[order], rows.epoch[order], rows.offset[order], rows.valid[order]
    return Rows(*of_rows, rows.resolution, rows.size)


def micro_batches(lengths_of_step: Int64s, n_parts: int, at_once: int) -> Int64s:
    """Borders (n_parts, M + 1) of M forwards in each part: rows [b[p, m], b[p, m + 1]) of the step's B.

    No forward of two rows or more has a padded cost, its rows times its longest, over `at_once` audio samples; a row
    that is longer by itself is alone. M is the least number for which all parts can do so. A part's costliest forward
    is as cheap as M allows. Parts with fewer rows than M (as shares differ by one) have empty forwards at their end.
    """
    n_rows = len(lengths_of_step)
    edges = [part * n_rows // n_parts for part in range(n_parts + 1)]
    parts = [[int(n) for n in lengths_of_step[begin:end]] for begin, end in itertools.pairwise(edges)]
    n_forwards = max(1, *(len(_cut(part, at_once)) for part in parts))
    borders = np.empty((n_parts, n_forwards + 1), np.int64)
    for number, (part, begin) in enumerate(zip(parts, edges)):
        ends = _cut(part, _least_cost(part, n_forwards, at_once), n_forwards)
        ends += [len(part)] * (n_forwards - len(ends))
        borders[number] = [begin, *(begin + end for end in ends)]
    return borders


def _cut(lengths: list[int], most: int, n_forwards: int = 0) -> list[int]:
    """Where forwards end that are filled one after the other up to a cost of `most`: the fewest that there can be.

    With `n_forwards`, they are cut earlier where else there would be fewer.
    """
    ends: list[int] = []
    begin = longest = 0
    for at, length in enumerate(lengths):
        longest = max(longest, length)
        too_much = (at + 1 - begin) * longest > most
        too_few = len(lengths) - at < n_forwards - len(ends)  # a row for each forward that is yet to come
        if at > begin and (too_much or too_few):
            ends.append(at)
            begin, longest = at, length
    return [*ends, len(lengths)] if lengths else []


def _least_cost(lengths: list[int], n_forwards: int, at_once: int) -> int:
    """The least bound by which no more than so many forwards are needed, by bisection; `at_once` is one."""
    low, high = -(-sum(lengths) // n_forwards) - 1, at_once
    if n_forwards == 1 or not lengths:
        return at_once
    low = min(low, high - 1)
    while high - low > 1:
        middle = (low + high) // 2
        if len(_cut(lengths, middle)) <= n_forwards:
            high = middle
        else:
            low = middle
    return high
