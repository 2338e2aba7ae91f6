"""How a step's rows are cut into forwards that fit a device and hold little padding: as many for each of its parts.

Ranks that reduce gradients together make equally many forwards, however long their sounds are. The cut is a function of
the lengths of the whole step, which all ranks know from the sample plan, so that they agree on it without a word. The
parts are those of distdl.data.order.Rows.parts: one for each rank, or the leaves of a fixed reduction tree.
"""

from itertools import count

import numpy as np
import numpy.typing as npt

from distdl.data.order import Int64s, Rows

_MOST_ROWS = 1024  # that are cut together, in time and memory that go with their square
_EVENNESS = 1e-3  # of two cuts that compute the same, the one into more even forwards


def sorted_in_parts(rows: Rows, lengths_of_step: Int64s, n_parts: int) -> Rows:
    """The step with the rows of each part by length, shortest first, rows that are not valid last in their part.

    Every part has the rows that it had. Its forwards have less padding then, where lengths in a step differ much.
    """
    part = np.repeat(np.arange(n_parts), np.diff(np.arange(n_parts + 1) * len(rows) // n_parts))
    order = np.lexsort((lengths_of_step, ~rows.valid, part))
    of_rows = rows.sample_id[order], rows.epoch[order], rows.offset[order], rows.valid[order]
    return Rows(*of_rows, rows.resolution, rows.size)


def micro_batches(lengths_of_step: Int64s, n_parts: int, at_once: int, least_saving: float = 1.0) -> Int64s:
    """Borders (n_parts, M + 1) of M forwards in each part: rows [b[p, m], b[p, m + 1]) of the step's B.

    A forward computes its rows times its longest, in audio samples. None of two rows or more computes over `at_once`; a
    row that is longer by itself is alone. Of the numbers of forwards for which all parts can do so, M is the least for
    which another forward would not spare `least_saving` of what the step computes; with 1.0, the least. No other cut
    into M computes less. Parts with fewer rows than M (as shares differ by one) have empty forwards at their end.
    """
    n_rows = len(lengths_of_step)
    n_pieces = n_parts * max(1, -(-n_rows // (n_parts * _MOST_ROWS)))
    edges = np.arange(n_pieces + 1) * n_rows // n_pieces
    of_size = {size: np.flatnonzero(np.diff(edges) == size) for size in np.unique(np.diff(edges)).tolist() if size}
    ways = {
        size: _Cuts(lengths_of_step[edges[pieces][:, None] + np.arange(size)], at_once)
        for size, pieces in of_size.items()
    }
    n_forwards = _worthwhile(list(ways.values()), least_saving)
    borders = np.repeat(edges[1:, None], n_forwards + 1, axis=1)
    borders[:, 0] = edges[:-1]
    for size, pieces in of_size.items():
        ends = ways[size].ends(min(n_forwards, size))
        borders[pieces, 1 : 1 + ends.shape[1]] = edges[pieces][:, None] + ends
    first, of_parts = borders[:: n_pieces // n_parts, :1], borders[:, 1:].reshape(n_parts, -1)
    return np.concatenate([first, of_parts], axis=1)


def _worthwhile(ways: list["_Cuts"], least_saving: float) -> int:
    computed = np.inf
    for n_forwards in count(1):
        of_more = sum(each.computed(n_forwards) for each in ways)
        if np.isfinite(computed) and computed - of_more <= least_saving * computed:
            return n_forwards - 1
        computed = of_more
    raise AssertionError("as many forwards as rows can't be bettered")


class _Cuts:
    """All ways to cut parts of N rows each, of `lengths_PN`, into contiguous forwards: the one that computes least is
    found for one forward after the other, from those of all shorter parts (dynamic programming)."""

    def __init__(self, lengths_PN: Int64s, at_once: int) -> None:
        at = np.arange(lengths_PN.shape[1])
        n_rows_BE = at + 1 - at[:, None]  # of the forward from row b to row e, inclusive
        longest_PBE = np.maximum.accumulate(np.where(n_rows_BE > 0, lengths_PN[:, None], 0), axis=2)
        cost_PBE = (n_rows_BE * longest_PBE).astype(np.float64)
        cost_PBE[(n_rows_BE <= 0) | ((cost_PBE > at_once) & (n_rows_BE > 1))] = np.inf
        self._cost_PBE = cost_PBE
        uneven = _EVENNESS / max(1.0, float(lengths_PN.max(initial=0)) * len(at))
        self._weighed_PBE = cost_PBE * (1 + uneven * cost_PBE)
        self._best_PE = [self._weighed_PBE[:, 0]]
        self._from_PE: list[npt.NDArray[np.intp]] = [np.zeros(self._best_PE[0].shape, np.intp)]

    def computed(self, n_forwards: int) -> float:
        """By all parts, with so many forwards, or as many as there are rows; inf where one would compute too much."""
        n_forwards = min(n_forwards, self._cost_PBE.shape[1])
        while len(self._best_PE) < n_forwards:
            self._add()
        if not np.isfinite(self._best_PE[n_forwards - 1][:, -1]).all():
            return np.inf
        ends_PM = self.ends(n_forwards)
        begins_PM = np.concatenate([np.zeros_like(ends_PM[:, :1]), ends_PM[:, :-1]], axis=1)
        return float(self._cost_PBE[np.arange(len(ends_PM))[:, None], begins_PM, ends_PM - 1].sum())

    def ends(self, n_forwards: int) -> Int64s:
        """(P, n_forwards): the row after the last one of each."""
        at_P = np.full(self._cost_PBE.shape[0], self._cost_PBE.shape[1])
        ends = [at_P]
        for from_PE in self._from_PE[n_forwards - 1 : 0 : -1]:
            at_P = from_PE[np.arange(len(at_P)), at_P - 1]
            ends.append(at_P)
        return np.stack(ends[::-1], axis=1)

    def _add(self) -> None:
        before_PE = self._best_PE[-1]
        way_PBE = self._weighed_PBE[:, 1:] + before_PE[:, :-1, None]  # the last forward begins at row 1 or later
        self._best_PE.append(way_PBE.min(axis=1))
        self._from_PE.append(way_PBE.argmin(axis=1) + 1)
