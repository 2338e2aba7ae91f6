"""`distdl sweep`: runs side by side, one that fails among them, stopped and gone on with."""

import re
import signal
import time

import pytest

pytestmark = pytest.mark.timeout(300)

SHORT = {"train__steps": 6, "train__eval_every": None}


def grid(place, text):
    path = place.path / "grid.yaml"
    path.write_text(text)
    return path


def test_each_point_is_a_run_and_a_table_tells_of_all(place):
    result = place.run(
        "sweep", place.config(**SHORT), grid(place, "optim.lr: [0.05, 0.1]"), "--at-once", 2, "train.seed=3"
    )

    assert result.code == 0, result.output
    assert re.findall(r"^run-lr=\S+ +done +6 .*", result.output, re.M) and "optim.lr" in result.output
    assert place.hash("run-lr=0.05") != place.hash("run-lr=0.1")
    assert all("seed: 3" in (place.path / f"runs/run-lr={lr}/config.yaml").read_text() for lr in ("0.05", "0.1"))


def test_one_that_fails_is_told_with_its_reason_and_the_others_are_run(place):
    points = "- {data.train.shards: nowhere}\n- {optim.lr: 0.1}"

    result = place.run("sweep", place.config(**SHORT), grid(place, points))

    assert result.code == 1
    assert "run-shards=nowhere: failed with exit code 2\n" in result.output
    assert "nowhere" in result.output.partition("failed with exit code 2")[2].partition("run-lr=0.1")[0]
    assert "run-lr=0.1: done" in result.output


def test_a_sweep_that_is_stopped_saves_and_goes_on(place):
    config = place.config(train__steps=60, model__name="paced:lenet5", model__args={"classes": 10, "pace_s": 0.1})
    points = grid(place, "train.seed: [0, 1]")
    process = place.start("sweep", config, points)
    metrics = place.path / "runs/run-seed=0/metrics.jsonl"
    deadline = time.monotonic() + 60
    while not (metrics.exists() and metrics.read_bytes().count(b"\n") >= 5):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.05)

    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)

    assert process.returncode == 130, output
    assert "run-seed=0: stopped, and saved" in output
    assert "1 run was not started; the same command with --resume goes on" in output
    again = place.run("sweep", config, points, "--resume", deadline=200)
    assert again.code == 0, again.output
    steps = [row["step"] for row in place.rows("run-seed=0")]
    assert steps == list(range(1, 61))
