"""Averages of the weights: how each kind moves, and how it takes the weights' place."""

import numpy as np
import pytest
import tiny
import torch
from torch import nn

from distdl.checkpoint.load import Checkpoint
from distdl.config.schema import GrowthConfig, TrainConfig
from distdl.data.order import Plan
from distdl.trainer import ema
from distdl.trainer.ema import AveragedWeights, equal, exponential
from distdl.trainer.state import capture, restore
from distdl.trainer.step import train_step


@pytest.fixture
def model():
    linear = nn.Linear(2, 1)
    nn.init.ones_(linear.weight)
    nn.init.zeros_(linear.bias)
    return linear


def test_it_begins_at_the_weights(model):
    averaged = AveragedWeights(model, exponential(0.9))

    assert averaged.averages["weight"].tolist() == [[1, 1]]
    assert averaged.averages["weight"].data_ptr() != model.weight.data_ptr()


@pytest.mark.parametrize("step, decay", [(0, 1 / 10), (9, 10 / 19), (80, 81 / 90), (10_000, 0.9)])
def test_the_decay_warms_up_to_its_value(model, step, decay):
    averaged = AveragedWeights(model, exponential(0.9))
    nn.init.constant_(model.weight, 3.0)

    averaged.update(step)

    assert averaged.averages["weight"].tolist() == [pytest.approx([decay * 1 + (1 - decay) * 3] * 2)]


def test_within_the_block_the_model_computes_with_the_averages_and_after_it_with_its_weights(model):
    averaged = AveragedWeights(model, exponential(0.9))
    nn.init.constant_(model.weight, 3.0)
    weight, address, image = model.weight, model.weight.data_ptr(), torch.ones(1, 2)

    with averaged.in_place_of_weights():
        inside = model(image).item()

    assert (inside, model(image).item()) == (2, 6)
    assert model.weight is weight and weight.data_ptr() == address
    assert averaged.averages["weight"].tolist() == [[1, 1]]


def test_the_weights_come_back_after_an_error(model):
    averaged = AveragedWeights(model, exponential(0.9))
    nn.init.constant_(model.weight, 3.0)

    with pytest.raises(ZeroDivisionError), averaged.in_place_of_weights():
        raise ZeroDivisionError

    assert model.weight.tolist() == [[3, 3]]


def test_an_optimiser_goes_on_with_the_same_tensors_afterwards(model):
    averaged = AveragedWeights(model, exponential(0.9))
    optimiser = torch.optim.SGD(model.parameters(), lr=1.0)
    with averaged.in_place_of_weights():
        pass

    model(torch.ones(1, 2)).sum().backward()
    optimiser.step()

    assert model.weight.tolist() == [[0, 0]]
    assert averaged.averages["weight"].tolist() == [[1, 1]]


# --- the equal average ---


def follow(averaged, parameter, values, begin=0):
    """What the average is after each step that sets the weights to the next of `values`."""
    averages = []
    for step, value in enumerate(values, start=begin):
        nn.init.constant_(parameter, value)
        averaged.update(step)
        averages.append(averaged.averages["weight"][0, 0].item())
    return averages


def test_before_its_beginning_it_is_the_weights_and_then_their_mean(model):
    averaged = AveragedWeights(model, equal(3))

    averages = follow(averaged, model.weight, [5.0, 1.0, 7.0, 4.0, 6.0, 11.0])

    assert averages == pytest.approx([5.0, 1.0, 7.0, 4.0, 5.0, 7.0])


def test_the_mean_of_many_steps_is_that_of_numpy(model):
    values = np.random.default_rng(0).normal(3, 1, 2000)

    last = follow(AveragedWeights(model, equal(0)), model.weight, values)[-1]

    assert last == pytest.approx(values.mean(), rel=1e-6)


@pytest.mark.parametrize("share", [exponential(0.9), equal(2)])
def test_it_goes_on_from_saved_averages_with_the_same_bits(model, share):
    values = torch.rand(10, generator=torch.Generator().manual_seed(0)).tolist()
    expected = follow(AveragedWeights(model, share), model.weight, values)
    nn.init.ones_(model.weight)
    first = AveragedWeights(model, share)
    follow(first, model.weight, values[:6])

    second = AveragedWeights(model, share)
    for name, average in first.averages.items():
        second.averages[name].copy_(average)

    assert follow(second, model.weight, values[6:], begin=6) == expected[6:]


def plan(**options):
    return Plan(np.array([100]), seed=0, global_batch=8, **options)


@pytest.mark.parametrize(
    "average_from, options, begin",
    [
        (20, {}, 20),
        ("20 steps", {}, 20),
        ("1 epoch", {}, 13),  # the first step at or after position 100 starts at 104
        ("0.08 epochs", {}, 1),
        ("0.09 epochs", {}, 2),
        ("2 epochs", {"tail": "drop"}, 24),
        ("2 epochs", {"growth": GrowthConfig(epochs=[1], factor=2)}, 19),  # 13 steps to 104, 6 of 16 to 200
    ],
)
def test_it_begins_with_the_first_step_at_or_after_that_place(model, average_from, options, begin):
    config = TrainConfig(global_batch=8, steps=100, average_from=average_from)

    averaged = ema.build(config, model, plan(**options))

    assert averaged is not None
    values = [10.0] * begin + [2.0, 4.0]  # the first that counts is 2
    assert follow(averaged, model.weight, values)[-2:] == pytest.approx([2.0, 3.0])


def test_no_averages_unless_asked_for(model):
    assert ema.build(TrainConfig(global_batch=8, steps=1), model, plan()) is None


# --- what is averaged ---


def test_running_statistics_are_averaged_and_swapped_with_the_weights():
    model = tiny.with_batch_norm()
    norm = model[1]
    averaged = AveragedWeights(model, exponential(0.9))
    norm.running_mean.fill_(1.0)
    norm.num_batches_tracked.fill_(5)

    averaged.update(0)

    assert averaged.averages["1.running_mean"].tolist() == pytest.approx([0.9] * 3)
    assert "1.num_batches_tracked" not in averaged.averages
    with averaged.in_place_of_weights():
        assert norm.running_mean.tolist() == pytest.approx([0.9] * 3)
    assert norm.running_mean.tolist() == [1.0] * 3


def test_constants_keep_their_bits_and_infinite_ones_are_let_alone():
    model = tiny.WithConstant()
    averaged = AveragedWeights(model, exponential(0.9))
    before = model.constant.clone()

    for step in range(100):
        averaged.update(step)

    assert torch.equal(averaged.averages["constant"], before)
    with averaged.in_place_of_weights():
        assert model.mask.item() == float("-inf")


def test_a_tied_weight_has_one_average_under_both_names():
    model = tiny.Tied()
    averaged = AveragedWeights(model, exponential(0.9))
    nn.init.constant_(model.first.weight, 3.0)
    averaged.update(10_000)
    average = averaged.averages["first.weight"].clone()

    assert averaged.averages["second.weight"] is averaged.averages["first.weight"]
    with averaged.in_place_of_weights():
        assert torch.equal(model.first.weight, average) and model.second.weight is model.first.weight
    assert model.first.weight.eq(3.0).all()


# --- in a run ---


@pytest.fixture
def build(corpus, opened):
    def make(**train):
        settings = {f"train.{name}": value for name, value in train.items()}
        return opened(tiny.build(tiny.config(corpus, {"model.name": "tiny:with_batch_norm", **settings})))

    return make


def advance(run, n_steps):
    for _, batch in zip(range(n_steps), run.host_batches()):
        train_step(run, batch, 0.1)
        run.state.advance(8)


def checkpoint_of(run):
    tensors, state = capture(run.state, run.engine, run.ema, {})
    return Checkpoint(run.state.step, None, {"state": state}, {name: t.detach().clone() for name, t in tensors.items()})


@pytest.mark.parametrize("kind", [{"ema": 0.9}, {"average_from": "1 epoch"}])
def test_a_resumed_run_has_the_averages_of_one_that_went_on(build, kind):
    whole, first, second = build(**kind), build(**kind), build(**kind)
    advance(whole, 5)
    advance(first, 4)

    saved = checkpoint_of(first)
    restore(lambda: saved, second.state, second.engine, second.ema)
    advance(second, 1)

    assert second.ema.averages.keys() == whole.ema.averages.keys() >= {"1.running_mean", "4.weight"}
    assert all(torch.equal(second.ema.averages[name], value) for name, value in whole.ema.averages.items())


def test_averages_that_are_switched_on_later_begin_at_the_weights_and_statistics(build):
    without, averaged = build(), build(ema=0.9)
    advance(without, 2)

    saved = checkpoint_of(without)
    restore(lambda: saved, averaged.state, averaged.engine, averaged.ema)

    weights = without.engine.model.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in averaged.ema.averages.items())
