"""Muon against its published code, written out in numpy; and which parameters it takes."""

import numpy as np
import pytest
import small_network as small
import torch
from torch import nn

from distdl.config.schema import OptimConfig
from distdl.errors import UserError
from distdl.trainer import optim
from distdl.trainer.muon import orthogonalise

RATE, MOMENTUM, DECAY = 0.02, 0.9, 0.01
BETA1, BETA2, EPS = 0.8, 0.95, 1e-8
ALL = {"adamw": []}


def build(network, **args):
    given = {"momentum": MOMENTUM, "betas": (BETA1, BETA2), "eps": EPS, "weight_decay": DECAY}
    return optim.build(OptimConfig(name="muon", lr=RATE, **given, args=args), network)


def published(by_muon, scale, nesterov=True, adamw_rate=RATE):
    """`scale(rows, columns)`: of the update; all but `by_muon` is updated by AdamW."""

    def update(name, weight, gradient, memory):
        if name not in by_muon:
            return adamw(name, weight, gradient, memory)
        m = memory["m"] = MOMENTUM * memory.get("m", 0.0) + (1 - MOMENTUM) * gradient
        g = (1 - MOMENTUM) * gradient + MOMENTUM * m if nesterov else m
        x = g.reshape(len(g), -1)
        rows, columns = x.shape
        x = x / np.linalg.norm(x)
        x = x.T if rows > columns else x
        for _ in range(5):
            a = x @ x.T
            x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
        x = x.T if rows > columns else x
        return weight * (1 - RATE * DECAY) - RATE * scale(rows, columns) * x.reshape(weight.shape)

    def adamw(name, weight, gradient, memory):
        t = memory["t"] = memory.get("t", 0) + 1
        m = memory["m"] = BETA1 * memory.get("m", 0.0) + (1 - BETA1) * gradient
        v = memory["v"] = BETA2 * memory.get("v", 0.0) + (1 - BETA2) * gradient**2
        decay = DECAY if name in small.MATRICES else 0.0
        r = m / (1 - BETA1**t) / (np.sqrt(v / (1 - BETA2**t)) + EPS)
        return weight * (1 - adamw_rate * decay) - adamw_rate * r

    return update


def moonlight(rows, columns):
    return 0.2 * np.sqrt(max(rows, columns))


def jordan(rows, columns):
    return np.sqrt(max(1.0, rows / columns))


@pytest.mark.parametrize(
    ("args", "by_muon", "options"),
    [
        ({}, ["2.weight"], {"scale": moonlight}),
        (ALL, small.MATRICES, {"scale": moonlight}),
        ({"adamw": ["5.*"]}, ["0.weight", "2.weight"], {"scale": moonlight}),
        ({**ALL, "adjust_lr_fn": "original"}, small.MATRICES, {"scale": jordan}),
        ({**ALL, "nesterov": False}, small.MATRICES, {"scale": moonlight, "nesterov": False}),
        ({"adamw_lr_scale": 0.1}, ["2.weight"], {"scale": moonlight, "adamw_rate": 0.1 * RATE}),
    ],
)
def test_it_is_the_published_algorithm_for_matrices_and_adamw_for_the_rest(args, by_muon, options):
    found, expected = small.network(), small.network()
    optimiser = build(found, **args)
    optim.set_lr(optimiser, RATE)

    small.train(found, optimiser, small.batches())
    small.train_by(published(by_muon, **options), expected, small.batches())

    small.assert_same_weights(found, expected)
    small.assert_trained(found)


@pytest.mark.parametrize("shape", [(1, 4, 4), (3, 4, 9), (2, 30, 5)])
def test_singular_values_end_near_1_and_the_directions_stay(shape):
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(0)).double()
    u, _, v = torch.linalg.svd(matrices, full_matrices=False)

    values = u.mT @ orthogonalise(matrices, 5) @ v.mT  # diagonal, if the singular vectors are the same

    diagonal = values.diagonal(dim1=1, dim2=2)
    torch.testing.assert_close(values, torch.diag_embed(diagonal))
    assert diagonal.min() > 0.5 and diagonal.max() < 1.5


def test_a_matrix_without_a_gradient_only_decays():
    network = small.network()
    optimiser = build(network, **ALL)
    small.backward(network, small.batches(1)[0])
    network[2].weight.grad.zero_()
    before = network[2].weight.detach().clone()

    optimiser.step()

    torch.testing.assert_close(network[2].weight.detach(), before * (1 - RATE * DECAY))


def test_matrices_of_one_shape_are_updated_as_each_by_itself():
    def alike():
        torch.manual_seed(0)
        return nn.Sequential(*(nn.Linear(4, 4, bias=False) for _ in range(3))).double()

    together, apart = alike(), alike()
    optimisers = [build(together, **ALL), *(build(layer, **ALL) for layer in apart)]

    for _ in range(3):
        for network in (together, apart):
            network.zero_grad()
            network(torch.eye(4).double()).square().sum().backward()
        for optimiser in optimisers:
            optimiser.step()

    small.assert_same_weights(together, apart, relative=1e-12)


def test_parameters_of_one_row_are_no_matrices():
    class WithClassToken(nn.Module):
        def __init__(self):
            super().__init__()
            self.token = nn.Parameter(torch.ones(1, 1, 4))
            self.inside = nn.Linear(4, 4)

    network = WithClassToken()

    groups = build(network, **ALL).param_groups

    assert [id(p) for group in groups if group["orthogonal"] for p in group["params"]] == [id(network.inside.weight)]


def test_a_network_without_a_matrix_inside_is_the_users_mistake():
    with pytest.raises(UserError, match="no matrix of this network is left for muon"):
        build(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)))


def test_wrong_arguments_are_the_users_mistake():
    with pytest.raises(UserError, match="'head': fits no parameter"):
        build(small.network(), adamw=["head"])
    with pytest.raises(UserError, match=r"no adjust_lr_fn 'orignal' - did you mean original\?"):
        build(small.network(), adjust_lr_fn="orignal")
    with pytest.raises(UserError, match="takes no argument 'steps' - did you mean ns_steps"):
        build(small.network(), steps=3)
