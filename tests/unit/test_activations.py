"""Activations, normalisations without weights and mirror padding, each against its paper's formula."""

import numpy as np
import pytest
import torch
from torch import nn

from distdl import models
from distdl.errors import UserError
from distdl.models.activations import (
    ACTIVATIONS,
    KEEPING_CHANNELS,
    CReLU,
    LocalContrastNorm,
    LocalResponseNorm,
    Maxout,
    ScaledTanh,
    channels_after,
    make_activation,
    mirror_pad,
)

VALUES = [-30.0, -1.0, 0.0, 3.0, 30.0]


@pytest.mark.parametrize(
    "name, expected",
    [
        ("relu", [0, 0, 0, 3, 30]),
        ("leaky_relu", [-0.3, -0.01, 0, 3, 30]),
        ("prelu", [-7.5, -0.25, 0, 3, 30]),
        ("abs", [30, 1, 0, 3, 30]),
        ("clipped_relu", [0, 0, 0, 3, 20]),
        ("sigmoid", [0, 0.26894, 0.5, 0.95257, 1]),
        ("tanh", [-1, -0.76159, 0, 0.99505, 1]),
        ("crelu", [0, 0, 0, 3, 30, 30, 1, 0, 0, 0]),
    ],
)
def test_an_activation_computes_its_formula(name: str, expected: list[float]) -> None:
    computed = make_activation(name)(torch.tensor([VALUES]))

    torch.testing.assert_close(computed, torch.tensor([expected], dtype=torch.float32), atol=1e-5, rtol=0)


def test_maxout_takes_the_largest_of_consecutive_channels() -> None:
    units = torch.tensor([[1.0, 5.0, -2.0, -3.0]])
    maps = torch.randn(2, 6, 3, 3)

    assert Maxout()(units).tolist() == [[5.0, -2.0]]
    assert Maxout(pieces=4)(units).tolist() == [[5.0]]
    assert torch.equal(Maxout(pieces=3)(maps)[:, 1], maps[:, 3:].amax(dim=1))


def test_crelu_keeps_both_signs_of_a_map_apart() -> None:
    maps = torch.randn(2, 3, 4, 4)

    both = CReLU()(maps)

    assert both.shape == (2, 6, 4, 4)
    assert torch.equal(both[:, :3] - both[:, 3:], maps)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_the_number_of_channels_is_known_before(name: str) -> None:
    activation = make_activation(name)

    assert activation(torch.randn(2, 8, 3, 3)).shape[1] == channels_after(name, 8)
    assert (channels_after(name, 8) == 8) == (name in KEEPING_CHANNELS)


def test_prelu_learns_one_slope() -> None:
    assert [parameter.tolist() for parameter in make_activation("prelu").parameters()] == [[0.25]]


def test_maxout_says_that_its_units_come_in_pairs() -> None:
    with pytest.raises(UserError, match="maxout takes 2 units at a time, and 9 is no multiple of 2"):
        channels_after("maxout", 9)


def test_an_activation_that_a_network_does_not_offer_is_unknown_to_it() -> None:
    with pytest.raises(UserError, match=r"(?s)model.args.activation: unknown activation 'crelu'.*one of: relu"):
        make_activation("crelu", KEEPING_CHANNELS)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_mlp_takes_every_activation_and_hands_on_what_it_makes(name: str) -> None:
    network = models.build("mlp", {"inputs": 4, "hidden": 6, "classes": 3, "activation": name})

    assert network(torch.randn(2, 1, 2, 2)).shape == (2, 3)
    assert network.get_submodule("hidden.linear").weight.shape == (6, 4)
    assert network.get_submodule("output").weight.shape == (3, {"crelu": 12, "maxout": 3}.get(name, 6))


def test_scaled_tanh_leaves_plus_and_minus_one_almost_as_they_are() -> None:
    assert ScaledTanh()(torch.tensor([-1.0, 0.0, 1.0])).tolist() == pytest.approx([-1, 0, 1], abs=1e-4)
    assert ScaledTanh()(torch.tensor(100.0)).item() == pytest.approx(1.7159)


# --- normalisation ---


def test_local_response_normalisation_is_the_papers_formula_and_not_torchs() -> None:
    n, k, alpha, beta = 5, 2.0, 0.3, 0.75  # alpha is large, so that it matters
    maps = torch.randn(2, 7, 3, 3, dtype=torch.float64)

    expected = torch.empty_like(maps)
    for i in range(7):
        neighbours = maps[:, max(0, i - n // 2) : min(6, i + n // 2) + 1]
        expected[:, i] = maps[:, i] / (k + alpha * neighbours.square().sum(dim=1)) ** beta

    torch.testing.assert_close(LocalResponseNorm(n, k, alpha, beta)(maps), expected)
    assert not torch.allclose(nn.LocalResponseNorm(n, alpha, beta, k)(maps), expected, rtol=0.01)


def test_contrast_normalisation_takes_away_brightness_and_contrast() -> None:
    maps = torch.randn(2, 3, 14, 14, dtype=torch.float64)
    norm = LocalContrastNorm().double()

    torch.testing.assert_close(norm(maps * 7 + 5), norm(maps))
    assert norm.window.sum().item() == pytest.approx(1)


def test_contrast_normalisation_leaves_a_faint_region_faint() -> None:
    maps = torch.randn(1, 3, 30, 30)
    maps[..., :15] *= 0.01  # its deviation is below the image's mean, which divides it instead

    normalised = LocalContrastNorm()(maps)

    assert normalised[..., :8].std() < 0.1 * normalised[..., 22:].std()
    assert normalised[..., 22:].std().item() == pytest.approx(1, abs=0.2)


def test_contrast_normalisation_of_an_even_image_has_a_gradient() -> None:
    maps = torch.full((1, 2, 12, 12), 3.0, requires_grad=True)

    normalised = LocalContrastNorm()(maps)
    normalised.sum().backward()

    assert normalised.abs().max() < 1e-2
    assert maps.grad is not None and maps.grad.isfinite().all()


# --- padding ---


@pytest.mark.parametrize("margin", [0, 1, 3])
def test_mirror_padding_is_numpys_symmetric_and_not_torchs_reflect(margin: int) -> None:
    maps = torch.randn(2, 3, 4, 5)
    sides = (margin, margin)

    padded = mirror_pad(maps, margin)

    assert np.array_equal(padded.numpy(), np.pad(maps.numpy(), ((0, 0), (0, 0), sides, sides), mode="symmetric"))
    if margin:
        assert not torch.equal(padded, nn.functional.pad(maps, sides * 2, mode="reflect"))


def test_mirror_padding_of_one_pixel_repeats_the_border() -> None:
    maps = torch.randn(1, 1, 3, 3)

    assert torch.equal(mirror_pad(maps, 1), nn.functional.pad(maps, (1, 1, 1, 1), mode="replicate"))


def test_mirror_padding_needs_as_many_pixels_as_it_adds() -> None:
    with pytest.raises(UserError, match="maps of 2x9 have no 3 pixels to mirror"):
        mirror_pad(torch.zeros(1, 1, 2, 9), 3)
