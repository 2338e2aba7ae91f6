"""The plan of a mixture: shares kept at every place of a run, each source once per pass, and ranks appear nowhere."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distdl.config.schema import GrowthConfig
from distdl.data.mixture_order import MOST_PARTS, MixturePlan, parts_of, pattern, turns
from distdl.errors import UserError

NAMES = "abcdefgh"
parts = st.lists(st.integers(1, 30), min_size=1, max_size=6)
corpora = st.lists(
    st.tuples(st.lists(st.integers(1, 9), min_size=1, max_size=4), st.sampled_from([1, 1.5, 2, 5])),
    min_size=1,
    max_size=4,
)


def a_plan(sources, **changes):
    """`sources`: (sizes of shards, weight) of each."""
    sizes = {name: np.array(of_one) for name, (of_one, _) in zip(NAMES, sources)}
    weights = {name: weight for name, (_, weight) in zip(NAMES, sources)}
    return MixturePlan(sizes, weights, **{"seed": 0, "global_batch": 8, "lanes": 3, "window": 5, **changes})


def source_of(plan, sources, sample_ids):
    return np.searchsorted(np.cumsum([sum(sizes) for sizes, _ in sources]), sample_ids, side="right")


def ids_of(plan, n_positions):
    at = np.arange(n_positions)
    return plan.ids(*np.divmod(at, plan.epoch_length))


def deviations(shares, source_at):
    """(positions + 1, sources): how many more of each came by then than its share."""
    came = np.cumsum(source_at[:, None] == np.arange(len(shares)), axis=0)
    return np.vstack([np.zeros(len(shares)), came - np.arange(1, len(source_at) + 1)[:, None] * np.array(shares)])


# --- shares ---


@given(parts)
def test_at_every_place_of_a_run_each_source_is_within_one_sample_of_its_share(parts):
    shares = np.array(parts) / sum(parts)

    off = deviations(shares, np.tile(pattern(parts), 3))

    bound = 1 - 1 / max(1, 2 * len(parts) - 2)
    assert np.abs(off).max() <= bound + 1e-9
    assert np.abs(off[:: sum(parts)]).max() < 1e-9, "a period has exactly its parts"


@given(st.lists(st.integers(1, 100), min_size=2, max_size=2))
def test_two_sources_are_within_one_sample_over_any_stretch(parts):
    shares = np.array(parts) / sum(parts)

    off = deviations(shares, np.tile(pattern(parts), 2))

    assert np.ptp(off, axis=0).max() < 1


@given(st.lists(st.integers(1, 40), min_size=3, max_size=6))
def test_more_sources_are_within_two_over_any_stretch(parts):
    off = deviations(np.array(parts) / sum(parts), np.tile(pattern(parts), 2))

    assert np.ptp(off, axis=0).max() < 2


def test_the_order_never_changes():
    # A plan must mean the same samples in every later version.
    assert pattern([3, 1]).tolist() == [0, 0, 1, 0]
    assert pattern([3, 2, 1]).tolist() == [0, 1, 0, 2, 1, 0]
    assert a_plan([([7, 5], 3), ([4], 1)]).step_rows(16, 100).sample_id.tolist() == [1, 0, 14, 6, 4, 10, 12, 7]


@pytest.mark.parametrize(
    "weights, expected",
    [
        ((3, 1), (3, 1)),
        ((0.75, 0.25), (3, 1)),
        ((0.1, 0.2, 0.3), (1, 2, 3)),
        ((7,), (1,)),
        ((1e-3, 1), (1, 1000)),
        ((2e20, 1e20), (2, 1)),
        ((1 / 3, 2 / 3), (1, 2)),
        ((0.123456, 1), (1099, 8901)),
        ((1, 1, 1.00001), (3333, 3333, 3334)),
    ],
)
def test_weights_become_whole_parts_exactly_where_they_can(weights, expected):
    assert tuple(parts_of(dict(zip(NAMES, weights))).values()) == expected


@given(st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=8))
def test_rounded_weights_are_within_a_part_of_what_was_asked_for(weights):
    asked = dict(zip(NAMES, weights))
    total = sum(map(Fraction, weights))
    try:
        found = parts_of(asked)
    except UserError:
        assert min(weights) / total < 1 / MOST_PARTS
        return

    period = sum(found.values())
    assert period <= MOST_PARTS
    for name, weight in asked.items():
        assert abs(found[name] / period - float(Fraction(weight) / total)) < 1 / MOST_PARTS


def test_a_weight_of_less_than_a_part_is_refused():
    with pytest.raises(UserError, match="its share is less than 1 in") as caught:
        parts_of({"a": 1e6, "b": 1})
    assert caught.value.where == "data.train.mixture.b.weight: 1"


def test_a_batch_has_its_shares_and_each_rank_has_them_too():
    sources = [([500], 5), ([300], 3), ([300], 2)]
    plan = a_plan(sources, global_batch=100, lanes=None)

    for position in range(0, 3000, 100):
        rows = plan.step_rows(position, 10**9)
        assert np.bincount(source_of(plan, sources, rows.sample_id)).tolist() == [50, 30, 20]
        for rank in range(4):  # of 25 rows: 12.5, 7.5 and 5 of them
            counts = np.bincount(source_of(plan, sources, rows.part(rank, 4).sample_id))
            assert np.abs(counts - [12.5, 7.5, 5]).max() < 1


# --- samples ---


@given(corpora, st.integers(1, 30), st.integers(1, 9), st.integers(1, 7), st.integers(0, 2**31))
def test_every_pass_over_a_source_has_each_of_its_samples_once(sources, batch, lanes, window, seed):
    plan = a_plan(sources, global_batch=batch, lanes=lanes, window=window, seed=seed)
    ids = ids_of(plan, 200)

    source, first = source_of(plan, sources, ids), 0
    for number, (sizes, _) in enumerate(sources):
        own = ids[source == number] - first
        passes = [own[begin : begin + sum(sizes)] for begin in range(0, len(own), sum(sizes))]
        assert all(sorted(each) == list(range(sum(sizes))) for each in passes[:-1])
        assert not passes or len(set(passes[-1])) == len(passes[-1])
        first += sum(sizes)


def test_passes_differ_and_so_do_sources_of_the_same_samples():
    plan = a_plan([([40], 1), ([40], 1)], lanes=None, window=1000)
    ids = ids_of(plan, 160)

    orders = [tuple(ids[ids < 40][:40]), tuple(ids[ids < 40][40:]), tuple(ids[ids >= 40][:40] - 40)]

    assert len(set(orders)) == 3


@given(corpora, st.integers(1, 30), st.integers(1, 5), st.sampled_from(["carry", "drop"]), st.data())
def test_any_number_of_ranks_and_any_kill_point_see_the_same_global_batches(sources, batch, world_size, tail, data):
    options = {"global_batch": batch, "tail": tail, "draws": data.draw(st.integers(batch, 70))}
    plan = a_plan(sources, **options)
    end = plan.end_position(epochs=2, steps=None)
    whole = list(plan.steps(0, end, end=end))

    killed_after = data.draw(st.integers(0, len(whole)))
    rest = list(a_plan(sources, **options).steps(killed_after * batch, end, end=end))

    assert np.array_equal(
        np.sort(np.concatenate([rows.sample_id[rows.valid] for rows in whole])), np.sort(ids_of(plan, end))
    )
    for expected, again in zip(whole[killed_after:], rest, strict=True):
        shares = [again.part(rank, world_size) for rank in range(world_size)]
        assert np.concatenate([share.sample_id for share in shares]).tolist() == expected.sample_id.tolist()


def test_an_epoch_is_a_length_alone():
    sources = [([10, 7], 3), ([20], 1)]
    by_default, short, dropped = a_plan(sources), a_plan(sources, draws=11), a_plan(sources, tail="drop")

    assert [plan.epoch_length for plan in (by_default, short, dropped)] == [37, 11, 32]
    assert ids_of(by_default, 200).tolist() == ids_of(short, 200).tolist() == ids_of(dropped, 200).tolist()


def test_batches_that_grow_take_up_where_the_last_one_ended():
    sources = [([10, 7], 3), ([20], 1)]
    plan = a_plan(sources, growth=GrowthConfig(epochs=[1], factor=2))

    steps = list(plan.steps(0, 120, end=120))

    assert [len(rows) for rows in steps] == [8] * 5 + [16] * 5
    assert sorted(np.concatenate([rows.sample_id for rows in steps])) == sorted(ids_of(plan, 120))


@pytest.mark.parametrize("global_batch", [200, 256])
def test_in_every_batch_a_rank_gets_the_same_part_of_a_source(global_batch):
    sources = [([100] * 64, 5), ([100] * 64, 3), ([100] * 64, 2)]
    plan = a_plan(sources, global_batch=global_batch, lanes=None, window=1000)
    shards = {(rank, number): set() for rank in range(4) for number in range(3)}

    for rows in plan.steps(0, 6400, end=6400):
        for rank in range(4):
            ids = rows.part(rank, 4).sample_id
            for number in range(3):
                shards[rank, number].update(ids[source_of(plan, sources, ids) == number] // 100)

    # A quarter of the 64, those at its borders, and those that a border goes through.
    assert max(map(len, shards.values())) <= 21
    assert all(len(set.union(*(shards[rank, number] for rank in range(4)))) == 64 for number in range(3))


@given(st.integers(1, 300))
def test_every_lane_has_its_turn(lanes):
    assert sorted(turns(lanes)) == list(range(lanes))


def test_lanes_that_follow_one_another_lie_far_apart():
    assert turns(8).tolist() == [0, 4, 2, 6, 1, 5, 3, 7]
    assert turns(5).tolist() == [0, 4, 2, 1, 3]


# --- stand-ins and augmentation ---


@settings(max_examples=15)
@given(corpora, st.integers(1, 5), st.integers(0, 2))
def test_stand_ins_are_the_next_of_the_same_sources_lane_in_the_same_pass(sources, lanes, of_pass):
    plan = a_plan(sources, lanes=lanes, window=50)
    ids = ids_of(plan, 1800)  # so that three passes over each source are whole
    source = source_of(plan, sources, ids)
    for number, (sizes, _) in enumerate(sources):
        positions = np.flatnonzero(source == number)[of_pass * sum(sizes) : (of_pass + 1) * sum(sizes)]
        followed_by = {}
        for position in map(int, positions):
            epoch, offset = divmod(position, plan.epoch_length)
            offset, sample_id = plan.next_in_lane(epoch, offset)
            followed_by[position] = epoch * plan.epoch_length + offset
            assert ids[followed_by[position]] == sample_id

        assert sorted(followed_by.values()) == positions.tolist()
        n_ends = sum(after <= before for before, after in followed_by.items())
        assert n_ends == min(lanes, sum(sizes)), "each lane is followed to its end, and then from its beginning"


def test_a_sample_is_augmented_anew_in_each_pass_over_its_source():
    sources = [([5], 4), ([50], 1)]  # the first is gone through ten times before the second has a quarter of a pass
    plan = a_plan(sources, draws=1000)
    ids = ids_of(plan, 62)

    keys = [(int(i), plan.augmentation_seed(0, offset, int(i))) for offset, i in enumerate(ids)]

    assert len(set(keys)) == len({key for _, key in keys}) == 62
    again = a_plan(sources, draws=7)
    assert keys == [(int(i), again.augmentation_seed(*divmod(at, 7), int(i))) for at, i in enumerate(ids)]


def test_other_weights_and_other_lanes_are_another_plan():
    plan = a_plan([([10], 3), ([20], 1)])

    assert plan.identity == a_plan([([10], 6), ([20], 2)]).identity
    assert plan.identity != a_plan([([10], 2), ([20], 1)]).identity
    assert plan.identity != a_plan([([10], 3), ([20], 1)], lanes=2).identity
    assert plan.shares == {"a": 0.75, "b": 0.25}
