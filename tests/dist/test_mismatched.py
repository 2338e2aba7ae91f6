"""Workers that don't call the same collectives, or don't come at all, are told so: never a wrong sum, never a hang."""

import os
import signal
import threading
import time

import pytest
import spawn
from spawn import CaseFailed, Workers

pytestmark = pytest.mark.timeout(60)
TIMEOUT_S = 3.0
NEVER_S = 50.0


@pytest.fixture
def timeout_s():
    return TIMEOUT_S


@pytest.fixture
def three(timeout_s):
    with Workers(3, timeout_s=timeout_s) as workers:
        workers.run("sum_of_ranks")
        yield workers


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ("shape", ["rank 0 all_reduce of [4] torch.float32", "rank 1 all_reduce of [5] torch.float32"]),
        ("dtype", ["rank 0 all_reduce of [4] torch.float32", "rank 1 all_reduce of [4] torch.float64"]),
        ("order", ["rank 0 all_reduce of [4] torch.float32", "rank 1 broadcast of [4] torch.float32"]),
        ("skipped", ["rank 0 all_reduce of [4] torch.float32", "rank 1 broadcast of [4] torch.float32"]),
    ],
)
def test_calls_outside_of_a_step_that_differ_are_named_on_all_workers(workers, how, told):
    errors = workers(3).run("unlike_calls", how=how)

    for error in errors:
        assert all(each in error for each in told), error


def test_a_call_that_some_workers_never_make_ends_with_the_timeout(three):
    began = time.monotonic()

    errors = three.run("call_on_some", ranks=[0, 1])

    assert TIMEOUT_S <= time.monotonic() - began < 30
    assert errors[2] is None
    for error in errors[:2]:
        assert "not all workers came to this all_reduce of [4] torch.float32 in time" in error


@pytest.mark.parametrize("form", ["fast", "tree", "hierarchical"])
def test_buckets_in_another_order_are_noticed_in_the_same_step(form):
    with Workers(4, timeout_s=TIMEOUT_S) as four:
        errors = four.run("buckets_in_another_order", form=form)

    assert any("the workers have called unlike collectives" in (error or "") for error in errors), errors


def test_unlike_networks_are_noticed_before_anything_is_sent(workers):
    errors = workers(3).run("unlike_networks")

    assert "parameter 1 is [4] torch.float32 here, [5] torch.float32 on rank 1" in errors[0]
    assert "parameter 1 is [5] torch.float32 here, [4] torch.float32 on rank 0" in errors[1]


@pytest.mark.parametrize("timeout_s", [NEVER_S])
@pytest.mark.parametrize("form", ["fast", "tree"])
@pytest.mark.parametrize("when", ["before it sends", "in the middle of a bucket"])
def test_a_worker_that_dies_in_a_step_is_an_error_on_the_others_at_once(three, form, when, timeout_s):
    began = time.monotonic()

    with pytest.raises(CaseFailed) as failed:
        three.run("die_in_a_step", form=form, when=when)

    assert time.monotonic() - began < timeout_s / 2
    results = failed.value.results
    assert set(results) == {0, 1} and all("PeerLost" in each for each in results.values()), results
    assert not any("not all workers came" in each for each in results.values())


@pytest.mark.parametrize("form", ["fast", "tree"])
def test_a_worker_that_is_stopped_in_a_step_is_an_error_on_the_others_after_the_timeout(three, form, monkeypatch):
    monkeypatch.setattr(spawn, "GRACE_S", 0.5)  # the stopped one says nothing
    pid = three.pids[2]
    threading.Timer(0.7, os.kill, [pid, signal.SIGSTOP]).start()

    with pytest.raises(CaseFailed) as failed:
        three.run("steps_without_end", form=form, deadline_s=TIMEOUT_S + 2)

    results = failed.value.results
    assert set(results) == {0, 1} and all("PeerLost" in each for each in results.values()), results
    assert any("not all workers came" in each for each in results.values())
