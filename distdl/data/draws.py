"""Weighted draws as places on a line: each sample takes up a length of it that is its weight.

The shards lie end to end in an epoch's order. Where the plan would shuffle the entries of a window, it draws as many
points from the window's stretch of the line instead, with replacement. So reading stays as local as without weights;
over an epoch of D draws sample i is expected D * weight[i] / sum(weight) times, and counts vary less than with draws
from everywhere (stratified sampling). The line's rotation, a keyed number, gives each position of an epoch the same
chance of every sample.
"""

import numpy as np
import numpy.typing as npt
import xxhash

Int64s = npt.NDArray[np.int64]
Float64s = npt.NDArray[np.float64]


class WeightedLine:
    """`weights` (N,) in the order of sample ids, finite, from 0 on, not all 0; `sizes`: samples in each shard."""

    def __init__(self, weights: Float64s, sizes: Int64s) -> None:
        self.identity = xxhash.xxh3_128_hexdigest(weights.astype("<f8").tobytes())
        (self._ids,) = np.nonzero(weights)  # of the samples that can be drawn: what follows counts these alone
        self._ends = np.cumsum(weights[self._ids])  # on a line with the shards in their own order
        bounds = np.searchsorted(self._ids, np.concatenate([[0], np.cumsum(sizes)]))  # first of each shard, and the end
        self._first, self._end = bounds[:-1], bounds[1:]
        self._begins = np.concatenate([[0.0], self._ends])[self._first]
        self._lengths = np.concatenate([[0.0], self._ends])[self._end] - self._begins

    def ids(self, shards: Int64s, at: Float64s) -> Int64s:
        """Sample ids at places `at`, in 0 .. 1 of the line on which the shards lie in the given order."""
        shards = shards[self._first[shards] < self._end[shards]]
        ends = np.cumsum(self._lengths[shards])
        place = at * ends[-1]
        nth = np.minimum(np.searchsorted(ends, place, side="right"), len(shards) - 1)
        shard = shards[nth]
        inside = place - (ends[nth] - self._lengths[shard])
        found = np.searchsorted(self._ends, self._begins[shard] + inside, side="right")
        return self._ids[np.clip(found, self._first[shard], self._end[shard] - 1)]  # rounding stays within the shard
