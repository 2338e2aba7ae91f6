"""Asked to stop, a run saves at one step and says how it went; it goes on with the same bits."""

import contextlib
import json
import os
import signal
import time

import pytest

pytestmark = pytest.mark.timeout(180)


def start_and_wait_for_step(place, step, *arguments, options=None, **config):
    process = place.start("train", place.config(**config), *arguments, **(options or {}))
    metrics = place.path / "runs/run/metrics.jsonl"
    deadline = time.monotonic() + 60
    while not (metrics.exists() and metrics.read_bytes().count(b"\n") >= step):
        assert time.monotonic() < deadline and process.poll() is None, process.stdout.read()
        time.sleep(0.01)
    return process


def finish(process, deadline=30):
    output, _ = process.communicate(timeout=deadline)
    return process.returncode, output


def final(place):
    return json.loads((place.path / "runs/run/final.json").read_text())


LONG = {"train__steps": 4000}


@pytest.mark.parametrize(("name", "rank"), [("SIGTERM", 1), ("SIGUSR1", 0)])
def test_fault_35_a_stop_signal_to_any_worker_stops_all_at_one_step_and_saves(place, name, rank):
    process = start_and_wait_for_step(place, 5, "--nproc", 2, **LONG)

    os.kill(place.worker(rank), getattr(signal, name))
    code, output = finish(process)

    assert code == 75, output
    assert place.gone_within(2)
    stopped = final(place)
    assert stopped["outcome"] == "preempted"
    saved = sorted((place.path / "runs/run/checkpoints").glob("step-*"))[-1]
    assert saved.name == f"step-{stopped['steps']:08}"
    assert "--resume goes on" in output


@pytest.mark.parametrize("second", ["SIGTERM", "SIGKILL"])
def test_fault_36_a_second_signal_while_the_first_ones_save_is_under_way(place, unkilled, second):
    """SIGKILL comes when the save begins to write: the checkpoint before it stands."""
    process = start_and_wait_for_step(place, 13, "--nproc", 2, model__name="faulty:lenet5")

    process.send_signal(signal.SIGTERM)
    checkpoints = place.path / "runs/run/checkpoints"
    before = set(checkpoints.iterdir())
    until = time.monotonic() + 20
    while not set(checkpoints.iterdir()) - before and process.poll() is None and time.monotonic() < until:
        time.sleep(0.0005)
    for pid in place.processes() if second == "SIGKILL" else [process.pid]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, getattr(signal, second))
    code, output = finish(process)

    assert code in ((75,) if second == "SIGTERM" else (-signal.SIGKILL, 75)), output
    assert place.gone_within(2)
    resumed = place.run("train", place.config(model__name="faulty:lenet5"), "--nproc", 2, "--resume")
    assert resumed.code == 0, resumed.output
    assert place.hash("run") == unkilled(2)
    assert [row["step"] for row in place.rows("run")] == list(range(1, 41))


def test_a_stop_signal_to_the_supervisor_reaches_the_workers(place):
    process = start_and_wait_for_step(place, 5, "--nproc", 2, **LONG)

    process.send_signal(signal.SIGTERM)

    assert finish(process)[0] == 75


def test_the_stop_signals_can_be_chosen(place):
    process = start_and_wait_for_step(place, 5, "--nproc", 2, train__stop_signals=["USR2"], **LONG)

    os.kill(place.worker(1), signal.SIGUSR2)

    assert finish(process)[0] == 75


def test_a_stopped_run_goes_on_with_the_same_bits(place, unkilled):
    process = start_and_wait_for_step(place, 3, "--nproc", 2, model__name="faulty:lenet5")
    process.send_signal(signal.SIGTERM)
    code, output = finish(process)
    assert code == 75, output  # if it was done before the signal came, the steps above are too few

    resumed = place.run("train", place.config(model__name="faulty:lenet5"), "--nproc", 2, "--resume")

    assert resumed.code == 0, resumed.output
    assert place.hash("run") == unkilled(2)
    assert [row["step"] for row in place.rows("run")] == list(range(1, 41))


@pytest.mark.parametrize("nproc", [None, 2])
def test_ctrl_c_saves_and_says_so(place, nproc):
    process = start_and_wait_for_step(place, 5, *(["--nproc", nproc] if nproc else []), **LONG)

    process.send_signal(signal.SIGINT)
    code, output = finish(process)

    assert code == 130, output
    assert "stopping after this step and saving; press Ctrl-C again to stop at once" in output
    assert final(place)["outcome"] == "interrupted"
    assert "Traceback" not in output


def test_a_second_ctrl_c_ends_it_at_once(place):
    process = start_and_wait_for_step(place, 5, "--nproc", 2, **LONG)
    os.kill(place.worker(1), signal.SIGSTOP)  # so that nobody can finish the step

    process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    code, _ = finish(process, deadline=10)

    assert code == 130
    assert place.gone_within(2)


def test_a_stop_inside_an_evaluation_leaves_it_pending_and_it_is_made_up_for(place):
    # One sample a batch: an evaluation of 355 turns, long enough to be hit.
    slow = {"model__name": "paced:lenet5", "model__args": {"classes": 10, "eval_s": 0.02}}
    changes = {**slow, "train__eval_batch": 1, "train__eval_every": 4, "train__steps": 8, "checkpoint__every": 100}
    process = start_and_wait_for_step(place, 4, "--nproc", 2, **changes)
    process.send_signal(signal.SIGTERM)
    code, output = finish(process)
    assert code == 75, output
    assert not place.rows("run", "eval"), "the evaluation was over before the signal came"

    resumed = place.run("train", place.config(**changes), "--nproc", 2, "--resume")

    assert resumed.code == 0, resumed.output
    assert [row["step"] for row in place.rows("run", "eval")] == [4, 8]
