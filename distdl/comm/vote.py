"""Decisions that all workers take at the same turn, without an extra wait, where no gradients travel: in an evaluation.
(In training it is comm/status.py.)

Each turn ends with a vote: a few counters that are summed over the workers in the background. The sum of the votes cast
in a turn is read at the end of the next one, when it has long arrived: every worker reads the same sum at the same
turn, and none waits.
"""

import torch

from distdl.comm import collectives
from distdl.comm.collectives import Pending

Counts = dict[str, int]


class Vote:
    """`topics`: the names of the counters, the same on every worker."""

    def __init__(self, *topics: str) -> None:
        self.topics = topics
        self._cast: tuple[torch.Tensor, Pending] | None = None
        self._alone: Counts | None = None  # with one worker the sum is its own vote

    def cast(self, **counts: int) -> Counts:
        """Casts this turn's counts and returns the sums over the workers of the turn before (zeros at first)."""
        before = self.drain()
        if collectives.world_size() == 1:
            self._alone = {topic: counts.get(topic, 0) for topic in self.topics}
            return before
        mine = torch.tensor([counts.get(topic, 0) for topic in self.topics], dtype=torch.int64)
        self._cast = (mine, collectives.start_sum(mine))
        return before

    def drain(self) -> Counts:
        """The sums of the last vote cast, waiting for them; zeros if none is under way."""
        if self._alone is not None:
            alone, self._alone = self._alone, None
            return alone
        if self._cast is None:
            return dict.fromkeys(self.topics, 0)
        sums, pending = self._cast
        pending.wait()
        self._cast = None
        return dict(zip(self.topics, sums.tolist()))
