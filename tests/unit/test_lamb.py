"""LAMB against algorithm 2 of You et al. 2020, in numpy."""

import numpy as np
import pytest
import small_network as small
import torch

from distdl.config.schema import OptimConfig
from distdl.trainer import optim

RATE, BETA1, BETA2, EPS, DECAY = 0.02, 0.9, 0.99, 1e-6, 0.01


def build(network, **changes):
    values = {"name": "lamb", "lr": RATE, "betas": (BETA1, BETA2), "eps": EPS, "weight_decay": DECAY}
    return optim.build(OptimConfig(**{**values, **changes}), network)


def algorithm_2(name, weight, gradient, memory):
    t = memory["t"] = memory.get("t", 0) + 1
    m = memory["m"] = BETA1 * memory.get("m", 0.0) + (1 - BETA1) * gradient
    v = memory["v"] = BETA2 * memory.get("v", 0.0) + (1 - BETA2) * gradient**2
    r = m / (1 - BETA1**t) / (np.sqrt(v / (1 - BETA2**t)) + EPS)
    if name not in small.MATRICES:
        return weight - RATE * r
    update = r + DECAY * weight
    return weight - RATE * np.linalg.norm(weight) / np.linalg.norm(update) * update


def test_it_is_the_papers_algorithm_on_matrices_and_adam_on_norms_and_biases():
    found, expected = small.network(), small.network()

    small.train(found, build(found), small.batches())
    small.train_by(algorithm_2, expected, small.batches())

    small.assert_same_weights(found, expected)
    small.assert_trained(found)


def test_without_weight_decay_a_matrix_moves_by_the_rate_times_its_norm():
    network = small.network()
    before = network[2].weight.detach().clone()

    small.train(network, build(network, weight_decay=0.0), small.batches(1))

    assert (network[2].weight - before).norm().item() == pytest.approx(RATE * before.norm().item())


def test_a_matrix_of_zeros_gets_adams_update():
    network = small.network()
    torch.nn.init.zeros_(network[5].weight)

    small.train(network, build(network), small.batches(1))

    # Adam's first update is the sign of the gradient.
    np.testing.assert_allclose(network[5].weight.detach().abs(), RATE, rtol=1e-2)
