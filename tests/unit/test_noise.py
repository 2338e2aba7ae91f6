"""Noise on input, weights and gradients: of the size that was asked for, drawn by key, and gone without a trace."""

import math

import pytest
import tiny
import torch
from torch import nn

from distdl.config.schema import NoiseConfig
from distdl.trainer.noise import Noise


@pytest.fixture
def network():
    torch.manual_seed(0)
    return nn.Linear(200, 100)


def noise_on(network, seed=0, **sizes):
    return Noise(NoiseConfig(**sizes), network, seed)


def noisy_weights(network, step=0, seed=0):
    with noise_on(network, seed, weight=0.1).weights(step):
        return network.weight.detach().clone()


def noisy_gradient(network, step=0, seed=0, eta=0.3):
    network.weight.grad = torch.zeros_like(network.weight)
    noise_on(network, seed, gradient=eta).gradients_(step)
    return network.weight.grad


# --- size ---


def test_input_noise_has_the_deviation_that_was_asked_for_and_leaves_the_image_alone(network):
    image = torch.full((4, 3, 50, 50), 2.0)

    noisy = noise_on(network, input=0.3).input(image, step=0, part=0, begin=0)

    assert (noisy - image).std().item() == pytest.approx(0.3, rel=0.02)
    assert (noisy - image).mean().item() == pytest.approx(0, abs=0.01)
    assert (image == 2).all()


def test_weight_noise_has_the_deviation_that_was_asked_for(network):
    assert (noisy_weights(network) - network.weight).std().item() == pytest.approx(0.1, rel=0.02)


@pytest.mark.parametrize("step", [0, 1, 1000])
def test_gradient_noise_falls_with_the_step(network, step):
    deviation = math.sqrt(0.3 / (1 + step) ** 0.55)  # Neelakantan et al. 2015, equation 1

    assert noisy_gradient(network, step).std().item() == pytest.approx(deviation, rel=0.02)


def test_no_noise_is_free(network):
    none, image = noise_on(network), torch.zeros(1, 3, 2, 2)
    weights = network.weight.data_ptr()

    assert none.input(image, 0, 0, 0) is image
    with none.weights(0):
        assert network.weight.data_ptr() == weights
    network.weight.grad = torch.zeros_like(network.weight)
    none.gradients_(0)
    assert not network.weight.grad.any()


# --- keys ---


def test_input_draws_are_a_function_of_seed_step_rank_and_row():
    network, image = tiny.perceptron(), torch.zeros(1, 1, 4, 4)

    def draw(seed, *key):
        return tuple(noise_on(network, seed, input=1.0).input(image, *key).flatten().tolist())

    assert draw(0, 1, 2, 3) == draw(0, 1, 2, 3)
    assert len({draw(0, 1, 2, 3), draw(1, 1, 2, 3), draw(0, 0, 2, 3), draw(0, 1, 0, 3), draw(0, 1, 2, 0)}) == 5


@pytest.mark.parametrize("draw", [noisy_weights, noisy_gradient])
def test_weight_and_gradient_draws_are_a_function_of_seed_and_step(network, draw):
    assert torch.equal(draw(network, step=3), draw(network, step=3))
    assert not torch.equal(draw(network, step=3), draw(network, step=4))
    assert not torch.equal(draw(network, seed=0), draw(network, seed=1))


def test_no_two_weights_get_the_same_noise_in_a_row():
    network = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    nn.init.zeros_(network[0].weight)
    nn.init.zeros_(network[1].weight)

    with noise_on(network, weight=0.1).weights(0):
        assert not (network[0].weight == network[1].weight).any()


def test_draws_of_dropout_are_not_moved(network):
    torch.manual_seed(5)
    expected = torch.rand(3)

    torch.manual_seed(5)
    noise = noise_on(network, input=1.0, weight=1.0, gradient=1.0)
    noise.input(torch.zeros(1, 3, 2, 2), 0, 0, 0)
    noise.gradients_(0)
    with noise.weights(0):
        assert torch.equal(torch.rand(3), expected)


# --- without a trace ---


def test_gradients_are_those_of_the_noisy_weights_and_the_weights_come_back_bit_for_bit(network):
    before = {name: value.clone() for name, value in network.state_dict().items()}
    values = torch.randn(5, 200)

    with noise_on(network, weight=0.1).weights(7):
        noisy = network.weight.detach().clone()
        network(values).square().sum().backward()

    outputs = values @ noisy.T + noisy_bias(network)
    torch.testing.assert_close(network.weight.grad, 2 * outputs.T @ values)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def noisy_bias(network):
    with noise_on(network, weight=0.1).weights(7):
        return network.bias.detach().clone()


def test_weights_come_back_after_an_error_too(network):
    before = network.weight.detach().clone()

    with pytest.raises(ValueError), noise_on(network, weight=0.1).weights(0):
        raise ValueError

    assert torch.equal(network.weight, before)


def test_frozen_weights_and_weights_without_a_gradient_get_none():
    network = tiny.frozen()

    noise = noise_on(network, weight=0.1, gradient=0.1)
    frozen = network[1].weight.detach().clone()
    with noise.weights(0):
        assert torch.equal(network[1].weight, frozen)
    noise.gradients_(0)

    assert network[3].weight.grad is None and network[1].weight.grad is None


def test_memory_format_is_kept():
    network = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
    image = torch.zeros(2, 3, 5, 5).to(memory_format=torch.channels_last)

    noise = noise_on(network, input=1.0, weight=1.0)
    with noise.weights(0):
        assert network.weight.is_contiguous(memory_format=torch.channels_last)
    assert noise.input(image, 0, 0, 0).is_contiguous(memory_format=torch.channels_last)
