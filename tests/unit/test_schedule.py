"""Learning rates are functions of the step."""

import pytest

from distdl.config.schema import ScheduleConfig
from distdl.errors import UserError
from distdl.trainer import schedule


def rates(name, total=10, warmup=0, **args):
    config = ScheduleConfig(name=name, warmup_steps=warmup, args=args)
    lr = schedule.build(config, peak=1.0, steps_per_epoch=2.0)
    return [round(lr(step, total), 4) for step in range(total)]


def test_constant():
    assert rates("constant", total=3) == [1, 1, 1]


def test_warm_up_rises_to_the_peak_at_its_last_step():
    assert rates("constant", total=6, warmup=4) == [0.25, 0.5, 0.75, 1, 1, 1]


def test_cosine_spans_the_steps_after_the_warm_up():
    assert rates("cosine", total=6, warmup=2) == [0.5, 1.0, 1.0, 0.8536, 0.5, 0.1464]


def test_cosine_and_linear_end_at_final():
    lr = schedule.build(ScheduleConfig(name="cosine", args={"final": 0.1}), peak=2.0, steps_per_epoch=1)
    assert lr(100, 100) == pytest.approx(0.2)
    assert rates("linear", total=4, final=0.5) == [1, 0.875, 0.75, 0.625]


def test_step_falls_at_the_given_epochs():
    assert rates("step", total=8, epochs=[1, 3], gamma=0.1) == [1, 1, 0.1, 0.1, 0.1, 0.1, 0.01, 0.01]


def test_arguments_that_a_schedule_does_not_take_are_refused():
    with pytest.raises(UserError, match="takes no argument 'finl' - did you mean final"):
        rates("cosine", finl=0.1)
    with pytest.raises(UserError, match="needs the argument 'epochs'"):
        rates("step")
