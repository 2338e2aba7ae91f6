"""Signals that ask for a stop: flags to vote on, and what the votes come to."""

import os
import signal
import subprocess
import sys
import time

import pytest

from distdl.trainer.signals import StopRequests, agreed_stop


@pytest.fixture
def handlers():
    """Puts the handlers back that this process had."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
    before = [signal.getsignal(number) for number in numbers]
    yield
    for number, handler in zip(numbers, before):
        signal.signal(number, handler)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1"])
def test_a_stop_signal_asks_to_be_preempted(handlers, name):
    stops = StopRequests(["SIGTERM", "SIGUSR1"])
    assert stops.votes() == {"preempted": 0, "interrupted": 0}

    signal.raise_signal(getattr(signal, name))

    assert stops.votes() == {"preempted": 1, "interrupted": 0}


def test_ctrl_c_asks_for_an_interruption_and_says_so(handlers, capfd):
    stops = StopRequests(["SIGTERM"])

    signal.raise_signal(signal.SIGINT)

    assert stops.votes() == {"preempted": 0, "interrupted": 1}
    assert "press Ctrl-C again" in capfd.readouterr().err


def test_under_a_supervisor_which_speaks_to_the_user_a_worker_is_silent(handlers, capfd):
    StopRequests(["SIGTERM"], announce=False)

    signal.raise_signal(signal.SIGINT)

    assert capfd.readouterr().err == ""


def test_a_second_ctrl_c_ends_the_process_at_once():
    source = (
        "import os, signal; from distdl.trainer.signals import StopRequests\n"
        "StopRequests(['SIGTERM']); signal.raise_signal(signal.SIGINT); signal.raise_signal(signal.SIGINT)"
    )

    ended = subprocess.run([sys.executable, "-c", source], capture_output=True, env=dict(os.environ), timeout=60)

    assert ended.returncode == 130


def test_without_signals_no_handler_is_installed():
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)

    StopRequests()

    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


@pytest.mark.parametrize(
    "preempted, interrupted, stop",
    [(0, 0, None), (1, 0, "preempted"), (0, 2, "interrupted"), (3, 1, "interrupted")],
)
def test_one_worker_is_enough_and_ctrl_c_comes_first(preempted, interrupted, stop):
    assert agreed_stop({"preempted": preempted, "interrupted": interrupted, "bad": 5}) == stop


def test_a_launch_that_has_had_its_time_asks_for_a_stop_as_a_signal_would():
    stops = StopRequests(after_s=0.02)
    before = agreed_stop(stops.votes())
    time.sleep(0.03)

    assert (before, agreed_stop(stops.votes())) == (None, "preempted")
