"""When something is due, for each way to write a period."""

import pytest

from distdl.trainer import due
from distdl.trainer.due import Due, Schedule


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still until it is moved: clock.now += 10."""

    class Clock:
        now = 1000.0

    monkeypatch.setattr(due.time, "monotonic", lambda: Clock.now)
    return Clock


def steps_due(event, n_steps, batch, votes=0):
    return [s for s in range(1, n_steps + 1) if event.now(s, s * batch, batch, votes)]


def test_steps_are_counted_from_the_start_of_the_run():
    assert steps_due(Due(3, epoch_length=100), 10, batch=8) == [3, 6, 9]


def test_an_epoch_is_due_at_the_step_that_reaches_its_end():
    assert steps_due(Due("1 epoch", epoch_length=20), 8, batch=8) == [3, 5, 8]  # 20, 40 and 60 are in 24, 40, 64


def test_several_epochs_and_parts_of_one():
    assert steps_due(Due("2 epochs", epoch_length=16), 8, batch=8) == [4, 8]
    assert steps_due(Due("0.5 epochs", epoch_length=32), 8, batch=8) == [2, 4, 6, 8]


def test_a_part_of_an_epoch_is_due_on_time_although_its_length_is_rounded():
    assert 0.07 * 100 > 7
    assert steps_due(Due("0.07 epochs", epoch_length=100), 21, batch=1) == [7, 14, 21]


def test_a_batch_that_crosses_two_borders_is_due_once():
    assert steps_due(Due("1 epoch", epoch_length=3), 3, batch=8) == [1, 2, 3]


def test_never_is_never():
    assert steps_due(Due(None, epoch_length=8), 10, batch=8, votes=1) == []


def test_seconds_are_due_when_rank_0_says_so_whatever_the_own_clock_says(clock):
    slow = Due("30 s", epoch_length=100)

    clock.now += 10
    assert not slow.clock_says_so()
    assert slow.now(5, 40, 8, votes=1)
    clock.now += 25  # since it was due: not yet half a minute
    assert not slow.clock_says_so()
    clock.now += 5
    assert slow.clock_says_so()
    assert not slow.now(9, 72, 8, votes=0)


def test_votes_do_not_touch_what_is_counted_in_steps_or_epochs():
    assert not Due(3, epoch_length=100).now(1, 8, 8, votes=1)
    assert not Due("1 epoch", epoch_length=100).now(1, 8, 8, votes=1)
    assert not Due(3, epoch_length=100).clock_says_so()


def test_an_event_that_is_due_by_the_clock_happens_once_although_votes_are_read_a_step_late(clock):
    schedule = Schedule({"log": "30 s"}, epoch_length=1000, end=10_000)
    votes_before, happened = {"log": 0}, []
    for step in range(1, 13):
        clock.now += 10
        votes = schedule.votes(is_rank0=True)
        if schedule.now(step, step * 8, 8, votes_before):
            happened.append(step)
        votes_before = votes

    assert happened == [4, 8, 12]  # said in step 3, read in step 4; three steps of 10 s later said again


def test_only_rank_0_votes_and_only_on_what_goes_by_the_clock(clock):
    schedule = Schedule({"log": "1 s", "eval": 5}, epoch_length=100, end=800)
    clock.now += 2

    assert schedule.votes(is_rank0=True) == {"log": 1}
    assert schedule.votes(is_rank0=False) == {"log": 0}


def test_a_schedule_names_what_is_due_and_at_the_end_of_the_run_everything():
    schedule = Schedule({"log": 2, "eval": "1 epoch", "save": None}, epoch_length=24, end=80)
    no_votes = {"log": 0, "eval": 0, "save": 0}

    found = {step: schedule.now(step, step * 8, 8, no_votes) for step in range(1, 11)}

    assert found[1] == set()
    assert found[2] == {"log"}
    assert found[3] == {"eval"}
    assert found[6] == {"log", "eval"}
    assert found[10] == {"log", "eval", "save"}
