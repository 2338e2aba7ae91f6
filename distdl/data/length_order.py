"""The sample plan of sounds: steps whose samples are of like lengths, so that little of a batch is padding.

    lengths, each times a keyed 1 +- jitter  ->  sorted  ->  cut into steps of a global batch
    ->  the steps of an epoch in an order by a keyed hash  ->  a step's rows spread over its row slots by length

So a sample meets others in every epoch, of all those whose lengths are within about twice the jitter, and how long a
step's samples are says nothing of its place. Where an epoch ends inside a step, both epochs give that step samples from
one quantile of their lengths, drawn for the step: each epoch has every sample once, and the step's are alike as well.

A pure function of (seed, epoch, position, all lengths), as distdl/data/order.py's: ranks and loader workers appear
nowhere. Samples of one step stand anywhere in the corpus, which is read at random; sounds are small and few.
"""

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import xxhash

from distdl.config.schema import GrowthConfig
from distdl.data.draws import Float64s
from distdl.data.mixture_order import turns
from distdl.data.order import Int64s, Plan, Rows, UInt64s, keyed
from distdl.errors import UserError

DEFAULT_JITTER = 0.02  # of uniformly drawn lengths, 2 % of a step are padding then
_EPOCHS_KEPT = 3  # two can meet in a step, and batches are made ahead

Order = Literal["by_length", "shortest_first", "shuffled"]


class LengthPlan(Plan):
    """Of samples with `lengths` (in audio samples), which stand in shards that hold `sizes` of them.

    `order` is by_length; shortest_first, whose first epoch goes from the shortest samples to the longest (SortaGrad:
    Amodei et al. 2015, Deep Speech 2, section 3.2) and whose later ones are by_length; or shuffled: Plan's own order,
    of which only the steps' sizes are known beforehand. With tail "drop", those left out are drawn in each epoch.
    Raises UserError as Plan does, and for growth unless shuffled.
    """

    def __init__(
        self,
        sizes: Int64s,
        lengths: Int64s,
        *,
        seed: int,
        global_batch: int,
        order: Order = "by_length",
        jitter: float = DEFAULT_JITTER,
        lanes: int | None = None,
        window: int = 1000,
        tail: Literal["carry", "drop"] = "carry",
        growth: GrowthConfig | None = None,
    ) -> None:
        if growth and order != "shuffled":
            raise UserError(
                "steps of like lengths are formed for one global batch, and this one grows",
                where=f"data.sound.order: {order}",
                fix="Leave train.batch_growth out, or use data.sound.order: shuffled.",
            )
        super().__init__(
            sizes, seed=seed, global_batch=global_batch, lanes=lanes, window=window, tail=tail, growth=growth
        )
        self.lengths = np.asarray(lengths, np.int64)
        if len(self.lengths) != self.n_samples:
            raise ValueError(f"{len(self.lengths)} lengths of {self.n_samples} samples")
        self.order = order
        self.jitter = jitter
        self._turns = turns(global_batch)
        self._epochs: OrderedDict[int, Int64s] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"_epochs": OrderedDict()}

    @property
    def identity(self) -> dict[str, Any]:
        digest = xxhash.xxh3_128_hexdigest(self.lengths.astype("<i8").tobytes())
        own = {} if self.order == "shuffled" else {"jitter": self.jitter}
        return super().identity | {"order": self.order, "lengths": digest} | own

    def ids(self, epoch: Int64s, offset: Int64s) -> Int64s:
        """As Plan's. An offset may lie outside of its epoch."""
        epoch, offset = np.divmod(epoch * self.epoch_length + offset, self.epoch_length)
        if self.order == "shuffled":
            return super().ids(epoch, offset)
        out = np.empty(len(offset), np.int64)
        for each in np.unique(epoch):
            with self._lock:
                order = self._epoch(int(each))
            here = epoch == each
            out[here] = order[offset[here]]
        return out

    def next_in_lane(self, epoch: int, offset: int) -> tuple[int, int]:
        """The offset that follows in the same step (round its end; outside of the epoch, if the step is): no stand-in
        is longer than the step's size. In a step of one sample that is the sample itself."""
        position = epoch * self.epoch_length + offset
        batch = self.global_batch
        if self.order == "shuffled" and self._grows_at:
            return super().next_in_lane(epoch, offset)
        following = position // batch * batch + (position + 1) % batch - epoch * self.epoch_length
        return following, int(self.ids(np.array([epoch]), np.array([following]))[0])

    def _steps(self, first: int, n_steps: int, batch: int, end: int) -> Iterator[Rows]:
        for rows in super()._steps(first, n_steps, batch, end):
            yield replace(rows, size=int(self.lengths[rows.sample_id].max()))

    def _by_lane(self, epoch_SB: Int64s, offset_SB: Int64s) -> Int64s:
        """By length, spread: any contiguous part of a step has short and long ones, for any number of parts."""
        if self.order == "shuffled":
            return super()._by_lane(epoch_SB, offset_SB)
        length_SB = self.lengths[self.ids(epoch_SB.ravel(), offset_SB.ravel())].reshape(epoch_SB.shape)
        return np.argsort(length_SB, axis=1, kind="stable")[:, self._turns]

    def _epoch(self, epoch: int) -> Int64s:
        if epoch not in self._epochs:
            self._epochs[epoch] = self._make_epoch(epoch)
            if len(self._epochs) > _EPOCHS_KEPT:
                self._epochs.popitem(last=False)
        return self._epochs[epoch]

    def _make_epoch(self, epoch: int) -> Int64s:
        """Sample ids at the epoch's offsets: the rest of the step that the last one began, whole steps, and the begin
        of the next one's first."""
        rising = self.order == "shortest_first" and epoch == 0
        chosen = self._by_jittered_length(epoch, 0.0 if rising else self.jitter)
        begin, batch = epoch * self.epoch_length, self.global_batch
        n_before = min(-begin % batch, len(chosen))
        before, chosen = self._take(chosen, n_before, begin // batch)
        after, chosen = self._take(chosen, len(chosen) % batch, (begin + self.epoch_length - 1) // batch)
        step_SB = chosen.reshape(-1, batch)
        if not rising:
            numbers = np.arange(len(step_SB), dtype=np.uint64)
            step_SB = step_SB[np.argsort(keyed(self.seed, epoch, 13, numbers), kind="stable")]
        return np.concatenate([before, step_SB.ravel(), after])

    def _by_jittered_length(self, epoch: int, jitter: float) -> Int64s:
        """The ids of the epoch's samples, shortest first."""
        chosen = np.arange(self.n_samples)
        if self.tail == "drop":
            order = np.argsort(keyed(self.seed, epoch, 11, chosen.astype(np.uint64)), kind="stable")
            chosen = np.sort(order[: self.epoch_length])
        chance = keyed(self.seed, epoch, 12, chosen.astype(np.uint64))
        jittered = self.lengths[chosen] * (1 + jitter * (2 * _uniform(chance) - 1))
        return chosen[np.lexsort((chance, jittered))]

    def _take(self, chosen: Int64s, n: int, step: int) -> tuple[Int64s, Int64s]:
        """(n successive ones of the chosen, the others), from the quantile of the step, which two epochs share."""
        ends_rising = self.order == "shortest_first" and step == (self.epoch_length - 1) // self.global_batch
        quantile = 1.0 if ends_rising else float(_uniform(keyed(self.seed, 14, step))[0])
        first = round(quantile * (len(chosen) - n))
        return chosen[first : first + n], np.delete(chosen, slice(first, first + n))


def _uniform(values: UInt64s) -> Float64s:
    """In [0, 1), of 53 bits."""
    return (values >> np.uint64(11)) / 2.0**53


def sequential_by_length(lengths: Int64s, batches: Iterable[int], rows_per_batch: int) -> Iterator[Rows]:
    """These batches of an evaluation by length (in audio samples), shortest first, those of one length by id.

    The last batch is padded with valid False, as by order.sequential_rows.
    """
    by_length = np.argsort(lengths, kind="stable")
    for batch in batches:
        at = np.arange(batch * rows_per_batch, (batch + 1) * rows_per_batch, dtype=np.int64)
        valid = at < len(lengths)
        found = by_length[at[valid]]
        sample_id = np.concatenate([found, np.full(len(at) - len(found), -1, np.int64)])
        yield Rows(sample_id, np.zeros_like(at), at, valid, size=int(lengths[found].max(initial=0)))
