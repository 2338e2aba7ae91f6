"""Sums and clocks between two log lines."""

import math

import pytest
import torch

from distdl.trainer import meter as meters
from distdl.trainer.meter import Meter
from distdl.trainer.phases import HostPhases


@pytest.fixture
def clock(monkeypatch):
    class Clock:
        now = 50.0

    monkeypatch.setattr(meters.time, "perf_counter", lambda: Clock.now)
    return Clock


@pytest.fixture
def phases(clock):
    return HostPhases()


@pytest.fixture
def meter(phases):
    return Meter(phases)


def add(meter, loss_sum, count, samples=8, wait_s=0.0):
    meter.add([(torch.tensor(loss_sum), torch.tensor(float(count)))], samples=samples, wait_s=wait_s)


def test_the_loss_is_a_mean_over_rows_and_not_over_steps(meter):
    add(meter, loss_sum=8.0, count=8)
    add(meter, loss_sum=7.0, count=2)

    assert meter.reduce()["loss"] == 1.5


def test_rates_are_over_the_time_since_the_last_row(meter, clock):
    for _ in range(4):
        clock.now += 0.5
        add(meter, 1.0, 8, samples=32, wait_s=0.1)

    row = meter.reduce()

    assert row == pytest.approx({"loss": 4 / 32, "samples_per_s": 64, "data_wait_s": 0.1, "step_s": 0.5})


def test_a_row_begins_at_nothing(meter, clock):
    add(meter, 100.0, 8)
    clock.now += 10
    meter.reduce()

    clock.now += 1
    add(meter, 8.0, 8)

    assert meter.reduce() == pytest.approx({"loss": 1, "samples_per_s": 8, "data_wait_s": 0, "step_s": 1})


def test_time_for_an_evaluation_or_a_save_is_left_out(meter, clock):
    clock.now += 1
    add(meter, 8.0, 8)
    with meter.paused():
        clock.now += 100

    assert meter.reduce()["step_s"] == pytest.approx(1)


def test_rows_that_all_did_not_count_have_no_loss(meter):
    add(meter, 0.0, 0)

    assert math.isnan(meter.reduce()["loss"])


def test_a_micro_batch_whose_loss_is_not_finite_is_left_out_of_the_mean(meter):
    add(meter, 6.0, 2)
    add(meter, math.nan, 5)
    add(meter, math.inf, 5)

    assert meter.reduce()["loss"] == 3


def test_the_phases_of_the_steps_are_in_the_row(meter, phases, clock):
    phases.enter("forward")
    clock.now += 0.25
    phases.leave()
    add(meter, 1.0, 1)

    row = meter.reduce()

    assert (row["forward_s"], row["exchange_s"]) == (0.25, 0)


def test_a_row_after_a_checkpoint_is_the_same_whether_the_run_was_stopped_there_or_not(meter, phases):
    add(meter, loss_sum=8.0, count=8)
    unlogged = meter.settle()
    resumed = Meter(phases, unlogged)
    for each in (meter, resumed):
        add(each, loss_sum=7.0, count=2)

    assert unlogged == (8.0, 8.0)
    assert meter.reduce()["loss"] == resumed.reduce()["loss"] == 1.5
