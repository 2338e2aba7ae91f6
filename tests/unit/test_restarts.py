"""When workers are started again, and how many of them."""

import pytest

from distdl.launch import restarts
from distdl.launch.restarts import Places, Restarts, lost_ranks
from distdl.run import failures


def failure(message="boom", kind="bug", rank=0, step=7):
    return failures.from_outside(rank=rank, kind=kind, message=message, stacks="", step=step, attempt=0, host="node-a")


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(restarts.time, "monotonic", lambda: now[0])
    return now


def test_only_restarts_without_progress_count():
    counted = Restarts(2)

    counted.note(failure(), is_restart=False, made_progress=False)  # the first attempt is none
    assert counted.why_not(None) is None
    counted.note(failure(), is_restart=True, made_progress=False)
    counted.note(failure(), is_restart=True, made_progress=True)
    assert counted.without_progress == 0
    counted.note(failure(), is_restart=True, made_progress=False)
    assert counted.why_not(20) is None
    counted.note(failure(), is_restart=True, made_progress=False)
    assert counted.why_not(20) == "2 restarts in a row made no checkpoint newer than step 20"
    assert counted.why_not(None) == "2 restarts in a row made no checkpoint"


def test_nobody_expects_a_restart_that_was_not_asked_for():
    assert Restarts(0).why_not(20) == ""


def test_the_first_of_failures_in_a_row_is_told_where_the_last_is_another():
    counted = Restarts(3)
    for message in ("the first cause\nand more", "another one", "a third"):
        counted.note(failure(message), is_restart=True, made_progress=False)

    assert counted.first_words(failure("a third")).endswith("failed after step 7: the first cause")
    assert counted.first_words(failure("the first cause\nand more")) == ""


def test_the_line_of_a_restart_tells_of_fewer_workers_and_of_a_hang_whole():
    counted = Restarts(3)
    hang = failure("rank 1 stands at x.py:3\nrank 1 got no further", kind="hang", rank=1)

    line = counted.line(hang, 20, n_workers=2, before=3)

    assert line.endswith("rank 1 got no further\nstarting again from the checkpoint of step 20 with 2 workers")
    counted.note(hang, is_restart=True, made_progress=False)
    assert counted.line(hang, None, 3, 3).endswith("from the beginning (restart 2 of 3 without progress)")


def test_a_lost_place_rests_longer_each_time(clock):
    places = Places(3, least=1, rest_s=60)
    assert places.now() == [0, 1, 2] and places.grows_at([0, 1, 2]) is None

    places.lose([1])
    assert places.now() == [0, 2] and places.grows_at([0, 2]) == 160

    clock[0] = 161
    assert places.now() == [0, 1, 2]
    places.lose([1])
    assert places.grows_at([0, 2]) == 161 + 120


def test_so_many_as_are_needed_are_taken_from_those_that_rest(clock):
    places = Places(3, least=2, rest_s=60)
    places.lose([0])
    clock[0] += 1
    places.lose([1])

    assert places.now() == [0, 2], "the one that has rested longest"


def test_without_a_least_number_all_are_used(clock):
    places = Places(2, least=None, rest_s=60)
    places.lose([1])

    assert places.now() == [0, 1]


def test_what_is_lost_and_what_only_failed():
    kinds = ("signal", "hang", "bug", "peer_lost", "mismatched")

    assert lost_ranks([failure(kind=kind, rank=rank) for rank, kind in enumerate(kinds)]) == [0, 1]
