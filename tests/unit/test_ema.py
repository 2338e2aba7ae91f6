"""The moving average of the weights, and how it takes their place."""

import pytest
import torch
from torch import nn

from distdl.trainer.ema import Ema


@pytest.fixture
def model():
    linear = nn.Linear(2, 1)
    nn.init.ones_(linear.weight)
    nn.init.zeros_(linear.bias)
    return linear


def test_it_begins_at_the_weights(model):
    ema = Ema(model, 0.9)

    assert ema.averages["weight"].tolist() == [[1, 1]]
    assert ema.averages["weight"].data_ptr() != model.weight.data_ptr()


@pytest.mark.parametrize("step, decay", [(0, 1 / 10), (9, 10 / 19), (80, 81 / 90), (10_000, 0.9)])
def test_the_decay_warms_up_to_its_value(model, step, decay):
    ema = Ema(model, 0.9)
    nn.init.constant_(model.weight, 3.0)

    ema.update(step)

    assert ema.averages["weight"].tolist() == [pytest.approx([decay * 1 + (1 - decay) * 3] * 2)]


def test_within_the_block_the_model_computes_with_the_averages_and_after_it_with_its_weights(model):
    ema = Ema(model, 0.9)
    nn.init.constant_(model.weight, 3.0)
    weight, address, image = model.weight, model.weight.data_ptr(), torch.ones(1, 2)

    with ema.in_place_of_weights():
        inside = model(image).item()

    assert (inside, model(image).item()) == (2, 6)
    assert model.weight is weight and weight.data_ptr() == address
    assert ema.averages["weight"].tolist() == [[1, 1]]


def test_the_weights_come_back_after_an_error(model):
    ema = Ema(model, 0.9)
    nn.init.constant_(model.weight, 3.0)

    with pytest.raises(ZeroDivisionError), ema.in_place_of_weights():
        raise ZeroDivisionError

    assert model.weight.tolist() == [[3, 3]]


def test_an_optimiser_goes_on_with_the_same_tensors_afterwards(model):
    ema = Ema(model, 0.9)
    optimiser = torch.optim.SGD(model.parameters(), lr=1.0)
    with ema.in_place_of_weights():
        pass

    model(torch.ones(1, 2)).sum().backward()
    optimiser.step()

    assert model.weight.tolist() == [[0, 0]]
    assert ema.averages["weight"].tolist() == [[1, 1]]
