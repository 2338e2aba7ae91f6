"""Ending a run whose metric has stopped improving."""

import math

import pytest

from distdl.config.schema import EarlyStopConfig
from distdl.trainer.early_stop import observe


def after(values, *, lower_is_better, **config):
    state = None
    for value in values:
        state = observe(state, value, EarlyStopConfig(metric="x", **config), lower_is_better)
    return state


@pytest.mark.parametrize(
    ("values", "lower_is_better", "n_bad"),
    [
        ([0.5], False, 0),
        ([0.5, 0.6, 0.7], False, 0),
        ([0.5, 0.4, 0.3], False, 2),
        ([0.5, 0.4, 0.6, 0.6], False, 1),  # equal is not better
        ([0.5, 0.4, 0.3], True, 0),
        ([0.5, math.nan, 0.4], True, 0),
        ([0.5, math.nan, math.nan], False, 2),
        ([math.nan, 0.1], False, 0),
        ([math.nan, math.nan], False, 2),
    ],
)
def test_evaluations_without_improvement_are_counted(values, lower_is_better, n_bad):
    assert after(values, lower_is_better=lower_is_better)["n_bad"] == n_bad


def test_a_change_of_at_most_min_delta_is_no_improvement_and_does_not_move_the_best():
    state = after([0.50, 0.51, 0.52, 0.53], lower_is_better=False, min_delta=0.025)

    assert state == {"metric": "x", "best": 0.53, "n_bad": 0}
    assert after([0.50, 0.51, 0.52], lower_is_better=False, min_delta=0.025) == {
        "metric": "x",
        "best": 0.50,
        "n_bad": 2,
    }


def test_another_metric_begins_anew():
    state = after([0.5, 0.4, 0.3], lower_is_better=False)

    assert observe(state, 7.0, EarlyStopConfig(metric="loss"), True) == {"metric": "loss", "best": 7.0, "n_bad": 0}
