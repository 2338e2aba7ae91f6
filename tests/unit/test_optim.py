"""Optimisers: what decays, and a state that is named by parameter."""

import pytest
import torch
from torch import nn

from distdl.config.schema import OptimConfig
from distdl.errors import UserError
from distdl.trainer import optim


def a_network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(2, 2))


def train(network, optimiser, steps):
    torch.manual_seed(1)
    inputs = torch.randn(steps, 4, 1, 3, 3)
    for batch in inputs:
        optimiser.zero_grad()
        network(batch).square().sum().backward()
        optimiser.step()


def test_norms_and_biases_do_not_decay_unless_told():
    network = a_network()

    by_default = optim.parameter_groups(network.named_parameters(), OptimConfig(lr=0.1, weight_decay=0.5))
    told = optim.parameter_groups(
        network.named_parameters(), OptimConfig(lr=0.1, weight_decay=0.5, decay_norm_and_bias=True)
    )

    assert [(len(group["params"]), group["weight_decay"]) for group in by_default] == [(2, 0.5), (4, 0.0)]
    assert [(len(group["params"]), group["weight_decay"]) for group in told] == [(6, 0.5)]


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_state_that_went_through_names_continues_with_the_same_bits(name):
    config = OptimConfig(name=name, lr=0.01, nesterov=True)
    whole, half = a_network(), a_network()
    train(whole, whole_optimiser := optim.build(config, whole), 3)
    train(half, half_optimiser := optim.build(config, half), 3)

    tensors, scalars = optim.state_by_name(half_optimiser, half)
    resumed = a_network()
    resumed.load_state_dict(half.state_dict())
    resumed_optimiser = optim.build(config, resumed)
    optim.load_state_by_name(resumed_optimiser, resumed, {k: v.clone() for k, v in tensors.items()}, scalars)
    train(whole, whole_optimiser, 2)
    train(resumed, resumed_optimiser, 2)

    for expected, value in zip(whole.state_dict().values(), resumed.state_dict().values()):
        assert torch.equal(expected, value)


def test_state_takes_the_memory_format_of_its_parameter():
    network = a_network().to(memory_format=torch.channels_last)
    optimiser = optim.build(OptimConfig(lr=0.1), network)

    contiguous = {"0.weight/momentum_buffer": torch.ones(2, 1, 3, 3)}
    optim.load_state_by_name(optimiser, network, contiguous, {})

    weight = network[0].weight
    assert optimiser.state[weight]["momentum_buffer"].stride() == weight.stride()


def test_the_fused_optimisers_agree_with_the_plain_ones():
    fused, plain = a_network(), a_network()

    train(fused, optim.build(OptimConfig(lr=0.01, weight_decay=0.1, decay_norm_and_bias=True), fused), 5)
    train(plain, torch.optim.SGD(plain.parameters(), lr=0.01, momentum=0.9, weight_decay=0.1), 5)

    for a, b in zip(fused.parameters(), plain.parameters()):
        torch.testing.assert_close(a, b)


def test_an_optimiser_of_ones_own_and_its_arguments():
    network = a_network()

    own = optim.build(OptimConfig(name="torch.optim:RMSprop", lr=0.1, args={"alpha": 0.9}), network)

    assert isinstance(own, torch.optim.RMSprop) and own.param_groups[0]["alpha"] == 0.9
    with pytest.raises(UserError, match="takes no argument 'alfa' - did you mean alpha"):
        optim.build(OptimConfig(name="torch.optim:RMSprop", lr=0.1, args={"alfa": 0.9}), network)
