"""The plan of steps of like lengths: exactly once, free of ranks, with little padding, and well shuffled."""

import pickle
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distdl.config.schema import GrowthConfig
from distdl.data.length_order import LengthPlan, sequential_by_length
from distdl.data.order import Plan
from distdl.errors import UserError

lengths_of = st.lists(st.integers(1, 50), min_size=1, max_size=60).map(np.array)
orders = st.sampled_from(["by_length", "shortest_first", "shuffled"])


def a_plan(lengths, **changes):
    sizes = np.array([len(lengths)])
    return LengthPlan(sizes, lengths, **{"seed": 0, "global_batch": 8, "window": 5, "lanes": 3, **changes})


def like_read_speech(n_samples):
    """Lengths at 16 kHz: most of 12 to 18 s, the rest shorter."""
    generator = np.random.default_rng(0)
    most, short = generator.normal(15, 1.2, n_samples), generator.uniform(1.4, 15, n_samples)
    return (16000 * np.where(generator.random(n_samples) < 0.6, most, short)).astype(np.int64)


def padding(plan, steps):
    """The share of the steps' frames that is none of a sample's."""
    return 1 - sum(plan.lengths[rows.sample_id].sum() for rows in steps) / sum(rows.size * len(rows) for rows in steps)


def listed(rows):
    return [rows.sample_id.tolist(), rows.epoch.tolist(), rows.offset.tolist(), rows.valid.tolist(), rows.size]


@given(lengths_of, st.integers(1, 70), orders, st.integers(0, 2**31), st.integers(1, 4))
def test_carry_gives_every_sample_once_in_every_epoch(lengths, batch, order, seed, epochs):
    plan = a_plan(lengths, global_batch=batch, order=order, seed=seed)
    end = plan.end_position(epochs=epochs, steps=None)

    steps = list(plan.steps(0, end, end=end))

    assert all(len(rows) == batch for rows in steps)
    ids, epoch = (np.concatenate([getattr(r, name)[r.valid] for r in steps]) for name in ("sample_id", "epoch"))
    for each in range(epochs):
        assert sorted(ids[epoch == each]) == list(range(len(lengths)))


@given(lengths_of, st.integers(1, 30), orders)
def test_drop_repeats_no_sample_within_an_epoch(lengths, batch, order):
    if len(lengths) < batch:
        with pytest.raises(UserError, match="no full batch"):
            a_plan(lengths, global_batch=batch, order=order, tail="drop")
        return
    plan = a_plan(lengths, global_batch=batch, order=order, tail="drop")
    end = plan.end_position(epochs=2, steps=None)

    steps = list(plan.steps(0, end, end=end))

    for each in (0, 1):
        ids = np.concatenate([rows.sample_id[rows.epoch == each] for rows in steps])
        assert len(set(ids)) == len(ids) == len(lengths) // batch * batch


def test_what_drop_leaves_out_is_drawn_in_each_epoch():
    plan = a_plan(np.arange(1, 16), tail="drop")

    offsets = np.arange(plan.epoch_length)
    left_out = [set(range(15)) - set(plan.ids(np.full(8, epoch), offsets)) for epoch in range(40)]

    assert set.union(*left_out) == set(range(15))


@given(lengths_of, st.integers(1, 40), orders, st.integers(1, 9), st.data())
def test_any_kill_point_and_any_number_of_ranks_see_the_same_steps(lengths, batch, order, world_size, data):
    plan = a_plan(lengths, global_batch=batch, order=order)
    end = plan.end_position(epochs=3, steps=None)
    whole = list(plan.steps(0, end, end=end))

    killed_after = data.draw(st.integers(0, len(whole)))
    resumed = pickle.loads(pickle.dumps(plan))  # in another process, as are loader workers
    rest = list(resumed.steps(killed_after * batch, end, end=end))

    assert [listed(rows) for rows in rest] == [listed(rows) for rows in whole[killed_after:]]
    for rows in rest:
        parts = [rows.part(rank, world_size) for rank in range(world_size)]
        assert np.concatenate([part.sample_id for part in parts]).tolist() == rows.sample_id.tolist()
        assert {part.size for part in parts} == {plan.lengths[rows.sample_id].max()}


def test_a_pickled_plan_holds_no_epochs():
    plan = a_plan(like_read_speech(1000))
    fresh = len(pickle.dumps(plan))
    plan.step_rows(0, 1000)

    assert len(pickle.dumps(plan)) == fresh


@pytest.mark.parametrize("batch", [64, 128, 256])
def test_little_of_a_step_is_padding_and_no_step_has_much(batch):
    plan = a_plan(like_read_speech(20_000), global_batch=batch)
    shuffled = a_plan(plan.lengths, global_batch=batch, order="shuffled")
    end = 40_000

    steps = list(plan.steps(0, end, end=end))

    assert padding(plan, steps) < 0.03
    assert padding(shuffled, list(shuffled.steps(0, end, end=end))) > 0.25
    straddling = next(rows for rows in steps if len(set(rows.epoch)) == 2)
    assert padding(plan, [straddling]) < 0.1


def test_of_samples_of_equal_lengths_nothing_is_padding_and_all_meet_anew():
    plan = a_plan(np.full(800, 16000))
    steps = list(plan.steps(0, 1600, end=1600))

    assert padding(plan, steps) == 0
    before, after = ({frozenset(rows.sample_id) for rows in half} for half in (steps[:100], steps[100:]))
    assert not before & after


def test_in_each_epoch_a_sample_meets_others():
    plan = a_plan(like_read_speech(10_000), global_batch=50)
    partners = {sample_id: [] for sample_id in range(0, 10_000, 100)}

    for rows in plan.steps(0, 100_000, end=100_000):
        for sample_id in set(rows.sample_id) & set(partners):
            partners[sample_id] += set(rows.sample_id) - {sample_id}

    new = [len(set(met)) / len(met) for met in partners.values()]
    assert np.mean(new) > 0.6  # of 490 in ten epochs; from one order it would be 0.1


def test_how_long_a_steps_samples_are_says_nothing_of_its_place():
    plan = a_plan(like_read_speech(20_000), global_batch=50)

    for epoch in range(3):
        begin = epoch * 20_000
        means = [plan.lengths[rows.sample_id].mean() for rows in plan.steps(begin, begin + 20_000, end=10**9)]
        assert abs(np.corrcoef(np.arange(400), means)[0, 1]) < 0.15  # 3 deviations of 1 / sqrt(400)


@given(lengths_of, st.integers(1, 30))
def test_shortest_first_goes_up_in_its_first_epoch(lengths, batch):
    plan = a_plan(lengths, global_batch=batch, order="shortest_first")

    in_order = lengths[plan.ids(np.zeros_like(lengths), np.arange(len(lengths)))]
    sizes = [rows.size for rows in plan.steps(0, len(lengths) // batch * batch, end=10**9)]

    assert in_order.tolist() == sorted(lengths)
    assert sizes == sorted(sizes)


def test_its_later_epochs_are_in_order_no_more():
    plan = a_plan(np.arange(1, 200), order="shortest_first")
    sizes = [rows.size for rows in plan.steps(200, 398, end=10**9)]

    assert sizes != sorted(sizes)
    assert plan.step_rows(192, 10**9).size == 199  # the step of both epochs' samples has the longest of both
    assert plan.lengths[plan.step_rows(192, 10**9).sample_id].min() > 180


def test_shuffled_is_the_plan_of_anything_else_with_sizes():
    lengths = like_read_speech(100)
    plan, plain = a_plan(lengths, order="shuffled"), Plan(np.array([100]), seed=0, global_batch=8, window=5, lanes=3)

    for rows, expected in zip(plan.steps(0, 200, end=200), plain.steps(0, 200, end=200), strict=True):
        assert rows.sample_id.tolist() == expected.sample_id.tolist()
        assert rows.size == lengths[rows.sample_id].max()


@given(lengths_of, st.integers(1, 30), orders, st.integers(0, 5), st.data())
def test_a_stand_in_is_of_the_same_step_and_so_not_longer_than_its_size(lengths, batch, order, step, data):
    plan = a_plan(lengths, global_batch=batch, order=order)
    rows = plan.step_rows(step * batch, 10**9)
    row = data.draw(st.integers(0, batch - 1))

    offset, sample_id = plan.next_in_lane(int(rows.epoch[row]), int(rows.offset[row]))

    assert sample_id in rows.sample_id
    assert rows.epoch[row] * plan.epoch_length + offset in rows.epoch * plan.epoch_length + rows.offset


@pytest.mark.parametrize("n_parts", [2, 4, 8])
def test_all_parts_of_a_step_have_long_and_short_samples(n_parts):
    plan = a_plan(np.arange(1000, 2000), global_batch=64)
    rows = plan.step_rows(64, 1000)

    means = [plan.lengths[rows.part(rank, n_parts).sample_id].mean() for rank in range(n_parts)]

    assert max(means) / min(means) < 1.01


def test_the_order_never_changes():
    # A plan must mean the same samples in every later version.
    plan = a_plan(np.array([5, 3, 9, 7, 3, 8, 1]), global_batch=3)

    assert plan.step_rows(3, 100).sample_id.tolist() == [6, 0, 1]


def test_other_lengths_are_another_plan():
    plan = a_plan(np.arange(1, 9))

    assert plan.identity != a_plan(np.arange(2, 10)).identity
    assert plan.identity != a_plan(np.arange(1, 9), order="shuffled").identity


def test_a_batch_that_grows_is_refused_unless_shuffled():
    growth = GrowthConfig(epochs=[1])

    with pytest.raises(UserError, match="one global batch"):
        a_plan(np.arange(1, 30), growth=growth)
    assert len(a_plan(np.arange(1, 30), order="shuffled", growth=growth).step_rows(32, 100)) == 16


def test_an_epoch_of_300_000_samples_is_planned_within_a_second():
    plan = a_plan(like_read_speech(300_000), global_batch=256)

    began = time.process_time()
    plan.step_rows(300_000 // 256 * 256, 10**9)  # of two epochs

    assert time.process_time() - began < 2


# --- evaluation ---


@given(lengths_of, st.integers(1, 20))
def test_an_evaluation_goes_up_in_length_and_masks_its_end(lengths, rows_per_batch):
    n_batches = -(-len(lengths) // rows_per_batch)

    batches = list(sequential_by_length(lengths, range(n_batches), rows_per_batch))

    ids = np.concatenate([batch.sample_id[batch.valid] for batch in batches])
    assert ids.tolist() == sorted(range(len(lengths)), key=lambda each: (lengths[each], each))
    assert all(len(batch) == rows_per_batch and (batch.sample_id[~batch.valid] == -1).all() for batch in batches)
    assert [batch.size for batch in batches] == [lengths[batch.sample_id[batch.valid]].max() for batch in batches]


def test_beyond_an_evaluations_end_nothing_stands():
    (rows,) = sequential_by_length(np.array([4, 5]), [3], 2)

    assert rows.size == 0 and not rows.valid.any()
