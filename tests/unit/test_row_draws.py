"""Numbers for all rows of a batch: each row's are those that its key gives alone."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distdl.data.pictures.row_draws import RowDraws
from distdl.data.pictures.transforms import Draws

KEYS = st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=20)
MANY = np.arange(200_000, dtype=np.uint64)


@given(KEYS)
def test_a_row_draws_what_its_key_draws_alone(keys):
    rows, alone = RowDraws(np.array(keys, np.uint64)), [Draws(key) for key in keys]

    for _ in range(3):
        assert rows.uniform(-2, 5).tolist() == [each.uniform(-2, 5) for each in alone]
        assert rows.below(7).tolist() == [each.below(7) for each in alone]


@given(KEYS)
def test_what_else_is_drawn_does_not_depend_on_the_other_rows(keys):
    def drawn(these):
        rows = RowDraws(np.array(these, np.uint64))
        return list(zip(rows.normal().tolist(), rows.sign().tolist(), rows.order(4).tolist()))

    assert drawn(keys) == [drawn([key])[0] for key in keys]


def test_below_takes_a_bound_for_each_row():
    bounds = np.array([1, 2, 30])

    drawn = np.stack([RowDraws(np.full(3, key, np.uint64)).below(bounds) for key in range(500)])

    assert drawn.min(axis=0).tolist() == [0, 0, 0] and drawn.max(axis=0).tolist() == [0, 1, 29]


def test_normal_numbers_are_about_normal():
    drawn = RowDraws(MANY).normal()

    assert drawn.mean() == pytest.approx(0, abs=0.01) and drawn.var() == pytest.approx(1, abs=0.01)
    within = [np.mean(abs(drawn) < bound) for bound in (1, 2, 3)]
    assert within == pytest.approx([0.683, 0.954, 0.997], abs=0.01)


def test_orders_are_permutations_and_all_alike_likely():
    orders = RowDraws(MANY).order(3)

    found, counts = np.unique(orders, axis=0, return_counts=True)
    assert len(found) == 6 and sorted(found[0].tolist()) == [0, 1, 2]
    assert counts / len(MANY) == pytest.approx(np.full(6, 1 / 6), abs=0.005)
