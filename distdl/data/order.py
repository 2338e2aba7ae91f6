"""The sample plan: which sample stands at which position of a run, as a pure function of (seed, epoch, position).

Position counts samples since the start of the run; it is all that a checkpoint keeps of the data. How an epoch of N
samples is ordered:

    shards, permuted by a keyed hash  ->  laid end to end on one virtual line, rotated  ->  cut into C lanes
    ->  each lane shuffled in windows of W  ->  read round-robin: position p is entry p // C of lane p % C

Ranks and loader workers appear nowhere. A step takes the next global batch of positions and sorts them by lane; a rank
owns a range of the row slots, so that it reads from few lanes, and any number of ranks sees the same global batch.
The lanes' lengths differ by at most one, so every epoch is a permutation of all N; with weights the windows' entries
are drawn instead of shuffled (distdl/data/draws.py). The hash is splitmix64's finaliser (Steele, Lea, Flood 2014),
whose values never change; a library's generator may.
"""

import math
import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from distdl.config.schema import GrowthConfig
from distdl.data.draws import Float64s, WeightedLine
from distdl.errors import UserError

PLAN_VERSION = 1
DEFAULT_LANES = 128

Int64s = npt.NDArray[np.int64]
UInt64s = npt.NDArray[np.uint64]
Bools = npt.NDArray[np.bool_]

_MASK = 2**64 - 1
_NEVER = 2**200  # a position that no run comes to
_POSITIONS_AT_ONCE = 4096
_BLOCKS_KEPT = 4  # blocks of C x W ids: two epochs can meet in a step, and batches are made ahead


def mix(values: UInt64s) -> UInt64s:
    """splitmix64's finaliser, element by element."""
    with np.errstate(over="ignore"):
        z = values + np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


def keyed(*parts: int | UInt64s) -> UInt64s:
    """A hash of the parts, as uint64 of shape (1,) or, where a part is an array, of that array's shape."""
    state = np.zeros(1, np.uint64)
    for part in parts:
        state = mix(state ^ np.asarray(part, dtype=np.uint64))
    return state


def seed_of(*parts: int) -> int:
    """A 63-bit seed for a generator that serves one purpose, such as (seed, step, rank): `keyed` in plain integers."""
    state = 0
    for part in parts:
        z = ((state ^ part) + 0x9E3779B97F4A7C15) & _MASK
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
        state = z ^ (z >> 31)
    return state >> 1


def augmentation_key(seed: int, seen: int, sample_id: int, *again: int) -> int:
    """Keys a sample's random numbers the `seen`-th time. Its lowest bit begins as a coin and changes each time."""
    turn = (seed_of(seed, sample_id) ^ seen) & 1
    return seed_of(seed, seen, sample_id, *again) & ~1 | turn


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """Rows of a batch. All arrays have one element a row.

    A row that is not valid has no weight. Its sample_id is -1 where nothing stands there; the padding of a run's last
    step holds the samples that would follow, so that batch statistics see real data.
    """

    sample_id: Int64s
    epoch: Int64s
    offset: Int64s  # position inside the epoch
    valid: Bools
    resolution: int | None = None  # short side of the batch's images, where training begins with small ones
    size: int | None = None  # of sounds, in audio samples: the longest of the step's rows, to which all are padded

    def __len__(self) -> int:
        return len(self.sample_id)

    @classmethod
    def of(cls, sample_ids: Int64s) -> "Rows":
        """Rows of the given samples, as they stand in epoch 0."""
        zeros = np.zeros_like(sample_ids)
        return cls(sample_ids, zeros, sample_ids, np.ones(len(sample_ids), np.bool_))

    def part(self, rank: int, world_size: int) -> "Rows":
        """The row slots that a rank owns: shares differ by at most one."""
        return self.parts(range(rank, rank + 1), world_size)

    def parts(self, parts: range, n_parts: int) -> "Rows":
        """The row slots of consecutive ones of so many parts, alike in size."""
        rows = slice(parts.start * len(self) // n_parts, parts.stop * len(self) // n_parts)
        of_parts = self.sample_id[rows], self.epoch[rows], self.offset[rows], self.valid[rows]
        return Rows(*of_parts, self.resolution, self.size)


class Plan:
    """The order of a run over a corpus whose shards hold `sizes` samples. Sample ids count through the shards in turn.

    With `weights`, one for each sample, an epoch is `draws` (default N) samples drawn by them, with replacement. With
    `growth`, the global batch is multiplied by its factor in the first step that starts at or after each of its epochs.
    Raises UserError when a batch cannot be formed (tail "drop" with an epoch shorter than a batch, or with growth).
    """

    def __init__(
        self,
        sizes: Int64s,
        *,
        seed: int,
        global_batch: int,
        lanes: int | None = None,
        window: int = 1000,
        tail: Literal["carry", "drop"] = "carry",
        weights: Float64s | None = None,
        draws: int | None = None,
        growth: GrowthConfig | None = None,
    ) -> None:
        self.sizes = np.asarray(sizes, np.int64)
        self.n_samples = int(self.sizes.sum())
        self.n_entries = draws or self.n_samples
        self.seed = seed
        self.global_batch = global_batch
        self.lanes = min(lanes or DEFAULT_LANES, self.n_entries)
        self.window = window
        self.tail = tail
        if tail == "drop" and growth:
            raise UserError(
                "with batches that grow, an epoch has no fixed number of full ones",
                where="data.tail: drop",
                fix="Use data.tail: carry with train.batch_growth.",
            )
        if tail == "drop" and self.n_entries < global_batch:
            raise UserError(
                f"an epoch of {self.n_entries} samples has no full batch of {global_batch}",
                where="data.tail: drop",
                fix="Use data.tail: carry, or a smaller train.global_batch.",
            )
        self.shares: dict[str, float] = {}  # of the sources, where there are several
        self._factor = growth.factor if growth else 1
        # Rounded up to the position of a sample, but for what is left of a product such as 0.07 * 100.
        self._grows_at = [math.ceil(epoch * self.epoch_length - 1e-9) for epoch in growth.epochs] if growth else []
        self._weighted = None if weights is None else WeightedLine(weights, self.sizes)
        self._first_id = np.concatenate([[0], np.cumsum(self.sizes)[:-1]]).astype(np.int64)
        longer = self.n_entries % self.lanes  # lanes 0 .. longer-1 have one entry more: positions stay gapless
        self._lane_length = np.full(self.lanes, self.n_entries // self.lanes, np.int64)
        self._lane_length[:longer] += 1
        self._lane_start = np.concatenate([[0], np.cumsum(self._lane_length)[:-1]]).astype(np.int64)
        self._lines: OrderedDict[int, tuple[Int64s, Int64s, int]] = OrderedDict()
        self._blocks: OrderedDict[tuple[int, int], Int64s] = OrderedDict()
        self._lock = threading.Lock()  # decoding threads ask for stand-ins

    def __getstate__(self) -> dict[str, Any]:
        """Worker processes have a plan of their own, with nothing in its caches yet."""
        return vars(self) | {"_lines": OrderedDict(), "_blocks": OrderedDict(), "_lock": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state | {"_lock": threading.Lock()})

    @property
    def epoch_length(self) -> int:
        """Positions in an epoch: N or the number of draws, or with tail "drop" the whole batches in it."""
        return self.n_entries if self.tail == "carry" else self.n_entries // self.global_batch * self.global_batch

    @property
    def identity(self) -> dict[str, Any]:
        """What besides the corpus and the config decides which samples a position has."""
        weights = {"weights": self._weighted.identity} if self._weighted else {}
        return {"plan": PLAN_VERSION, "lanes": self.lanes, **weights}

    def end_position(self, *, epochs: float | None, steps: int | None) -> int:
        """Where a run of that length ends. With epochs, the last step may be a part of a batch, padded by weight 0."""
        if steps is None:
            return round((epochs or 0) * self.epoch_length)
        for begin, n_steps, batch in self._stretches(0, _NEVER):
            if steps <= n_steps:
                return begin + steps * batch
            steps -= n_steps
        raise AssertionError("the last stretch has no end")

    def batch_at(self, position: int) -> int:
        """Rows of the step that starts at `position`."""
        return self.global_batch * self._factor ** bisect_right(self._grows_at, position)

    def n_steps(self, begin: int, end: int) -> int:
        """How many steps there are from position `begin`, where one starts, to `end`; the last may go beyond it."""
        return sum(n_steps for _, n_steps, _ in self._stretches(begin, end))

    def _stretches(self, begin: int, end: int) -> Iterator[tuple[int, int, int]]:
        """Runs of steps of one size: (first position, number of steps, rows of each)."""
        while begin < end:
            batch = self.batch_at(begin)
            until = min([end, *(position for position in self._grows_at if position > begin)])
            n_steps = -(-(until - begin) // batch)
            yield begin, n_steps, batch
            begin += n_steps * batch

    def step_rows(self, position: int, end: int) -> Rows:
        """The global batch that starts at `position`, sorted by lane; rows at or past `end` are padding."""
        return next(self.steps(position, position + 1, end=end))

    def steps(self, position: int, stop: int, *, end: int) -> Iterator[Rows]:
        """The global batches that start at `position` and before `stop`. Many are computed at once: numpy's price is
        the call."""
        for begin, n_left, batch in self._stretches(position, stop):
            at_once = max(1, _POSITIONS_AT_ONCE // batch)
            for done in range(0, n_left, at_once):
                yield from self._steps(begin + done * batch, min(at_once, n_left - done), batch, end)

    def _steps(self, first: int, n_steps: int, batch: int, end: int) -> Iterator[Rows]:
        at_SB = np.arange(first, first + n_steps * batch, dtype=np.int64).reshape(n_steps, batch)
        epoch_SB, offset_SB = np.divmod(at_SB, self.epoch_length)
        by_lane_SB = self._by_lane(epoch_SB, offset_SB)
        epoch_SB = np.take_along_axis(epoch_SB, by_lane_SB, axis=1)
        offset_SB = np.take_along_axis(offset_SB, by_lane_SB, axis=1)
        valid_SB = np.take_along_axis(at_SB, by_lane_SB, axis=1) < end
        id_SB = self.ids(epoch_SB.ravel(), offset_SB.ravel()).reshape(n_steps, batch)
        for step in range(n_steps):
            yield Rows(id_SB[step], epoch_SB[step], offset_SB[step], valid_SB[step])

    def _by_lane(self, epoch_SB: Int64s, offset_SB: Int64s) -> Int64s:
        """The order of each step's rows."""
        return np.argsort(offset_SB % self.lanes, axis=1, kind="stable")

    def ids(self, epoch: Int64s, offset: Int64s) -> Int64s:
        """Sample ids at offsets (0 .. N-1) of epochs, both of one shape (n,)."""
        entry, lane = np.divmod(offset, self.lanes)
        window, row = np.divmod(entry, self.window)
        out = np.empty(len(offset), np.int64)
        todo = np.ones(len(offset), np.bool_)
        while todo.any():  # once, unless the offsets cross from one window or epoch into the next
            first = int(todo.argmax())
            here = (epoch == epoch[first]) & (window == window[first])
            with self._lock:
                block_CW = self._block(int(epoch[first]), int(window[first]))
            out[here] = block_CW[lane[here], row[here]]
            todo &= ~here
        return out

    def next_in_lane(self, epoch: int, offset: int) -> tuple[int, int]:
        """The offset that follows in the same lane (round its end), and the id there: a stand-in for a bad sample."""
        entry, lane = divmod(offset, self.lanes)
        following = (entry + 1) % int(self._lane_length[lane]) * self.lanes + lane
        return following, int(self.ids(np.array([epoch]), np.array([following]))[0])

    def augmentation_seed(self, epoch: int, offset: int, sample_id: int) -> int:
        """Keys a sample's augmentation. The epoch tells apart how often it is seen, unless it may be drawn again."""
        again = () if self._weighted is None else (offset,)
        return augmentation_key(self.seed, epoch, sample_id, *again)

    def _line(self, epoch: int) -> tuple[Int64s, Int64s, int]:
        """Shards in this epoch's order, where each begins on the virtual line, and the line's rotation."""
        if epoch not in self._lines:
            n_shards = np.arange(len(self.sizes), dtype=np.uint64)
            shards = np.argsort(keyed(self.seed, epoch, 1, n_shards), kind="stable")
            begins = np.concatenate([[0], np.cumsum(self.sizes[shards])]).astype(np.int64)
            rotation = int(keyed(self.seed, epoch, 2)[0] % np.uint64(self.n_samples))
            self._lines[epoch] = (shards, begins, rotation)
            if len(self._lines) > _BLOCKS_KEPT:
                self._lines.popitem(last=False)
        return self._lines[epoch]

    def _block(self, epoch: int, window: int) -> Int64s:
        """Sample ids (C, W) of one window of every lane, shuffled in each lane. A missing last entry is never read."""
        if (epoch, window) not in self._blocks:
            self._blocks[epoch, window] = self._make_block(epoch, window)
            if len(self._blocks) > _BLOCKS_KEPT:
                self._blocks.popitem(last=False)
        return self._blocks[epoch, window]

    def _make_block(self, epoch: int, window: int) -> Int64s:
        first = window * self.window
        width = min(self.window, int(self._lane_length[0]) - first)  # lane 0 is never the shorter one
        entries = np.arange(width, dtype=np.uint64)
        lane = np.arange(self.lanes, dtype=np.uint64)
        order_CW = mix(keyed(self.seed, epoch, 3, window, lane)[:, None] ^ entries[None, :])
        shards, begins, rotation = self._line(epoch)
        if self._weighted:
            uniform_CW = (order_CW >> np.uint64(11)) / 2.0**53
            width_C1 = np.minimum(width, self._lane_length - first)[:, None]
            turn = float(keyed(self.seed, epoch, 4)[0] >> np.uint64(11)) / 2.0**53
            at_CW = (self._lane_start[:, None] + first + uniform_CW * width_C1) / self.n_entries + turn
            return self._weighted.ids(shards, at_CW % 1.0)
        missing_CW = first + entries[None, :].astype(np.int64) >= self._lane_length[:, None]
        order_CW[missing_CW] = np.uint64(2**64 - 1)  # at most the last entry; it stays last
        shuffled_CW = np.argsort(order_CW, axis=1, kind="stable")
        on_line_CW = (self._lane_start[:, None] + first + shuffled_CW + rotation) % self.n_samples
        nth_CW = np.searchsorted(begins, on_line_CW, side="right") - 1
        return self._first_id[shards[nth_CW]] + on_line_CW - begins[nth_CW]


def sequential_rows(n_samples: int, batch: int, rows_per_batch: int) -> Rows:
    """Batch number `batch` of an evaluation: ids in order, the last batch padded with valid False (tail "mask")."""
    at = np.arange(batch * rows_per_batch, (batch + 1) * rows_per_batch, dtype=np.int64)
    valid = at < n_samples
    return Rows(np.where(valid, at, -1), np.zeros_like(at), at, valid)
