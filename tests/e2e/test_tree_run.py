"""dist.reduction: tree - a run that is killed and goes on with another number of workers ends with the same bits."""

import json

import pytest

pytestmark = pytest.mark.timeout(300)

RECIPE = {
    "model__name": "faulty:resnet20",  # batch norm
    "model__args": {"classes": 10, "channels": 1},
    "train__global_batch": 48,
    "train__ema": 0.9,
    "train__mixup": 0.2,
    "train__noise": {"weight": 0.001},
    "train__steps": 16,
    "train__threads": None,  # one a worker, however many there are
    "dist__reduction": "tree",
    "checkpoint__every": 3,
}


def killed(place, chain):
    """The hash of a run that each number of workers but the last was killed in."""
    config = place.config(**RECIPE)
    for number, nproc in enumerate(chain[:-1]):
        marker = place.path / f"struck-{number}"
        leaves_a_step = -(-8 // nproc)
        fault = {"rank": 0, "where": "train", "nth": 4 * leaves_a_step, "kill": "all", "once": str(marker)}
        place.run("train", config, "--nproc", nproc, "--name", "killed", "--resume", FAULT=json.dumps(fault))
        assert marker.exists()
    last = place.run("train", config, "--nproc", chain[-1], "--name", "killed", "--resume")
    assert last.code == 0, last.output
    assert "other rounding" not in last.output
    return place.hash("killed")


@pytest.mark.parametrize(
    "chain",
    [pytest.param((3, 2, 1), id="3-2-1"), pytest.param((4, 2, 3, 8, 1), marks=pytest.mark.matrix, id="4-2-3-8-1")],
)
def test_the_bits_are_those_of_one_worker_that_was_never_killed(place, chain):
    whole = place.run("train", place.config(**RECIPE), "--nproc", 1, "--name", "whole")
    assert whole.code == 0, whole.output

    assert killed(place, chain) == place.hash("whole")


def test_other_leaves_would_be_another_run(place):
    config = place.config(**RECIPE, train__eval_every=None)
    assert place.run("train", config, "train.steps=2", "--nproc", 1, "--name", "x").code == 0

    other = place.run("train", config, "dist.leaves=4", "--nproc", 1, "--name", "x", "--resume")

    assert other.code == 2
    assert "dist.leaves: 8 -> 4" in other.output
