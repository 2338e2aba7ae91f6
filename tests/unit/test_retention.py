"""Which checkpoints stay: a table of what is on disk and what the rules keep of it."""

import pytest

from distdl.checkpoint.retention import kept
from distdl.config.schema import KeepConfig

EPOCH_LENGTH = 1000


def kept_of(steps, keep, best=(), position_of=lambda step: step * 10):
    return sorted(kept(steps, position_of, KeepConfig.model_validate(keep), EPOCH_LENGTH, best))


@pytest.mark.parametrize(
    "steps, keep, best, expected",
    [
        ([], {"last": 2}, [], []),
        ([5], {"last": 2}, [], [5]),
        ([1, 2, 3, 4, 5], {"last": 2}, [], [4, 5]),
        ([1, 2, 3, 4, 5], {"last": 2}, [2], [2, 4, 5]),
        ([1, 2, 3, 4, 5], {"last": 1}, [5, 2, 1], [1, 2, 5]),
        ([3, 4, 5], {"last": 1}, [2], [5]),  # the best one is gone
        # The first at or after each multiple of 10; none for what lies before the first multiple.
        ([5, 10, 15, 20, 25], {"last": 1, "every": 10}, [], [10, 20, 25]),
        ([7, 14, 21, 28, 35], {"last": 1, "every": 10}, [], [14, 21, 35]),
        ([4, 8, 12, 16, 19, 23], {"last": 1, "every": 10}, [], [12, 23]),
        ([25, 60, 95], {"last": 1, "every": 10}, [], [25, 60, 95]),  # saved less often than kept
        ([10, 11, 12], {"last": 3, "every": 10}, [11], [10, 11, 12]),  # kept by several rules
        # 100 steps are an epoch of 1000 samples.
        ([50, 100, 150, 200], {"last": 1, "every": "1 epoch"}, [], [100, 200]),
        ([50, 100, 150, 200], {"last": 1, "every": "1.5 epochs"}, [], [150, 200]),
        ([99, 101, 199, 201, 250], {"last": 1, "every": "2 epochs"}, [], [201, 250]),
        ([7, 14, 21], {"last": 1, "every": "0.07 epochs"}, [], [7, 14, 21]),  # 0.07 * 1000 is 70.00000000000001
        # Steps may grow: at step 30 the run is in epoch 2.
        ([10, 20, 30, 40], {"last": 1, "every": "2 epochs"}, [], [20, 30, 40]),
    ],
)
def test_what_is_kept(steps, keep, best, expected):
    grown = {10: 1000, 20: 2000, 30: 4000, 40: 8000} if steps == [10, 20, 30, 40] else {}

    found = kept_of(steps, keep, best, lambda step: grown.get(step, step * 10))

    assert found == expected


@pytest.mark.parametrize("every", [10, 25, "0.25 epochs"])
def test_pruning_after_each_save_keeps_what_pruning_once_at_the_end_would_keep(every):
    saved = list(range(3, 120, 4))
    there = []
    for step in saved:
        there = kept_of([*there, step], {"last": 2, "every": every})

    assert there == kept_of(saved, {"last": 2, "every": every})


def test_a_rarer_rule_after_a_restart_lets_go_of_the_rest():
    there = kept_of(range(10, 110, 10), {"last": 1, "every": 20})

    assert there == [20, 40, 60, 80, 100]
    assert kept_of(there, {"last": 1, "every": 40}) == [40, 80, 100]


def test_a_checkpoint_that_cannot_tell_its_epoch_stays_and_stands_for_no_other():
    positions = {100: None, 110: 1100, 120: 1200, 130: 1300}

    assert kept_of(positions, {"last": 1, "every": "1 epoch"}, position_of=positions.get) == [100, 110, 130]


@pytest.mark.parametrize("keep", [{"last": 1}, {"last": 1, "every": 2}])
def test_positions_are_not_asked_for_in_vain(keep):
    assert kept_of([1, 2, 3], keep, position_of=pytest.fail)
