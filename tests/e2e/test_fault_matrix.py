"""Faults by their numbers: what happens to a worker, a host or a link, and that the run ends as if nothing had.

The numbers are those of docs/faults.md, which says where each fault is tried. A fault strikes once; the run is started
again by its own supervisor, and has to end with the weights of one that nothing happened to, each step once.
"""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import time

import pytest

pytestmark = pytest.mark.timeout(240)

STEPS = 40


@pytest.fixture
def strike(place, unkilled):
    """Runs the small config with a fault and restarts; checks what all faults have in common."""

    def run(how, *, rank=1, after=24, nproc=2, changes=None, **fault):
        told = {"rank": rank, "after": after, "how": how, **fault}
        told |= {"once": str(place.path / "once"), "at": str(place.path / "at")}
        config = place.config(model__name="hanging:lenet5", dist__stall_s=3, **(changes or {}))
        arguments = ("train", config, "--nproc", nproc, "--max-restarts", 2)
        result = place.run(*arguments, HANG=json.dumps(told))
        assert result.code == 0, result.output
        assert [row["step"] for row in place.rows("run")] == list(range(1, STEPS + 1))
        assert place.hash("run") == unkilled(nproc)
        assert place.gone_within(2)
        return result

    return run


def seconds_to_the_next_step(place):
    """From the fault to the first step that was taken after it."""
    struck = float((place.path / "at").read_text())
    return float((place.path / "again").read_text()) - struck


@pytest.mark.parametrize(
    ("number", "how", "rank", "nproc"),
    [
        (1, "killed", 1, 2),
        (2, "killed_in_backward", 1, 3),
        (3, "killed", 0, 2),
        (4, "all_killed", 0, 3),
    ],
    ids=["fault_1_worker", "fault_2_in_backward", "fault_3_rank_0", "fault_4_all_workers"],
)
def test_killed(strike, place, number, how, rank, nproc):
    result = strike(how, rank=rank, nproc=nproc, again=str(place.path / "again"))

    assert "starting again from the checkpoint of step 20" in result.output
    assert seconds_to_the_next_step(place) < 60  # benchmarks/watch/goodput.py measures it


def test_fault_9_a_stopped_worker_is_named_killed_and_started_again(strike):
    result = strike("stopped", changes={"checkpoint__every": 20})  # it goes on for a moment, to tell where it stands

    assert re.search(r"rank 1 on \S+ hung after step 24: rank 1 stands at \S+hanging.py:\d+ in stopped", result.output)
    assert "starting again from the checkpoint of step 20" in result.output


def test_fault_10_a_dataset_that_holds_the_interpreter_is_named_with_its_line(strike, place):
    result = strike("spin_in_input", after=25)

    records = [json.loads(path.read_text()) for path in (place.path / "runs/run/failures/earlier").glob("*rank-1.json")]
    assert any("in hold_the_interpreter" in record["traceback"] for record in records)
    assert re.search(r"rank 1 on \S+ hung after step \d+", result.output)


def test_fault_11_a_skipped_collective_is_told_long_before_a_time_out(place):
    fault = {"rank": 1, "after": 6, "how": "skipped", "at": str(place.path / "at")}

    result = place.run(
        "train", place.config(model__name="hanging:lenet5", dist__stall_s=3), "--nproc", 3, HANG=json.dumps(fault)
    )

    assert result.code == 1
    assert re.search(r"rank 1 called .* where ranks 0, 2 called .*\(second\)", result.output), result.output
    assert time.monotonic() - float((place.path / "at").read_text()) < 30


def test_fault_15_a_worker_that_gets_half_a_core_is_told_and_not_restarted(place):
    config = place.config(model__name="hanging:lenet5", train__steps=60, train__eval_every=1000, dist__stall_s=20)
    busy = {"rank": -1, "after": 0, "how": "works", "seconds": 0.15}
    process = place.start("train", config, "--nproc", 3, "--max-restarts", 2, HANG=json.dumps(busy))
    until = time.monotonic() + 60
    while not (place.path / "runs/run/metrics.jsonl").exists() or len(place.rows("run")) < 3:
        assert time.monotonic() < until
        time.sleep(0.05)
    slow = place.worker(1)

    with contextlib.suppress(ProcessLookupError):  # it has ended
        while process.poll() is None:
            os.kill(slow, signal.SIGSTOP)
            time.sleep(0.25)
            os.kill(slow, signal.SIGCONT)
            time.sleep(0.1)
    output, _ = process.communicate()

    assert process.returncode == 0, output
    assert "starting again" not in output and "hung" not in output
    assert re.search(r"straggler: rank 1 on \S+ computes for", output), output


def test_fault_40_a_port_in_use_is_told(place):
    with socket.create_server(("127.0.0.1", 0)) as taken:  # listens, but is no store
        environment = {
            **{"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"},
            **{"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(taken.getsockname()[1])},
        }
        result = place.run("train", place.config(), deadline=30, **environment)

    assert result.code == 1 and result.seconds < 60
    assert "lost contact with the other workers in rendezvous" in result.output
    assert re.search(r"EADDRINUSE|in use", result.output), result.output


@pytest.mark.skipif(not shutil.which("ss"), reason="there is no ss (iproute2)")
def test_fault_40_workers_of_one_machine_meet_where_no_stranger_gets_to(place):
    config = place.config(model__name="hanging:lenet5", train__steps=60)
    slow = {"rank": -1, "after": 0, "how": "works", "seconds": 0.1}
    process = place.start("train", config, "--nproc", 2, HANG=json.dumps(slow))
    until = time.monotonic() + 60
    while not (place.path / "runs/run/metrics.jsonl").exists():
        assert time.monotonic() < until
        time.sleep(0.05)

    listening = subprocess.run(["ss", "-Hltnp"], capture_output=True, text=True, check=True).stdout.splitlines()
    pids = {f"pid={pid}," for pid in place.processes()}
    own = [line.split()[3] for line in listening if any(pid in line for pid in pids)]
    process.terminate()
    process.communicate()

    assert all(address.startswith(("127.0.0.1:", "[::1]:")) for address in own), own  # gloo's, between the workers
