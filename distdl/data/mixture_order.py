"""The sample plan of a mixture: sources by weight, each gone through by a plan of its own.

    position p  ->  the source that entry p % P of a pattern names  ->  how many of it came before: n
    ->  position n of that source's plan, whose epochs are the passes over the source, and whose lanes take turns by
        their numbers' bits reversed: 0, 4, 2, 6, 1, 5, 3, 7

Weights become whole parts of a period P of at most 10,000 positions. Tijdeman's solution of the chairman assignment
problem (Discrete Mathematics 32, 1980) orders them: among k sources, each one's number in the first p positions differs
from its share of p by at most 1 - 1 / (2k - 2). So over any stretch of a run, a batch for one, it differs by less than
1 with two sources, by less than 2 with more (where no order keeps within 1 for most weights), and by 0 over P. Each
pass over a source has all of its samples once.

Ranks appear nowhere, and the position is all there is to keep. In a batch each source's rows stand by lane, from its
first to its last, and the sources side by side: a rank gets its share of each. The turns spread also a few rows of a
source over all of its lanes, so that a rank reads the same part of it in every batch, but for a little at its borders.
"""

import math
from collections.abc import Mapping
from fractions import Fraction
from typing import Any, Literal

import numpy as np

from distdl.config.schema import GrowthConfig
from distdl.data.order import PLAN_VERSION, Int64s, Plan, augmentation_key, seed_of
from distdl.errors import UserError

MOST_PARTS = 10_000


class MixturePlan(Plan):
    """Of sources that hold samples of the numbers `sizes`, in shards. Sample ids count through the sources in turn.

    An epoch is `draws` positions (default: as many as there are samples), and a length of time alone: nothing begins
    anew with it, so that tail "drop" leaves nothing out. Raises UserError as Plan does, and for a weight that has less
    than one part.
    """

    def __init__(
        self,
        sizes: Mapping[str, Int64s],
        weights: Mapping[str, float],
        *,
        seed: int,
        global_batch: int,
        lanes: int | None = None,
        window: int = 1000,
        tail: Literal["carry", "drop"] = "carry",
        draws: int | None = None,
        growth: GrowthConfig | None = None,
    ) -> None:
        of_all = np.concatenate(list(sizes.values()))
        super().__init__(of_all, seed=seed, global_batch=global_batch, tail=tail, draws=draws, growth=growth)
        self.parts = parts_of({name: weights[name] for name in sizes})
        self._plans = [  # seeds of their own: two versions of one corpus don't come in the same order
            Plan(of_one, seed=seed_of(seed, number), global_batch=1, lanes=lanes, window=window)
            for number, of_one in enumerate(sizes.values())
        ]
        self._n_samples_K = np.array([plan.n_samples for plan in self._plans])
        self._lanes_K = np.array([plan.lanes for plan in self._plans])
        self._parts_K = np.array(list(self.parts.values()))
        self._first_K = np.cumsum(self._n_samples_K) - self._n_samples_K
        self._turns = [turns(plan.lanes) for plan in self._plans]
        self._lane_in_turn = np.concatenate(self._turns)
        self._first_turn_K = np.cumsum(self._lanes_K) - self._lanes_K
        self._source_at = pattern(list(self.parts.values()))
        self.shares = {name: n_parts / len(self._source_at) for name, n_parts in self.parts.items()}
        self._nth_at = np.zeros_like(self._source_at)
        self._places = [np.flatnonzero(self._source_at == source) for source in range(len(sizes))]
        for places in self._places:
            self._nth_at[places] = np.arange(len(places))

    @property
    def identity(self) -> dict[str, Any]:
        lanes = {name: plan.lanes for name, plan in zip(self.parts, self._plans)}
        return {"plan": PLAN_VERSION, "mixture": self.parts, "lanes": lanes}

    def ids(self, epoch: Int64s, offset: Int64s) -> Int64s:
        source, own = self._in_source(epoch, offset)
        out = np.empty_like(offset)
        for number, plan in enumerate(self._plans):
            here = source == number
            out[here] = self._first_K[number] + plan.ids(*np.divmod(own[here], plan.n_samples))
        return out

    def next_in_lane(self, epoch: int, offset: int) -> tuple[int, int]:
        """In the lane of its own source, and within the same pass. The offset may lie outside of the epoch."""
        source, own = map(int, self._in_source(epoch, offset))
        plan, places = self._plans[source], self._places[source]
        of_pass, own_offset = divmod(own, plan.n_samples)
        following, own_id = plan.next_in_lane(of_pass, own_offset)
        entry, lane = divmod(following, plan.lanes)
        if (entry + 1) * plan.lanes <= plan.n_samples:
            following = entry * plan.lanes + int(np.flatnonzero(self._turns[source] == lane)[0])
        period, part = divmod(of_pass * plan.n_samples + following, len(places))
        position = period * len(self._source_at) + int(places[part])
        return position - epoch * self.epoch_length, int(self._first_K[source]) + own_id

    def augmentation_seed(self, epoch: int, offset: int, sample_id: int) -> int:
        """The pass over its source tells apart how often a sample is seen."""
        source, nth = map(int, self._count(epoch, offset))
        return augmentation_key(self.seed, nth // self._plans[source].n_samples, sample_id)

    def _count(self, epoch: Int64s | int, offset: Int64s | int) -> tuple[Int64s, Int64s]:
        """Which source stands at offsets of epochs, and how many of its samples came before."""
        period, place = divmod(epoch * self.epoch_length + offset, len(self._source_at))
        source = self._source_at[place]
        return source, period * self._parts_K[source] + self._nth_at[place]

    def _in_source(self, epoch: Int64s | int, offset: Int64s | int) -> tuple[Int64s, Int64s]:
        """Which source stands at offsets of epochs, and at which position of its own plan."""
        source, nth = self._count(epoch, offset)
        n_samples, lanes = self._n_samples_K[source], self._lanes_K[source]
        of_pass, offset_of_pass = np.divmod(nth, n_samples)
        entry, turn = np.divmod(offset_of_pass, lanes)
        all_have_it = (entry + 1) * lanes <= n_samples  # of the last entry, the lanes come that have one
        lane = np.where(all_have_it, self._lane_in_turn[self._first_turn_K[source] + turn], turn)
        return source, of_pass * n_samples + entry * lanes + lane

    def _by_lane(self, epoch_SB: Int64s, offset_SB: Int64s) -> Int64s:
        source_SB, own_SB = self._in_source(epoch_SB, offset_SB)
        lane_SB = own_SB % self._n_samples_K[source_SB] % self._lanes_K[source_SB]
        by_source_SB = np.lexsort((lane_SB, source_SB), axis=1)
        source_SB = np.take_along_axis(source_SB, by_source_SB, axis=1)
        count_SK = (source_SB[:, :, None] == np.arange(len(self._plans))).sum(axis=1)
        begin_SK = np.cumsum(count_SK, axis=1) - count_SK
        nth_of_source_SB = np.arange(source_SB.shape[1]) - np.take_along_axis(begin_SK, source_SB, axis=1)
        # The middles of equal parts of the batch: 1/2n, 3/2n, ... for a source of n rows.
        place_SB = (2 * nth_of_source_SB + 1) / np.take_along_axis(count_SK, source_SB, axis=1)
        return np.take_along_axis(by_source_SB, np.argsort(place_SB, axis=1, kind="stable"), axis=1)


def parts_of(weights: Mapping[str, float]) -> dict[str, int]:
    """Whole numbers with the ratios of the weights, if these are decimal fractions with a sum of at most MOST_PARTS
    parts; else rounded to such a sum."""
    exact = {name: Fraction(repr(weight)) for name, weight in weights.items()}
    denominator = math.lcm(*(each.denominator for each in exact.values()))
    parts = {name: int(each * denominator) for name, each in exact.items()}
    if sum(parts.values()) // math.gcd(*parts.values()) > MOST_PARTS:
        shares = {name: each * MOST_PARTS / sum(exact.values()) for name, each in exact.items()}
        parts = {name: int(share) for name, share in shares.items()}
        by_remainder = sorted(parts, key=lambda name: parts[name] - shares[name])
        for name in by_remainder[: MOST_PARTS - sum(parts.values())]:
            parts[name] += 1
    for name, n_parts in parts.items():
        if n_parts == 0:
            raise UserError(
                f"its share is less than 1 in {MOST_PARTS:,}",
                where=f"data.train.mixture.{name}.weight: {weights[name]:g}",
                fix="Raise it, or leave the source out.",
            )
    divisor = math.gcd(*parts.values())
    return {name: n_parts // divisor for name, n_parts in parts.items()}


def pattern(parts: list[int]) -> Int64s:
    """Which source (0 .. k-1) stands at each of sum(parts) places: Tijdeman's order, which may go round and round.

    A source may come once it is behind its share by 1 / (2k - 2); of those the one comes that would first be too late.
    """
    period, many = sum(parts), max(1, 2 * len(parts) - 2)
    part_K = np.array(parts, np.int64)
    behind_K = np.zeros(len(parts), np.int64)  # in 1/P samples
    found = np.empty(period, np.int64)
    for place in range(period):
        behind_K += part_K
        slack_K = np.where(behind_K * many >= period, (period * (many - 1) - behind_K * many) / part_K, np.inf)
        found[place] = slack_K.argmin()
        behind_K[found[place]] -= period
    return found


def turns(lanes: int) -> Int64s:
    """The lanes in an order of which every stretch is spread over all of them: by the bits of 0, 1, 2, ... reversed."""
    n_bits = (lanes - 1).bit_length()
    number = np.arange(2**n_bits)
    reverse = np.zeros_like(number)
    for bit in range(n_bits):
        reverse = 2 * reverse + ((number >> bit) & 1)
    return reverse[reverse < lanes]
