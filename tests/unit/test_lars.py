"""LARS against the equations of You, Gitman and Ginsburg 2017, in numpy."""

import numpy as np
import pytest
import small_network as small

from distdl.config.schema import OptimConfig
from distdl.trainer import optim

RATE, MOMENTUM, DECAY, ETA = 0.5, 0.9, 0.01, 0.02


def build(network, **changes):
    values = {"name": "lars", "lr": RATE, "momentum": MOMENTUM, "weight_decay": DECAY}
    return optim.build(OptimConfig(**{**values, "args": {"trust_coefficient": ETA}, **changes}), network)


def algorithm_1(rates):
    """`rates`: of each step, gamma."""

    def update(name, weight, gradient, memory):
        step = memory["step"] = memory.get("step", -1) + 1
        decay, local = (DECAY, None) if name in small.MATRICES else (0.0, 1.0)
        if local is None:
            local = ETA * np.linalg.norm(weight) / (np.linalg.norm(gradient) + decay * np.linalg.norm(weight))
        v = MOMENTUM * memory.get("v", 0.0) + rates[step] * local * (gradient + decay * weight)
        memory["v"] = v
        return weight - v

    return update


def test_it_is_the_papers_algorithm_on_matrices_and_sgd_with_momentum_on_norms_and_biases():
    found, expected = small.network(), small.network()

    small.train(found, build(found), small.batches())
    small.train_by(algorithm_1([RATE] * small.STEPS), expected, small.batches())

    small.assert_same_weights(found, expected)
    small.assert_trained(found)


def test_a_change_of_the_rate_reaches_the_update_through_the_momentum():
    found, expected = small.network(), small.network()
    rates = [RATE / (1 + step) for step in range(10)]
    optimiser = build(found)

    for rate, batch in zip(rates, small.batches(10)):
        optim.set_lr(optimiser, rate)
        small.train(found, optimiser, [batch])
    small.train_by(algorithm_1(rates), expected, small.batches(10))

    small.assert_same_weights(found, expected)


@pytest.mark.parametrize("zero", ["weight", "gradient"])
def test_a_layer_of_zeros_or_without_a_gradient_is_updated_at_the_global_rate(zero):
    network = small.network()
    weight = network[5].weight
    if zero == "weight":
        weight.data.zero_()
    small.backward(network, small.batches(1)[0])
    if zero == "gradient":
        weight.grad.zero_()
    before = weight.detach().clone()
    optimiser = build(network)

    optimiser.step()

    expected = before - RATE * (weight.grad + DECAY * before)
    np.testing.assert_allclose(weight.detach(), expected.detach(), rtol=1e-12)


def test_norms_and_biases_are_adapted_as_well_where_weight_decay_acts_on_them():
    network = small.network()
    bias = network[5].bias
    before = bias.detach().clone()
    optimiser = build(network, decay_norm_and_bias=True, weight_decay=0.0)

    small.train(network, optimiser, small.batches(1))

    assert (bias - before).norm().item() == pytest.approx(RATE * ETA * before.norm().item())
