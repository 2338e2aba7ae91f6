"""Runs over MPI: by `distdl train --backend mpi`, by the user's own mpirun, and in turns with gloo."""

import json
import os
import re
import signal
import sys
import time
from pathlib import Path

import pytest
from mpis import AS_ROOT, MPICH, OPEN_MPI
from test_stop import LONG, finish, start_and_wait_for_step
from test_tree_run import RECIPE

pytestmark = [pytest.mark.timeout(300), pytest.mark.needs("mpi")]

DISTDL = (sys.executable, "-m", "distdl")
MPI = ("--backend", "mpi")
BOTH = pytest.mark.parametrize("library", [OPEN_MPI, MPICH], ids=lambda each: each.name)


def by_mpirun(place, library, n, *arguments, program=DISTDL, **options):
    ended = place.run(*arguments, launcher=[*library.mpirun, "-n", str(n), *program], **AS_ROOT, **options)
    assert place.gone_within(10), "processes were left behind"  # a mpirun that aborts may end before its daemons
    return ended


def path_to(library):
    """So that this library's mpirun is the first one that is found."""
    return {"PATH": f"{Path(library.mpirun[0]).parent}:{os.environ['PATH']}"}


def fault(place, **changes):
    about = {"rank": 1, "where": "train", "nth": 13, "kill": "self", "once": str(place.path / "struck"), **changes}
    return {"FAULT": json.dumps(about)}


@pytest.fixture(scope="session")
def tree_hash(place_of, tmp_path_factory, corpus):
    """Of one worker that was never killed."""
    there = place_of(tmp_path_factory.mktemp("tree"), corpus)
    assert there.run("train", there.config(**RECIPE), "--nproc", 1).code == 0
    return there.hash("run")


@pytest.mark.parametrize(
    "launchers",
    [
        pytest.param(["mpi 3", "gloo 2", "mpirun 2"], id="mpi-gloo-mpirun"),
        pytest.param(["gloo 4", "mpi 4", "mpi 2", "mpirun 3", "mpi 8", "gloo 1"], marks=pytest.mark.matrix, id="many"),
    ],
)
def test_a_tree_has_the_same_bits_over_mpi_also_where_a_killed_run_goes_on_over_another_library(
    place, tree_hash, launchers
):
    config = place.config(**RECIPE)
    for number, launcher in enumerate(launchers):
        how, n = launcher.split()
        leaves_a_step = -(-8 // int(n))
        strikes = fault(place, rank=0, nth=4 * leaves_a_step, kill="all", once=str(place.path / f"struck-{number}"))
        options = strikes if number < len(launchers) - 1 else {}
        if how == "mpirun":
            result = by_mpirun(place, OPEN_MPI, n, "train", config, "--resume", **options)
        else:
            result = place.run("train", config, "--backend", how, "--nproc", n, "--resume", **options)

    assert result.code == 0, result.output
    assert place.hash("run") == tree_hash
    assert place.gone_within(2)


@BOTH
def test_after_the_death_of_a_worker_they_are_started_again(place, unkilled, library):
    config = place.config(model__name="faulty:lenet5", dist__reduction="fast")

    result = place.run(
        *("train", config, *MPI, "--nproc", 2, "--max-restarts", 1), **fault(place, nth=25), **path_to(library)
    )

    assert result.code == 0, result.output
    assert re.search(r"rank 1 on \S+ failed after step 2\d: killed by SIGKILL", result.output)
    assert "starting again from the checkpoint of step 20" in result.output
    assert [row["step"] for row in place.rows("run")] == list(range(1, 41))
    assert place.hash("run") == unkilled(2)  # of two numbers there is one sum
    assert place.gone_within(2)


def test_what_a_worker_raises_is_told_and_recorded(place):
    config = place.config(model__name="hanging:lenet5")

    began = time.monotonic()
    result = place.run("train", config, *MPI, "--nproc", 3, **raises(place))

    assert result.code == 1
    assert re.search(r"rank 1 on \S+ failed at step 6; 2 other workers lost their peer because of it:", result.output)
    assert result.last_line == "RuntimeError: of rank 1"
    assert ended_s(place) < 3 + 2, time.monotonic() - began
    assert place.gone_within(2)


@BOTH
def test_what_a_worker_of_mpirun_raises_ends_the_job_with_its_exit_code(place, library):
    config = place.config(model__name="hanging:lenet5")

    result = by_mpirun(place, library, 3, "train", config, **raises(place))

    assert result.code == 1, result.output
    assert "RuntimeError: of rank 1" in result.output
    assert ended_s(place) < 3 + 2
    record = json.loads((place.path / "runs/run/failures/rank-1.json").read_text())
    assert record["kind"] == "bug" and record["step"] == 6 and record["message"] == "RuntimeError: of rank 1"
    assert place.gone_within(2)


def raises(place):
    return {"HANG": json.dumps({"rank": 1, "after": 6, "how": "raises", "at": str(place.path / "at")})}


def ended_s(place):
    return time.monotonic() - float((place.path / "at").read_text())


@BOTH
def test_a_mistake_ends_mpirun_with_its_exit_code(place, library):
    result = by_mpirun(place, library, 2, "train", place.config(), "data.train.shards=nowhere")

    assert result.code == 2, result.output
    assert "nowhere" in result.output
    assert place.gone_within(2)


@BOTH
def test_a_run_of_mpirun_learns_and_ends_well(place, library):
    config = place.config(train__steps=60)

    result = by_mpirun(place, library, 2, "train", config)

    assert result.code == 0, result.output
    assert "on 2 workers (cpu, mpi)" in result.output
    assert place.rows("run", "eval")[-1]["top1"] > 0.6
    assert place.gone_within(2)


def test_a_stop_signal_saves_and_mpirun_passes_on_the_exit_code(place):
    options = {"launcher": [*OPEN_MPI.mpirun, "-n", "2", *DISTDL], **AS_ROOT}
    process = start_and_wait_for_step(place, 5, options=options, **LONG)

    os.kill(place.worker(0, by="OMPI_COMM_WORLD_RANK"), signal.SIGUSR1)

    code, output = finish(process)
    assert code == 75, output
    assert "--resume goes on" in output


def test_a_stop_signal_to_the_supervisor_reaches_the_workers(place):
    process = start_and_wait_for_step(place, 5, *MPI, "--nproc", 2, **LONG)

    process.send_signal(signal.SIGTERM)

    assert finish(process)[0] == 75
    assert place.gone_within(2)


@pytest.mark.parametrize("whom", ["supervisor", "mpirun"])
def test_nothing_is_left_when_what_started_the_workers_is_killed(place, whom):
    process = start_and_wait_for_step(place, 5, *MPI, "--nproc", 2, **LONG)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    assert len(children) == 1  # mpirun

    os.kill(process.pid if whom == "supervisor" else int(children[0]), signal.SIGKILL)

    code, output = finish(process)
    assert code == (-signal.SIGKILL if whom == "supervisor" else 1), output
    assert place.gone_within(3)


def test_torchrun_is_told_that_it_does_not_start_an_mpi_job(place):
    launcher = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "distdl")

    result = place.run("train", place.config(), *MPI, launcher=launcher)

    assert result.code != 0
    assert "WORLD_SIZE says 2 workers, and MPI knows of 1: they were not started by mpirun" in result.output


def test_an_mpirun_that_does_not_start_them_is_told_with_its_own_words(place):
    mpirun = place.path / "bin/mpirun"
    mpirun.parent.mkdir()
    mpirun.write_text("#!/bin/sh\necho there are not enough slots; exit 3")
    mpirun.chmod(0o755)

    result = place.run("train", place.config(), *MPI, "--nproc", 2, PATH=f"{mpirun.parent}:{os.environ['PATH']}")

    assert result.code == 2
    assert "has ended with exit code 3" in result.output and "there are not enough slots" in result.output
    assert "dist.backend=gloo needs no MPI" in result.last_line


def test_without_an_mpirun_there_is_help(place):
    result = place.run("train", place.config(), *MPI, "--nproc", 2, PATH=str(place.path))

    assert result.code == 2
    assert "there is no mpirun here" in result.output and "distdl[mpich]" in result.last_line


RAISES = """
if dist.get_rank() == 1:
    raise ValueError("of rank 1")
"""
IS_LATE = """
if dist.get_rank() == 1:
    time.sleep(60)
try:
    dist.all_reduce(torch.ones(1 << 20))
except dist.DistBackendError as error:
    print("caught:", error)
"""


@BOTH
@pytest.mark.parametrize(
    ("source", "said"), [(RAISES, "ValueError: of rank 1"), (IS_LATE, "caught: all_reduce over MPI: Timed out")]
)
def test_a_script_that_can_not_end_with_the_others_ends_them(place, library, source, said):
    script = f"""
import time, datetime, torch, torch.distributed as dist
import distdl.comm.mpi
distdl.comm.mpi.init_process_group(datetime.timedelta(seconds=2))
{source}
if dist.get_rank() == 0 and "Timed out" not in {said!r}:
    dist.all_reduce(torch.ones(1))
"""
    result = by_mpirun(place, library, 2, "-c", script, program=[sys.executable], deadline=40)

    assert result.code == 1, result.output
    assert said in result.output


WITHOUT_LEAVING = """
import torch
import torch.distributed as dist
import distdl.comm.mpi

dist.init_process_group("distdl_mpi")
network = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(1000, 1000))
for _ in range(5):
    network(torch.ones(4, 1000)).sum().backward()
work = dist.all_reduce(torch.ones(3_000_000), async_op=True)
"""


@BOTH
def test_a_script_may_end_without_leaving_its_group_or_waiting_for_what_it_has_begun(place, library):
    script = place.path / "script.py"
    script.write_text(WITHOUT_LEAVING)

    for _ in range(4):  # it was a matter of chance
        ended = by_mpirun(place, library, 2, script, program=[sys.executable], OMP_NUM_THREADS="1")
        assert ended.code == 0, ended.output
