"""Learning rates are functions of the step and the epoch: torch's schedulers' values, or closed forms."""

import json

import pytest
import torch
from torch.optim import lr_scheduler

from distdl import registry
from distdl.config.schema import ScheduleConfig
from distdl.errors import UserError
from distdl.trainer import schedule

STEPS_PER_EPOCH = 5


def rates(name, total=50, warmup=0, peak=1.0, **args):
    lr = schedule.build(ScheduleConfig(name=name, warmup_steps=warmup, args=args), peak)
    return [lr(step, total, step / STEPS_PER_EPOCH) for step in range(total)]


def torchs(kind, total=50, first_rate=1.0, epochs=False, **args):
    """The rates of a scheduler of torch's, that counts steps, or epochs as a float."""
    optimiser = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=first_rate)
    scheduler = kind(optimiser, **args)
    found = []
    for step in range(total):
        found.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        scheduler.step(*[(step + 1) / STEPS_PER_EPOCH] * epochs)
    return found


def close(expected):
    return pytest.approx(expected, rel=1e-6, abs=1e-12)


# --- the schedules by name ---


def test_constant():
    assert rates("constant", total=3, peak=0.5) == [0.5, 0.5, 0.5]


def test_warm_up_rises_to_the_peak_at_its_last_step():
    assert rates("constant", warmup=4) == close(torchs(lr_scheduler.LinearLR, start_factor=1 / 4, total_iters=3))


def test_step_falls_every_so_many_epochs():
    assert rates("step", epochs=3, gamma=0.2) == close(torchs(lr_scheduler.StepLR, step_size=15, gamma=0.2))


def test_step_falls_on_time_where_the_period_is_no_binary_number():
    lr = schedule.build(ScheduleConfig(name="step", args={"epochs": 0.1}), peak=1.0)

    assert [lr(n, 10, n / 10) for n in range(10)] == close([0.1**n for n in range(10)])


def test_multistep_falls_at_the_given_epochs():
    found = rates("multistep", epochs=[2, 7.4], gamma=0.3)

    assert found == close(torchs(lr_scheduler.MultiStepLR, milestones=[10, 37], gamma=0.3))


def test_epochs_count_however_many_steps_they_take():
    lr = schedule.build(ScheduleConfig(name="multistep", args={"epochs": [1, 2]}), peak=1.0)
    epochs_of_growing_batches = [0, 0.5, 0.9, 1.3, 2.1]

    assert [lr(step, 5, epoch) for step, epoch in enumerate(epochs_of_growing_batches)] == close([1, 1, 1, 0.1, 0.01])


def test_cosine():
    found = rates("cosine", peak=2.0, final=0.1)

    assert found == close(torchs(lr_scheduler.CosineAnnealingLR, first_rate=2.0, T_max=50, eta_min=0.2))


def test_linear():
    expected = torchs(lr_scheduler.LinearLR, start_factor=1.0, end_factor=0.1, total_iters=50)

    assert rates("linear", final=0.1) == close(expected)


@pytest.mark.parametrize("power", [1.0, 2.0, 0.9])
def test_polynomial(power):
    found = rates("polynomial", power=power)

    assert found == close(torchs(lr_scheduler.PolynomialLR, total_iters=50, power=power))
    assert rates("polynomial", power=power, final=0.2) == close([0.2 + 0.8 * factor for factor in found])


@pytest.mark.parametrize("name", ["cosine", "linear", "polynomial"])
def test_what_spans_the_run_begins_at_the_end_of_the_warm_up_and_ends_at_final(name):
    lr = schedule.build(ScheduleConfig(name=name, warmup_steps=2, args={"final": 0.1}), peak=2.0)

    without_warm_up = rates(name, total=48, peak=2.0, final=0.1)

    assert [lr(step, 50, 0.0) for step in range(2, 50)] == close(without_warm_up)
    assert [lr(step, 50, 0.0) for step in (0, 1, 50, 60)] == close([1.0, 2.0, 0.2, 0.2])


@pytest.mark.parametrize("args", [{}, {"pct_start": 0.5, "div_factor": 10, "final_div_factor": 100}])
@pytest.mark.parametrize("anneal", ["cos", "linear"])
def test_one_cycle(args, anneal):
    given = {"max_lr": 0.4, "total_steps": 50, "anneal_strategy": anneal, "cycle_momentum": False}

    assert rates("one_cycle", peak=0.4, anneal=anneal, **args) == close(
        torchs(lr_scheduler.OneCycleLR, **given, **args)
    )


@pytest.mark.parametrize(("first", "mult"), [(2, 1), (1, 2)])
def test_cosine_restarts(first, mult):
    args = {"T_0": first, "T_mult": mult, "eta_min": 0.05}

    expected = torchs(lr_scheduler.CosineAnnealingWarmRestarts, epochs=True, **args)

    assert rates("cosine_restarts", first=first, mult=mult, final=0.05) == close(expected)


def test_cosine_restarts_in_parts_of_an_epoch():
    lr = schedule.build(ScheduleConfig(name="cosine_restarts", args={"first": 0.5, "mult": 1.5}), peak=1.0)

    begins_and_middles = [lr(0, 1, epoch) for epoch in (0, 0.25, 0.5, 0.875, 1.25, 1.8125)]

    assert begins_and_middles == close([1, 0.5, 1, 0.5, 1, 0.5])


# --- plateau ---


def follow(values, lower_is_better=("loss",), **args):
    """The factor of the rate after each evaluation."""
    config = ScheduleConfig(name="plateau", args=args)
    state, found = None, []
    for value in values:
        metrics = {args.get("metric", "loss"): value, "other": 0.0}
        state = json.loads(json.dumps(schedule.observe(config, state, metrics, frozenset(lower_is_better))))
        found.append(state["factor"])
    return found


def torchs_plateau(values, **args):
    optimiser = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler = lr_scheduler.ReduceLROnPlateau(optimiser, eps=0.0, **args)
    found = []
    for value in values:
        scheduler.step(value)
        found.append(optimiser.param_groups[0]["lr"])
    return found


def up_and_down(seed, n=50):
    numbers = torch.Generator().manual_seed(seed)
    return (1 + torch.rand(n, generator=numbers) / (1 + torch.arange(n)).sqrt()).tolist()


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    "args",
    [
        {"patience": 2},
        {"patience": 0, "cooldown": 3, "factor": 0.5},
        {"patience": 3, "threshold": 0.1, "factor": 0.7, "cooldown": 1},
    ],
)
def test_plateau_falls_when_torchs_does(args, seed):
    losses = up_and_down(seed)
    accuracies = [1 / loss for loss in losses]

    falling = follow(losses, min_factor=0.01, **args)
    rising = follow(accuracies, metric="top1", min_factor=0.01, **args)

    assert falling == close(torchs_plateau(losses, min_lr=0.01, **args))
    assert rising == close(torchs_plateau(accuracies, mode="max", min_lr=0.01, **args))
    assert falling[-1] < 1 and rising[-1] < 1


def test_an_evaluation_that_is_not_finite_is_no_improvement():
    nan = float("nan")

    assert follow([nan, nan, 1.0, nan, 0.5, 1.0, 0.6], patience=1) == close([1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.01])


def test_the_factor_of_the_plateau_multiplies_the_rate():
    lr = schedule.build(ScheduleConfig(name="plateau", warmup_steps=2), peak=3.0)

    assert [lr(step, 10, 0.0, plateau_factor=0.1) for step in (0, 1, 5)] == close([0.15, 0.3, 0.3])


def test_the_metric_that_a_schedule_follows():
    assert schedule.plateau_metric(ScheduleConfig(name="plateau")) == "loss"
    assert schedule.plateau_metric(ScheduleConfig(name="plateau", args={"metric": "top1"})) == "top1"
    assert schedule.plateau_metric(ScheduleConfig(name="cosine")) is None


# --- the user's mistakes ---


def test_arguments_that_a_schedule_does_not_take_are_refused():
    with pytest.raises(UserError, match="takes no argument 'finl' - did you mean final"):
        rates("cosine", finl=0.1)
    with pytest.raises(UserError, match="needs the argument 'epochs'"):
        rates("step")


@pytest.mark.parametrize(
    ("name", "args", "problem"),
    [
        ("step", {"epochs": 0}, "epochs should be greater than 0 (got 0)"),
        ("step", {"epochs": 3, "gamma": -1}, "gamma should be greater than 0 (got -1)"),
        ("multistep", {"epochs": [3, 2]}, "epochs should rise (got [3, 2])"),
        ("multistep", {"epochs": []}, "epochs should have at least 1 item"),
        ("multistep", {"epochs": 30}, "epochs should be a valid list (got 30)"),
        ("cosine", {"final": 2}, "final should be less than or equal to 1 (got 2)"),
        ("linear", {"final": "low"}, "final should be a valid number"),
        ("polynomial", {"power": 0}, "power should be greater than 0"),
        ("one_cycle", {"pct_start": 1}, "pct_start should be less than 1"),
        ("one_cycle", {"anneal": "sine"}, "anneal should be 'cos' or 'linear'"),
        ("cosine_restarts", {"first": 1, "mult": 0.5}, "mult should be greater than or equal to 1"),
        ("plateau", {"factor": 1}, "factor should be less than 1"),
        ("plateau", {"patience": 1.5}, "patience should be a valid integer"),
    ],
)
def test_values_that_a_schedule_can_not_work_with_are_refused(name, args, problem):
    with pytest.raises(UserError) as caught:
        rates(name, **args)

    assert f"schedule '{name}': {problem}" in caught.value.what and caught.value.where == "schedule.args"


def test_a_list_for_step_is_answered_with_multistep():
    with pytest.raises(UserError, match="multistep"):
        rates("step", epochs=[30, 60])


def test_one_cycle_has_a_warm_up_of_its_own():
    with pytest.raises(UserError, match="one_cycle brings its own warm-up"):
        rates("one_cycle", warmup=5)


def test_a_schedule_of_ones_own():
    def saw(step, begin, end, epoch, teeth):
        return 1 - epoch * teeth % 1

    with registry.using({("schedule", "saw"): saw}):
        assert rates("saw", total=4, peak=2.0, teeth=2) == close([2.0, 1.2, 0.4, 1.6])
