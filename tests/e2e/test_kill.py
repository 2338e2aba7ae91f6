"""Killed at any point and started again with --resume: the same bits as never killed, and nothing left behind."""

import itertools
import json
import signal

import pytest

pytestmark = pytest.mark.timeout(240)

VICTIMS = {"a worker": (1, "self"), "rank 0": (0, "self"), "supervisor": (0, "supervisor"), "everything": (0, "all")}
# A save syncs the model, the optimiser, the manifest, its folder and, once renamed, the folder above: 5 syncs.
# Saves come at steps 10, 16 (best), 20 (which deletes 10), 30, 32 (best) and 40.
POINTS = {
    "before the first checkpoint": ("train", 4),
    "in a step": ("train", 27),
    "in an evaluation": ("eval", 2),
    "in the last evaluation": ("eval", 6),
    "a save that has begun": ("fsync", 6),
    "a save before its manifest": ("fsync", 8),
    "a save before its rename": ("rename", 2),
    "a save just renamed": ("renamed", 2),
    "a save that deletes an old one": ("rename", 4),
    "the last save": ("fsync", 27),
}
IN_SAVES = ("fsync", "rename", "renamed")  # only rank 0 saves

# Each point once, each victim and each number of workers at some of them; `make matrix` runs them all.
COVERING = [
    ("a worker", "before the first checkpoint", 2),
    ("a worker", "in a step", 4),
    ("supervisor", "in an evaluation", 2),
    ("everything", "in the last evaluation", 2),
    ("rank 0", "a save that has begun", 2),
    ("everything", "a save before its manifest", 2),
    ("supervisor", "a save before its rename", 2),
    ("rank 0", "a save just renamed", 2),
    ("everything", "a save that deletes an old one", 2),
    ("rank 0", "the last save", 2),
]
ALL = [
    case
    for case in itertools.product(VICTIMS, POINTS, (2, 4))
    if not (case[0] == "a worker" and POINTS[case[1]][0] in IN_SAVES)
]


def kill_and_resume(place, unkilled, victim, point, nproc):
    rank, whom = VICTIMS[victim]
    where, nth = POINTS[point]
    if where == "eval" and nproc == 4:
        nth = 1 if nth == 2 else 3  # four workers share the four batches of an evaluation
    fault = {"rank": rank, "where": where, "nth": nth, "kill": whom, "once": str(place.path / "struck")}
    command = ("train", place.config(model__name="faulty:lenet5"), "--nproc", nproc)

    killed = place.run(*command, FAULT=json.dumps(fault))

    assert (place.path / "struck").exists(), f"the fault was never reached:\n{killed.output}"
    assert killed.code == (-signal.SIGKILL if whom in ("supervisor", "all") else 1)
    assert place.gone_within(2), "processes were left behind"
    if whom == "self":
        assert f"rank {rank} on " in killed.output and "killed by SIGKILL" in killed.last_line

    resumed = place.run(*command, "--resume")

    assert resumed.code == 0, resumed.output
    assert place.hash("run") == unkilled(nproc)
    assert [row["step"] for row in place.rows("run")] == list(range(1, 41))
    assert [row["step"] for row in place.rows("run", "eval")] == [16, 32, 40]
    leftovers = [path.name for path in (place.path / "runs/run/checkpoints").iterdir() if path.name.startswith(".")]
    assert not leftovers


@pytest.mark.parametrize(("victim", "point", "nproc"), COVERING)
def test_a_killed_run_goes_on_as_if_nothing_had_happened(place, unkilled, victim, point, nproc):
    kill_and_resume(place, unkilled, victim, point, nproc)


def test_a_row_that_was_half_gathered_when_the_run_was_killed_is_the_same(place):
    place.config(model__name="faulty:lenet5", train__log_every=15, checkpoint__every=7)
    fault = {"rank": 1, "where": "train", "nth": 25, "kill": "all", "once": str(place.path / "struck")}
    command = ("train", "run.yaml", "--nproc", 2)
    assert place.run(*command, "--name", "unkilled").code == 0

    assert place.run(*command, FAULT=json.dumps(fault)).code == -signal.SIGKILL
    resumed = place.run(*command, "--resume")  # from step 21, in the middle of the row of steps 16 to 30

    assert resumed.code == 0, resumed.output
    losses, unkilled = ([(row["step"], row["loss"]) for row in place.rows(name)] for name in ("run", "unkilled"))
    assert [step for step, _ in losses] == [15, 30, 40]
    assert losses == unkilled


@pytest.mark.matrix
@pytest.mark.parametrize(("victim", "point", "nproc"), [case for case in ALL if case not in COVERING])
def test_every_victim_at_every_point(place, unkilled, victim, point, nproc):
    kill_and_resume(place, unkilled, victim, point, nproc)
