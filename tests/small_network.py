"""A network with a convolution, a norm and biases on which optimisers are tried, beside references in numpy.

A reference is a function `update(name, weight, gradient, memory)` that returns the new weight; `memory` is a dict for
each weight, kept between steps. It gets the gradients of a network of its own, at its own weights. All in fp64: what
is left of a difference is not rounding.
"""

from collections import defaultdict

import torch
from torch import nn

STEPS = 50
MATRICES = ("0.weight", "2.weight", "5.weight")  # what weight decay acts on: two convolutions and a linear layer


def network(seed=0):
    # No bias before the norm: its gradient would be rounding alone, which adaptive optimisers blow up.
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 3, 3, bias=False),
        nn.BatchNorm2d(3),
        nn.Conv2d(3, 5, 2),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(20, 2),
    ).double()


def batches(steps=STEPS, seed=1):
    """(images, targets) of each step."""
    numbers = torch.Generator().manual_seed(seed)
    return [
        (torch.randn(6, 1, 5, 5, generator=numbers).double(), torch.randn(6, 2, generator=numbers).double())
        for _ in range(steps)
    ]


def backward(trained, batch):
    images, targets = batch
    trained.zero_grad()
    (trained(images.to(trained[0].weight.dtype)) - targets).square().mean().backward()


def train(trained, optimiser, batches):
    for batch in batches:
        backward(trained, batch)
        optimiser.step()


def train_by(update, trained, batches):
    """The same with a reference."""
    memories = defaultdict(dict)
    for batch in batches:
        backward(trained, batch)
        for name, parameter in trained.named_parameters():
            weight = update(name, parameter.detach().numpy().copy(), parameter.grad.numpy(), memories[name])
            parameter.data.copy_(torch.from_numpy(weight))


def assert_same_weights(found, expected, relative=1e-6):
    for (name, a), b in zip(found.named_parameters(), expected.parameters(), strict=True):
        difference = ((a - b).norm() / b.norm()).item()
        assert difference < relative, f"{name} differs by {difference:.1e}"


def assert_trained(trained):
    """What a comparison of two networks rests on: neither stood still."""
    for (name, after), before in zip(trained.named_parameters(), network().parameters(), strict=True):
        assert (after - before).norm() > 1e-4 * (1 + before.norm()), f"{name} has hardly moved"
