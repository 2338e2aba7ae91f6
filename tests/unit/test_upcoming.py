"""What a node reads next is known from the plan, and no further ahead than it matters."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from distdl.data.order import Plan
from distdl.data.remote.upcoming import _STEPS_AT_ONCE, Upcoming


def made(sizes, *, global_batch=4, lanes=3, steps=200, rank=0, world_size=1, most_bytes=1 << 60, most_steps=10**9):
    plan = Plan(np.array(sizes), seed=1, global_batch=global_batch, lanes=lanes, window=5)
    end = plan.end_position(epochs=None, steps=steps)
    read = [rows.part(rank, world_size).sample_id for rows in plan.steps(0, end, end=end)]
    rows = (rows.part(rank, world_size) for rows in plan.steps(0, end, end=end))
    ends, sizes_bytes = np.cumsum(sizes), 100 * np.array(sizes)
    return Upcoming(rows, ends, sizes_bytes, most_bytes=most_bytes, most_steps=most_steps), read, ends


@given(
    sizes=st.lists(st.integers(1, 60), min_size=1, max_size=12),
    lanes=st.integers(1, 8),
    world_size=st.integers(1, 3),
    data=st.data(),
)
def test_a_shards_next_use_is_that_of_the_plan_to_within_a_stretch(sizes, lanes, world_size, data):
    rank = data.draw(st.integers(0, world_size - 1))
    upcoming, read, ends = made(sizes, lanes=min(lanes, sum(sizes)), rank=rank, world_size=world_size)
    now = data.draw(st.integers(0, len(read) - 1))
    for _ in range(now):
        upcoming.advance()

    found = upcoming.next_uses()

    stretch = now // _STEPS_AT_ONCE * _STEPS_AT_ONCE  # steps that it looks back, too
    first: dict[int, int] = {}
    for step in range(stretch, len(read)):
        for shard in np.searchsorted(ends, read[step], side="right"):
            first.setdefault(int(shard), step)
    assert set(found) == set(first)
    for shard, steps in found.items():
        assert steps <= max(0, first[shard] - now) < steps + _STEPS_AT_ONCE + (steps == 0) * _STEPS_AT_ONCE
    assert list(found.values()) == sorted(found.values()), "soonest first"


def test_no_more_is_looked_at_than_fills_the_cache():
    sizes = [100] * 50
    upcoming, _, _ = made(sizes, lanes=1, most_bytes=5 * 100 * 100)

    assert 5 <= len(upcoming.next_uses()) <= 8


def test_nor_further_than_a_number_of_steps():
    upcoming, _, _ = made([100] * 50, lanes=1, most_steps=_STEPS_AT_ONCE)

    assert len(upcoming.next_uses()) <= 3


def test_the_end_of_the_run_is_the_end():
    upcoming, read, _ = made([10, 10], steps=3)
    for _ in range(len(read) + 2 * _STEPS_AT_ONCE):
        upcoming.advance()

    assert upcoming.next_uses() == {}
