"""Fewer workers after one was lost, all of them once its place is free again, and the same bits by a tree."""

import json
import re
import sys

import pytest

pytestmark = pytest.mark.timeout(240)

CHANGES = {
    "model__name": "hanging:lenet5",
    "train__global_batch": 48,
    "train__steps": 60,
    "dist__reduction": "tree",
    "dist__leaves": 4,
    "checkpoint__every": 5,
}


def test_a_run_goes_on_with_fewer_workers_and_grows_again(place):
    config = place.config(**CHANGES)
    alone = place.run("train", config, "--nproc", 3, "--name", "alone")
    assert alone.code == 0, alone.output
    slow_enough_to_grow = {"rank": 2, "after": 22, "how": "killed_in_slow_steps", "once": str(place.path / "once")}

    result = place.run(
        *("train", config, "--nproc", 3, "--min-workers", 2, "--max-restarts", 3, "--name", "elastic"),
        HANG=json.dumps(slow_enough_to_grow),
        DISTDL_REST_S="3",
    )

    assert result.code == 0, result.output
    assert re.search(r"starting again from the checkpoint of step \d+ with 2 workers", result.output), result.output
    assert "a place is free again: saving, to go on with more workers" in result.output
    resumed = [row["message"] for row in place.rows("elastic", "event") if row["event"] == "resumed"]
    assert resumed == ["on 2 workers", "on 3 workers"]
    assert place.hash("elastic") == place.hash("alone")


def test_fault_40_torchrun_starts_again_over_what_the_attempt_before_has_left(place):
    config = place.config(model__name="hanging:lenet5", train__steps=30)
    killed = {"rank": 1, "after": 15, "how": "killed", "once": str(place.path / "once")}
    torchrun = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")

    result = place.run(
        *("train", config, "--min-workers", 2),
        launcher=(*torchrun, "--max-restarts", "2", "-m", "distdl"),
        HANG=json.dumps(killed),
        OMP_NUM_THREADS="1",
    )

    assert result.code == 0, result.output
    assert "resumed at step 10" in result.output
    assert [row["step"] for row in place.rows("run")] == list(range(1, 31))


@pytest.mark.parametrize("rank", [0, 1])
def test_a_worker_of_torchruns_that_was_killed_is_told_as_the_cause(place, rank):
    """The others only know that they have lost it, and torchrun that they failed first."""
    config = place.config(model__name="hanging:lenet5", train__steps=30)
    torchrun = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "3", "-m", "distdl")

    result = place.run(
        *("train", config),
        launcher=torchrun,
        HANG=json.dumps({"rank": rank, "after": 15, "how": "killed"}),
        OMP_NUM_THREADS="1",
    )
    told = place.run("why", "run")

    cause = rf"rank {rank} on \S+ failed after step 15(; \d other workers? lost \w+ peers? because of it)?:"
    words = r"it ended in the middle of a step without a word: by SIGKILL"
    assert result.code == 1 and re.search(rf"{cause}\n{words}", result.output), result.output
    assert re.fullmatch(rf"{cause}\n{words}.*", told.output.strip()), told.output


def test_fewer_workers_than_asked_for_are_refused(place):
    result = place.run("train", place.config(), "--nproc", 2, "--min-workers", 3)

    assert result.code == 2
    assert result.output.splitlines()[0] == "error: command line --min-workers 3: 2 workers"
    assert not (place.path / "runs").exists()
