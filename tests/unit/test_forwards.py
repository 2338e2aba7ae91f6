"""Forwards that fit: as many on every part, within the cost, and with as little padding as can be."""

from itertools import combinations, pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distdl.data.forwards import micro_batches, sorted_in_parts
from distdl.data.order import Rows

steps = st.lists(st.integers(1, 50), min_size=1, max_size=24).map(np.array)


def costs(lengths, borders):
    """Of one part's forwards: rows times the longest."""
    return [(end - begin) * lengths[begin:end].max(initial=0) for begin, end in pairwise(borders)]


@given(steps, st.integers(1, 8), st.integers(1, 600))
def test_every_part_has_as_many_forwards_all_rows_and_no_forward_costs_too_much(lengths, n_parts, at_once):
    borders_PM = micro_batches(lengths, n_parts, at_once)

    for part, borders in enumerate(borders_PM):
        assert borders[0] == part * len(lengths) // n_parts
        assert borders[-1] == (part + 1) * len(lengths) // n_parts
        n_rows_M = np.diff(borders)
        assert (n_rows_M >= 0).all()
        assert (n_rows_M == 0).sum() == max(0, len(n_rows_M) - n_rows_M.sum())  # empty only where there is no row
        for n_rows, cost in zip(n_rows_M, costs(lengths, borders)):
            assert cost <= at_once or n_rows == 1


@given(st.lists(st.integers(1, 30), min_size=1, max_size=9).map(np.array), st.integers(20, 120), st.floats(0.001, 1.0))
def test_no_cut_of_as_many_computes_less_and_another_forward_would_not_pay(lengths, at_once, least_saving):
    (borders,) = micro_batches(lengths, 1, at_once, least_saving)

    def least_computed(n_forwards):
        found = np.inf
        for inner in combinations(range(1, len(lengths)), n_forwards - 1):
            cut = [0, *inner, len(lengths)]
            of_cut = costs(lengths, cut)
            if all(cost <= at_once or end - begin == 1 for cost, begin, end in zip(of_cut, cut, cut[1:])):
                found = min(found, sum(of_cut))
        return found

    n_forwards = len(borders) - 1
    computed = sum(costs(lengths, borders))
    assert computed == pytest.approx(least_computed(n_forwards), rel=1e-3)
    assert n_forwards == len(lengths) or computed - least_computed(n_forwards + 1) <= (least_saving + 1e-3) * computed
    for fewer in range(1, n_forwards):
        saved = least_computed(fewer) - least_computed(fewer + 1)
        assert not np.isfinite(saved) or saved > (least_saving - 1e-3) * least_computed(fewer)


def test_one_long_row_goes_alone_where_that_saves_enough():
    lengths = np.array([10, 10, 10, 40])  # 160 in one forward, 30 + 40 in two

    assert micro_batches(lengths, 1, at_once=1000, least_saving=0.5).tolist() == [[0, 3, 4]]
    assert micro_batches(lengths, 1, at_once=1000, least_saving=0.6).tolist() == [[0, 4]]


def test_forwards_that_compute_the_same_are_even():
    assert micro_batches(np.full(12, 10), 1, at_once=60).tolist() == [[0, 6, 12]]
    assert micro_batches(np.full(12, 10), 1, at_once=50).tolist() == [[0, 4, 8, 12]]


def test_a_part_of_very_many_rows_is_cut_as_well():
    lengths = np.sort(np.random.default_rng(0).integers(100, 200, 5000))

    borders_PM = micro_batches(lengths, 2, at_once=30_000, least_saving=0.01)

    assert borders_PM[:, 0].tolist() == [0, 2500] and borders_PM[:, -1].tolist() == [2500, 5000]
    of_forwards = [costs(lengths, borders) for borders in borders_PM]
    assert max(map(max, of_forwards)) <= 30_000 and len(of_forwards[0]) == len(of_forwards[1])
    assert sum(map(sum, of_forwards)) < 1.02 * lengths.sum()


def test_a_part_that_would_need_fewer_has_as_many():
    lengths = np.array([10, 10, 10, 10, 90, 90, 90, 90])

    borders_PM = micro_batches(lengths, n_parts=2, at_once=180)

    assert borders_PM.tolist() == [[0, 2, 4], [4, 6, 8]]


def test_a_row_over_the_limit_is_alone():
    assert micro_batches(np.array([5, 99, 5]), 1, at_once=20).tolist() == [[0, 1, 2, 3]]


def test_more_parts_than_rows_leave_parts_without_any():
    assert micro_batches(np.array([7, 7]), 4, at_once=20).tolist() == [[0, 0], [0, 1], [1, 1], [1, 2]]


@given(steps, st.integers(1, 8))
def test_sorted_parts_have_their_rows_by_length(lengths, n_parts):
    rows = Rows.of(np.arange(len(lengths)))

    by_length = sorted_in_parts(rows, lengths, n_parts)

    for number in range(n_parts):
        before, after = (each.part(number, n_parts).sample_id for each in (rows, by_length))
        assert sorted(after) == sorted(before)
        assert (np.diff(lengths[after]) >= 0).all()


def test_rows_that_are_not_valid_stay_at_the_end_of_their_part():
    at = np.arange(4)
    rows = Rows(at, at, at, valid=np.array([False, True, True, False]), size=9)

    by_length = sorted_in_parts(rows, np.array([1, 9, 8, 2]), n_parts=1)

    assert by_length.sample_id.tolist() == [2, 1, 0, 3]
    assert by_length.valid.tolist() == [True, True, False, False]
    assert by_length.size == 9
