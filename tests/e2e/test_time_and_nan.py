"""Runs that end before their length: out of time, no longer improving, or with a gradient that is not finite."""

import json

import pytest

pytestmark = pytest.mark.timeout(120)


def test_a_run_that_has_had_its_time_saves_and_asks_to_be_requeued(place):
    config = place.config(
        train__stop_after="1 s", train__steps=100_000, checkpoint__every="1 h", train__eval_every=None
    )

    stopped = place.run("train", config, "--nproc", 2)

    assert stopped.code == 75
    final = json.loads((place.path / "runs/run/final.json").read_text())
    assert final["outcome"] == "preempted"
    assert (place.path / f"runs/run/checkpoints/step-{final['steps']:08}/manifest.json").exists()


def test_a_run_that_does_not_improve_ends_on_all_workers_and_stays_ended(place):
    early = {"metric": "top1", "patience": 2, "min_delta": 1.0}  # which nothing reaches
    config = place.config(train__early_stop=early, train__eval_every=5)

    ended = place.run("train", config, "--nproc", 2)
    again = place.run("train", config, "--nproc", 2, "--resume")

    assert (ended.code, again.code) == (0, 0), ended.output + again.output
    final = json.loads((place.path / "runs/run/final.json").read_text())
    assert (final["steps"], final["stopped_early"]) == (15, True)
    assert "this run is finished (step 15" in again.output and "patience" in again.output


def test_fault_28_a_nan_on_one_worker_leaves_the_step_out_on_all_of_them(place):
    fault = {"rank": 1, "where": "train", "nth": 5, "kill": "nan", "once": str(place.path / "struck")}
    config = place.config(model__name="faulty:lenet5")

    result = place.run("train", config, "--nproc", 2, FAULT=json.dumps(fault))

    assert result.code == 0, result.output
    final = json.loads((place.path / "runs/run/final.json").read_text())
    assert (final["steps"], final["skipped_steps"]) == (40, 1)
    assert [row["event"] for row in place.rows("run", "event")] == ["skipped_steps"]
    assert all(row["loss"] is not None for row in place.rows("run"))


def test_a_gradient_that_stays_nan_ends_the_run_with_what_to_do(place):
    config = place.config(optim__lr=1e30, train__nonfinite_limit=5, schedule={"name": "constant"})

    result = place.run("train", config, "--nproc", 2)

    assert result.code == 2, result.output
    assert "steps in a row" in result.output and "optim.lr" in result.last_line


@pytest.mark.parametrize("nproc", [1, 2])
def test_a_single_nan_ends_the_run_if_asked_also_when_a_save_comes_between(place, nproc):
    fault = {"rank": 0, "where": "train", "nth": 3, "kill": "nan", "once": str(place.path / "struck")}
    config = place.config(model__name="faulty:lenet5", train__nonfinite="stop", train__log_every=7, checkpoint__every=4)

    result = place.run(
        "train",
        config,
        "--nproc",
        nproc,
        FAULT=json.dumps(fault),
    )

    assert result.code == 2, result.output
    assert "NaN or Inf in the gradient" in result.output and "lost its peer" not in result.output
