"""`distdl bench comm` on workers that it starts itself, and as a worker under torchrun."""

import json
import os
import signal
import sys

import pytest

pytestmark = pytest.mark.timeout(120)
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "distdl")
QUICK = ("--sizes", "4K,64K", "--iterations", 3)


def test_workers_are_started_and_every_operation_is_measured(place):
    result = place.run("bench", "comm", "--nproc", 2, *QUICK, "--json")

    assert result.code == 0, result.output
    measured = json.loads(result.output[result.output.index("{") :])
    assert (measured["workers"], measured["nodes"], measured["backend"]) == (2, 1, "gloo")
    sizes = {}
    for row in measured["rows"]:
        sizes.setdefault(row["operation"], []).append(row["size_bytes"])
        assert 0 < row["latency_s"] <= row["latency_95_s"]
        if row["size_bytes"]:
            assert row["share_of_copy"] == pytest.approx(row["bus_gb_per_s"] / row["copy_gb_per_s"])
    assert sizes.pop("barrier") == [0]
    assert set(sizes) == {
        *("all_reduce", "tree", "reduce", "broadcast"),
        *("all_gather", "reduce_scatter", "all_to_all", "gather", "scatter"),
    }
    assert all(each == [4096, 65536] for each in sizes.values())
    assert measured["stored"] is None


def test_under_torchrun_it_is_a_worker_and_rank_0_alone_draws_and_tells(place):
    pytest.importorskip("matplotlib")

    result = place.run(
        "bench", "comm", *QUICK, "--ops", "all_reduce,tree", "--dtype", "bf16", "--plot", "x.png", launcher=TORCHRUN
    )

    assert result.code == 0, result.output
    assert result.output.count("2 workers on 1 node, gloo, cpu") == 1
    assert result.output.count("plotted in x.png") == 1
    assert (place.path / "x.png").read_bytes().startswith(b"\x89PNG")


def test_an_unknown_operation_is_told_before_workers_are_started(place):
    result = place.run("bench", "comm", "--nproc", 2, "--ops", "all_redcue")

    assert result.code == 2
    assert "unknown operation 'all_redcue' - did you mean all_reduce?" in result.output


def test_what_only_the_workers_can_tell_ends_without_a_traceback(place):
    result = place.run("bench", "comm", "--nproc", 2, "--ops", "hierarchical", *QUICK)

    assert result.code == 2
    assert result.output.count("it needs several nodes") == 1
    assert "Traceback" not in result.output


def measuring(place):
    """Two workers that go on for minutes."""
    process = place.start(
        "bench", "comm", "--nproc", 2, "--ops", "all_reduce,barrier", "--sizes", "64K", "--seconds-each", 100
    )
    for line in process.stdout:
        if "2 workers on 1 node" in line:
            return process
    raise AssertionError("it ended before it began")


def test_the_last_word_is_on_the_worker_that_was_killed(place):
    process = measuring(place)

    os.kill(place.worker(1), signal.SIGKILL)
    output, _ = process.communicate(timeout=30)

    assert process.returncode == 1
    assert "rank 1" in output and "killed by SIGKILL" in output
    assert "Traceback" not in output


def test_ctrl_c_ends_it_at_once(place):
    process = measuring(place)

    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=10)

    assert process.returncode == 130
    assert output.splitlines()[-1] == "stopped"
    assert "saving" not in output
    assert place.gone_within(5)
