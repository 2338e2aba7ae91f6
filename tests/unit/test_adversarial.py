"""FGSM examples: where the paper says they lie, and made without leaving anything behind in the network."""

import pytest
import tiny
import torch
from torch import nn
from torch.nn import functional

from distdl.data.labels import IGNORED
from distdl.data.pictures.transforms import Normalise
from distdl.tasks.classify import Classify
from distdl.trainer import adversarial

NORMALISE = Normalise(mean=[0.5, 0.2, 0.1], std=[0.25, 0.5, 0.1])
MEAN, STD = torch.tensor(NORMALISE.mean).view(1, 3, 1, 1), torch.tensor(NORMALISE.std).view(1, 3, 1, 1)
GREY = Normalise(mean=[0.0], std=[1.0])


def pixels(n_rows=4):
    """Between black and white, 0 and 1."""
    return torch.rand(n_rows, 3, 5, 5, generator=torch.Generator().manual_seed(0))


def labels(n_rows=4):
    return {"label": torch.arange(n_rows) % 2, "valid": torch.ones(n_rows)}


@pytest.fixture
def linear():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(75, 2))


def examples_in_pixels(network, pixels, epsilon, batch=None):
    image = (pixels - MEAN) / STD
    found = adversarial.examples(network, image, batch or labels(len(pixels)), Classify(), epsilon, NORMALISE)
    return found * STD + MEAN


# --- the examples ---


def test_a_linear_classifier_is_attacked_along_the_signs_of_its_weights(linear):
    signs = (linear[1].weight[1] - linear[1].weight[0]).sign().view(1, 3, 5, 5)
    towards_the_other_class = torch.tensor([1.0, -1, 1, -1]).view(4, 1, 1, 1) * signs

    found = examples_in_pixels(linear, pixels() * 0.5 + 0.25, epsilon=0.1)

    torch.testing.assert_close(found, pixels() * 0.5 + 0.25 + 0.1 * towards_the_other_class)


def test_pixels_stay_between_black_and_white(linear):
    found = examples_in_pixels(linear, pixels(), epsilon=0.3)

    assert found.min() == pytest.approx(0, abs=1e-6) and found.max() == pytest.approx(1, abs=1e-6)
    assert (found - pixels()).abs().max() == pytest.approx(0.3, abs=1e-6)


def test_the_loss_of_the_examples_is_higher(linear):
    batch, task = labels(), Classify()
    image = (pixels() - MEAN) / STD

    found = adversarial.examples(linear, image, batch, task, 0.05, NORMALISE)

    assert task.loss(linear(found), batch)[0] > task.loss(linear(image), batch)[0]


def test_rows_that_do_not_count_stay_as_they_are(linear):
    batch = labels()
    batch["label"][2] = IGNORED

    found = examples_in_pixels(linear, pixels(), epsilon=0.1, batch=batch)

    torch.testing.assert_close(found[2], pixels()[2])
    assert not torch.allclose(found[1], pixels()[1])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_finds_the_signs_that_full_precision_finds(dtype):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(72, 2))
    nn.init.constant_(network[3].bias, 0)
    network[3].bias.data[0] = 14.0  # rows of class 0 are known so well that fp16 has no gradient for them
    batch = {"label": torch.zeros(4, dtype=torch.int64), "valid": torch.ones(4)}

    expected = examples_in_pixels(network, pixels(), 0.1, batch)
    with torch.autocast("cpu", dtype=dtype):
        found = examples_in_pixels(network, pixels(), 0.1, batch)

    assert found.dtype == torch.float32
    assert (found - expected).abs().lt(1e-6).float().mean() > 0.9


# --- what stays behind ---


def with_everything():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Flatten(), nn.Linear(36, 2))
    network[1].eval()  # a frozen batch norm among modules that are trained
    return network


def test_neither_gradients_nor_statistics_nor_modes_nor_random_numbers_are_touched():
    network = with_everything()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    modes = [module.training for module in network.modules()]
    image = pixels().requires_grad_()
    random_state = torch.get_rng_state()

    first = examples_in_pixels(network, image, 0.1)
    second = examples_in_pixels(network, image, 0.1)

    assert torch.equal(first, second) and not first.requires_grad
    assert image.grad is None and all(parameter.grad is None for parameter in network.parameters())
    assert all(parameter.requires_grad for parameter in network.parameters())
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert [module.training for module in network.modules()] == modes
    assert torch.equal(torch.get_rng_state(), random_state)


def test_modes_come_back_after_an_error_too():
    network = with_everything()
    modes = [module.training for module in network.modules()]

    with pytest.raises(RuntimeError):
        examples_in_pixels(network, pixels().repeat(1, 1, 2, 2), 0.1)

    assert [module.training for module in network.modules()] == modes


def test_the_following_step_has_the_gradient_of_one_without_examples():
    network = tiny.perceptron()
    image, batch = torch.rand(4, 1, 4, 4), labels()

    gradients = []
    for epsilon in (None, 0.1):
        network.zero_grad()
        if epsilon:
            adversarial.examples(network, image, batch, Classify(), epsilon, GREY)
        functional.cross_entropy(network(image), batch["label"]).backward()
        gradients.append([parameter.grad.clone() for parameter in network.parameters()])

    assert all(torch.equal(a, b) for a, b in zip(*gradients))


# --- both losses ---


@pytest.mark.parametrize("weight", [0.25, 1.0])
def test_the_mixed_loss_weighs_images_and_examples_and_counts_each_row_once(weight):
    batch = {"label": torch.tensor([1, IGNORED, 0]), "valid": torch.tensor([1.0, 0, 1])}
    outputs = torch.randn(6, 2, generator=torch.Generator().manual_seed(0))

    loss, count = adversarial.mixed_loss(Classify(), outputs, batch, weight)

    clean = functional.cross_entropy(outputs[[0, 2]], torch.tensor([1, 0]), reduction="sum")
    moved = functional.cross_entropy(outputs[[3, 5]], torch.tensor([1, 0]), reduction="sum")
    torch.testing.assert_close(loss, (1 - weight) * clean + weight * moved)
    assert count == 2
