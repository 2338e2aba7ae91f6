"""The sample plan: exactly once, free of ranks, whatever divides what."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distdl.data.order import Plan, Rows, keyed, sequential_rows
from distdl.errors import UserError

corpora = st.lists(st.integers(0, 40), min_size=1, max_size=12).filter(lambda sizes: sum(sizes) > 0)


def a_plan(sizes, **changes):
    return Plan(np.array(sizes), **{"seed": 0, "global_batch": 8, "window": 5, **changes})


def all_steps(plan, end, position=0):
    return [plan.step_rows(p, end) for p in range(position, end, plan.global_batch)]


def valid_ids(steps):
    return np.concatenate([rows.sample_id[rows.valid] for rows in steps])


@settings(deadline=None, max_examples=150)
@given(corpora, st.integers(1, 50), st.integers(1, 200), st.integers(1, 30), st.integers(0, 2**31), st.integers(1, 3))
def test_carry_gives_every_sample_once_in_every_epoch(sizes, batch, lanes, window, seed, epochs):
    plan = a_plan(sizes, global_batch=batch, lanes=lanes, window=window, seed=seed)

    ids = valid_ids(all_steps(plan, plan.end_position(epochs=epochs, steps=None)))

    assert np.bincount(ids, minlength=plan.n_samples).tolist() == [epochs] * plan.n_samples
    for epoch in range(epochs):
        one_epoch = plan.ids(np.full(plan.n_samples, epoch), np.arange(plan.n_samples))
        assert sorted(one_epoch) == list(range(plan.n_samples))


@settings(deadline=None, max_examples=80)
@given(corpora, st.integers(1, 40), st.integers(1, 9), st.data())
def test_any_number_of_ranks_and_any_kill_point_see_the_same_global_batches(sizes, batch, world_size, data):
    plan = a_plan(sizes, global_batch=batch)
    end = plan.end_position(epochs=2, steps=None)
    whole = all_steps(plan, end)

    killed_after = data.draw(st.integers(0, len(whole)))
    resumed = a_plan(sizes, global_batch=batch)  # another process: nothing is remembered but the position
    rest = all_steps(resumed, end, position=killed_after * batch)

    for expected, again in zip(whole[killed_after:], rest, strict=True):
        parts = [again.part(rank, world_size) for rank in range(world_size)]
        assert np.concatenate([p.sample_id for p in parts]).tolist() == expected.sample_id.tolist()
        assert np.concatenate([p.valid for p in parts]).tolist() == expected.valid.tolist()
        assert max(map(len, parts)) - min(map(len, parts)) <= 1


@given(corpora, st.integers(1, 40))
def test_drop_repeats_no_sample_within_an_epoch(sizes, batch):
    if sum(sizes) < batch:
        with pytest.raises(UserError, match="no full batch"):
            a_plan(sizes, global_batch=batch, tail="drop")
        return
    plan = a_plan(sizes, global_batch=batch, tail="drop")

    steps = all_steps(plan, plan.end_position(epochs=1, steps=None))

    ids = valid_ids(steps)
    assert len(ids) == sum(sizes) // batch * batch
    assert len(set(ids)) == len(ids)


@given(st.integers(1, 100), st.integers(1, 30))
def test_mask_pads_the_last_batch_of_an_evaluation(n_samples, rows_per_batch):
    batches = [sequential_rows(n_samples, b, rows_per_batch) for b in range(-(-n_samples // rows_per_batch))]

    assert all(len(batch) == rows_per_batch for batch in batches)
    assert valid_ids(batches).tolist() == list(range(n_samples))
    assert all((batch.sample_id[~batch.valid] == -1).all() for batch in batches)


def test_the_padding_of_the_last_step_holds_real_samples_without_weight():
    plan = a_plan([10], global_batch=8)

    last = plan.step_rows(8, end=10)

    assert last.valid.sum() == 2
    assert (last.sample_id >= 0).all()


def test_batches_are_sorted_by_lane_so_that_a_rank_reads_from_few():
    plan = a_plan([64], global_batch=16, lanes=4)

    lane = plan.step_rows(16, end=64).offset % 4

    assert (np.diff(lane) >= 0).all()


def test_a_stand_in_comes_from_the_same_lane_and_goes_round_its_end():
    plan = a_plan([10], lanes=4)  # lanes of 3, 3, 2 and 2

    offset, sample_id = plan.next_in_lane(epoch=1, offset=6)  # the last entry of lane 2

    assert offset == 2
    assert sample_id == plan.ids(np.array([1]), np.array([2]))[0]


def test_epochs_and_seeds_differ():
    plan, other = a_plan([100]), a_plan([100], seed=1)
    order = [tuple(p.ids(np.full(100, e), np.arange(100))) for p, e in ((plan, 0), (plan, 1), (other, 0))]

    assert len(set(order)) == 3


def test_the_hash_never_changes():
    # splitmix64 of 0, 1, 2, ...: a plan must mean the same samples in every later version.
    assert keyed(1, 2, 3).tolist() == [15020427595393229491]
    assert a_plan([7, 5], global_batch=4, lanes=3).step_rows(4, 100).sample_id.tolist() == [7, 11, 9, 2]


def test_sorted_shards_come_out_well_shuffled():
    # 100 classes in order of class over 300 shards: a batch of 256 from a full permutation has 92.5 of them on average.
    sizes = np.random.default_rng(0).integers(150, 260, 300)
    plan = Plan(sizes, seed=7, global_batch=256)
    label_of = np.arange(plan.n_samples) * 100 // plan.n_samples

    distinct = [len(set(label_of[plan.step_rows(p, 10**9).sample_id])) for p in range(0, 256 * 200, 256)]

    assert np.mean(distinct) > 85


def test_rows_of_given_samples():
    rows = Rows.of(np.array([3, 1]))

    assert rows.sample_id.tolist() == [3, 1]
    assert rows.valid.all()
