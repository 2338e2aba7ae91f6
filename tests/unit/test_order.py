"""The sample plan: exactly once, free of ranks, whatever divides what."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distdl.config.schema import GrowthConfig
from distdl.data.order import Plan, Rows, keyed, sequential_rows
from distdl.errors import UserError

growths = st.builds(
    lambda epochs, factor: GrowthConfig(epochs=sorted(epochs), factor=factor),
    st.sets(st.sampled_from([0.1, 0.5, 1.0, 1.25, 2.0, 3.7]), min_size=1, max_size=3),
    st.integers(2, 3),
)
corpora = st.lists(st.integers(0, 40), min_size=1, max_size=12).filter(lambda sizes: sum(sizes) > 0)


def a_plan(sizes, **changes):
    return Plan(np.array(sizes), **{"seed": 0, "global_batch": 8, "window": 5, **changes})


def all_steps(plan, end, position=0):
    return [plan.step_rows(p, end) for p in range(position, end, plan.global_batch)]


def valid_ids(steps):
    return np.concatenate([rows.sample_id[rows.valid] for rows in steps])


@given(corpora, st.integers(1, 50), st.integers(1, 200), st.integers(1, 30), st.integers(0, 2**31), st.integers(1, 3))
def test_carry_gives_every_sample_once_in_every_epoch(sizes, batch, lanes, window, seed, epochs):
    plan = a_plan(sizes, global_batch=batch, lanes=lanes, window=window, seed=seed)

    ids = valid_ids(all_steps(plan, plan.end_position(epochs=epochs, steps=None)))

    assert np.bincount(ids, minlength=plan.n_samples).tolist() == [epochs] * plan.n_samples
    for epoch in range(epochs):
        one_epoch = plan.ids(np.full(plan.n_samples, epoch), np.arange(plan.n_samples))
        assert sorted(one_epoch) == list(range(plan.n_samples))


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


@pytest.mark.parametrize("seed", range(4))
def test_sorted_shards_come_out_as_well_shuffled_as_by_a_full_permutation(seed):
    # 100 classes in order of class over 300 shards: a batch of 256 from a full permutation has 92.5 of them on average.
    # Lanes are far from each other on the line, so that this has a few more.
    sizes = np.random.default_rng(seed).integers(150, 260, 300)
    plan = Plan(sizes, seed=seed, global_batch=256)
    label_of = np.arange(plan.n_samples) * 100 // plan.n_samples

    distinct = [len(set(label_of[rows.sample_id])) for rows in plan.steps(0, plan.n_samples, end=plan.n_samples)]

    assert np.mean(distinct) >= 92
    assert min(distinct[:-1]) >= 80


def test_a_plan_of_a_billion_samples_holds_nothing_of_their_number():
    tracemalloc.start()
    try:
        plan = Plan(np.full(100_000, 10_000), seed=1, global_batch=4096)
        built_bytes, _ = tracemalloc.get_traced_memory()
        ids = [plan.step_rows(position, end=10**12).sample_id for position in (0, 123_456_789, 2 * 10**9)]
        _, most_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert built_bytes < 16 * 100_000 + 100_000  # two numbers a shard: its size, and the id of its first sample
    assert most_bytes < 32 << 20  # and with a window of every lane, and the order of the shards, of an epoch or two
    assert all(len(set(each)) == 4096 and each.max() < 10**9 for each in ids)


def test_rows_of_given_samples():
    rows = Rows.of(np.array([3, 1]))

    assert rows.sample_id.tolist() == [3, 1]
    assert rows.valid.all()


# --- batches that grow ---


def grown_steps(plan, growth, end):
    """(position, rows) of every step, one at a time: the batch is multiplied for each epoch that has been reached."""
    position, steps = 0, []
    while position < end:
        n_growths = sum(position >= epoch * plan.n_samples - 1e-9 for epoch in growth.epochs)
        steps.append((position, plan.global_batch * growth.factor**n_growths))
        position += steps[-1][1]
    return steps


@given(corpora, st.integers(1, 40), growths, st.floats(1, 4))
def test_steps_that_grow_agree_with_a_loop_over_them(sizes, batch, growth, epochs):
    plan = a_plan(sizes, global_batch=batch, growth=growth)
    end = plan.end_position(epochs=epochs, steps=None)
    expected = grown_steps(plan, growth, end)

    steps = list(plan.steps(0, end, end=end))

    assert [len(rows) for rows in steps] == [rows for _, rows in expected]
    assert [plan.batch_at(position) for position, _ in expected] == [rows for _, rows in expected]
    assert len(valid_ids(steps)) == end
    epoch_of = np.concatenate([rows.epoch[rows.valid] for rows in steps])
    for epoch in range(end // plan.n_samples):
        assert sorted(valid_ids(steps)[epoch_of == epoch]) == list(range(plan.n_samples))


@given(corpora, st.integers(1, 40), growths, st.integers(0, 20), st.data())
def test_their_number_and_their_end_are_known_beforehand_from_any_step_on(sizes, batch, growth, n_steps, data):
    plan = a_plan(sizes, global_batch=batch, growth=growth)

    end = plan.end_position(epochs=None, steps=n_steps)

    expected = grown_steps(plan, growth, end)
    assert len(expected) == n_steps and end == sum(rows for _, rows in expected)
    killed_after = data.draw(st.integers(0, n_steps))
    position = sum(rows for _, rows in expected[:killed_after])
    assert plan.n_steps(position, end) == n_steps - killed_after
    rest = list(plan.steps(position, end, end=end))
    whole = list(plan.steps(0, end, end=end))[killed_after:]
    assert [rows.sample_id.tolist() for rows in rest] == [rows.sample_id.tolist() for rows in whole]


def test_the_batch_grows_in_the_first_step_that_starts_at_the_epoch_or_after_it():
    plan = a_plan([20], growth=GrowthConfig(epochs=[1, 2], factor=2))

    steps = list(plan.steps(0, 60, end=60))

    assert [len(rows) for rows in steps] == [8, 8, 8, 16, 32]  # from 0, 8, 16, 24 and 40


def test_a_dropped_tail_needs_batches_of_one_size():
    with pytest.raises(UserError, match="no fixed number of full ones"):
        a_plan([100], tail="drop", growth=GrowthConfig(epochs=[1]))


# --- weighted draws ---


def drawn_ids(plan, n_epochs):
    return np.concatenate([plan.ids(np.full(plan.n_entries, e), np.arange(plan.n_entries)) for e in range(n_epochs)])


@given(corpora, st.integers(1, 30), st.integers(1, 12), st.integers(1, 200), st.data())
def test_draws_are_the_same_from_any_step_on_and_for_any_number_of_ranks(sizes, batch, lanes, draws, data):
    weights = np.array(data.draw(st.lists(st.sampled_from([0, 1e-3, 1, 7]), min_size=sum(sizes), max_size=sum(sizes))))
    weights[data.draw(st.integers(0, len(weights) - 1))] = 1.0
    options = {"global_batch": batch, "lanes": lanes, "weights": weights, "draws": draws}
    plan = a_plan(sizes, **options)
    end = plan.end_position(epochs=2, steps=None)
    whole = all_steps(plan, end)

    killed_after = data.draw(st.integers(0, len(whole)))
    rest = all_steps(a_plan(sizes, **options), end, position=killed_after * batch)

    assert end == 2 * draws
    assert [rows.sample_id.tolist() for rows in rest] == [rows.sample_id.tolist() for rows in whole[killed_after:]]
    assert (weights[valid_ids(whole)] > 0).all()


@pytest.mark.parametrize("window", [5, 1000])
def test_samples_are_drawn_as_often_as_their_weights_say(window):
    sizes, weights = [30, 0, 50, 20], np.random.default_rng(0).random(100) ** 3
    plan = a_plan(sizes, weights=weights, draws=1000, window=window)

    counts = np.bincount(drawn_ids(plan, 200), minlength=100)

    expected = 200_000 * weights / weights.sum()
    # Draws that are stratified vary no more than independent ones, whose variance is their mean.
    assert (np.abs(counts - expected) < 5 * np.sqrt(expected) + 1).all()


def test_at_every_position_every_sample_has_its_chance():
    weights = np.array([1.0, 0, 2, 3, 4])
    plan = a_plan([2, 3], weights=weights, lanes=4, draws=8)
    epochs = np.arange(2_000)

    for offset in (0, 5):
        counts = np.bincount(plan.ids(epochs, np.full(len(epochs), offset)), minlength=5)

        assert np.abs(counts / len(epochs) - weights / weights.sum()).max() < 0.045  # 4 deviations


def test_draws_within_a_lane_stay_near_each_other():
    plan = a_plan([100] * 50, weights=np.ones(5000), lanes=10, window=20)

    lane = plan.ids(np.zeros(20, np.int64), np.arange(20) * 10)

    assert len(set(lane // 100)) <= 2  # 20 of 5,000 samples end to end lie in one shard or two


def test_a_sample_that_is_drawn_twice_is_augmented_in_two_ways():
    natural, drawn = a_plan([10]), a_plan([10], weights=np.ones(10))

    assert natural.augmentation_seed(1, 2, 7) == natural.augmentation_seed(1, 3, 7)
    assert drawn.augmentation_seed(1, 2, 7) != drawn.augmentation_seed(1, 3, 7)


def test_a_stand_in_for_a_drawn_sample_can_be_drawn_as_well():
    plan = a_plan([10], weights=np.arange(10.0), lanes=3)

    stand_ins = {plan.next_in_lane(epoch, offset)[1] for epoch in range(50) for offset in range(10)}

    assert stand_ins <= set(range(1, 10)) and len(stand_ins) > 5


def test_the_plan_of_other_weights_is_another_one():
    assert a_plan([10], weights=np.ones(10)).identity != a_plan([10], weights=np.arange(10.0)).identity
    assert "weights" not in a_plan([10]).identity
