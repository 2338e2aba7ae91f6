"""A run that stops by itself in time before its job is ended: when that is, and how long a stop takes."""

import time

import pytest

from distdl.launch.slurm.limit import job_ends_in_s, time_left_s
from distdl.trainer import signals
from distdl.trainer.signals import StopRequests


@pytest.mark.parametrize(
    "text, seconds",
    [
        ("0:42", 42),
        ("59:00", 3540),
        ("8:00:01", 28801),
        ("2-12:00:00", 216000),
        ("UNLIMITED", None),
        ("NOT_SET", None),
        ("", None),
    ],
)
def test_what_squeue_says_is_left(text, seconds):
    assert time_left_s(text) == seconds


def test_a_process_outside_of_jobs_has_no_end():
    assert job_ends_in_s({}) is None


def test_slurm_tells_it_where_it_is_new_enough():
    found = job_ends_in_s({"SLURM_JOB_ID": "7", "SLURM_JOB_END_TIME": str(int(time.time()) + 100)})

    assert found == pytest.approx(100, abs=3)


def test_slurm_is_asked_where_it_has_not_told(tmp_path, monkeypatch):
    squeue = tmp_path / "squeue"
    squeue.write_text('#!/bin/sh\n[ "$2" = --jobs=7 ] && echo 1:30\n')
    squeue.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")

    assert job_ends_in_s({"SLURM_JOB_ID": "7"}) == 90


def test_where_slurm_cant_be_asked_nothing_is_known(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")

    assert job_ends_in_s({"SLURM_JOB_ID": "7"}) is None


@pytest.fixture
def clock(monkeypatch):
    class Clock:
        now = 1000.0

        def monotonic(self):
            return self.now

    made = Clock()
    monkeypatch.setattr(signals, "time", made)
    return made


def stopped_at(stops, clock):
    """Seconds after the start."""
    while not stops.votes()["preempted"]:
        clock.now += 1
    return clock.now - 1000


@pytest.mark.parametrize(
    "end_s, save_s, stops_s",
    [
        (3600, None, 3540),  # nothing is known of saves yet: a minute
        (50, None, 40),  # of a short job a fifth
        (3600, 0.1, 3580),
        (3600, 100, 3300),  # one that is under way, the last one, and as much again
        (50, 0.1, 40),
    ],
)
def test_a_run_stops_in_time_for_its_last_save(clock, end_s, save_s, stops_s):
    stops = StopRequests(end_s=end_s)
    if save_s is not None:
        stops.saved_in(save_s)
        stops.saved_in(save_s / 2)

    assert stopped_at(stops, clock) == pytest.approx(stops_s, abs=1.01)


def test_without_an_end_it_does_not_stop(clock):
    stops = StopRequests()
    stops.saved_in(100)
    clock.now += 1e9

    assert not stops.votes()["preempted"]
