"""The network of airbench94: whitening from images, identity initialisation, what does not learn, image sizes."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from distdl import models
from distdl.errors import UserError
from distdl.models.airbench import initialise_as_identity


def fresh(**args: object) -> Any:
    torch.manual_seed(0)
    return models.build("airbench94_cifar", args)


def smooth_images(number: int = 50, channels: int = 3) -> torch.Tensor:
    """Neighbours and channels depend on each other, as in photographs."""
    noise = torch.randn(number, channels, 34, 34, generator=torch.Generator().manual_seed(1))
    return F.avg_pool2d(noise, 3, stride=1) + 0.3 * noise.mean(1, keepdim=True)[:, :, 1:-1, 1:-1]


def test_submodules_have_the_authors_names() -> None:
    shapes = {name: tuple(tensor.shape) for name, tensor in fresh().state_dict().items()}

    assert len(shapes) == 3 + 3 * 12
    assert {
        "whiten.weight": (24, 3, 2, 2),
        "whiten.bias": (24,),
        "layers.1.conv1.weight": (64, 24, 3, 3),
        "layers.1.norm1.bias": (64,),
        "layers.2.conv2.weight": (256, 256, 3, 3),
        "layers.3.norm2.running_var": (256,),
        "head.weight": (10, 256),
    }.items() <= shapes.items()


def test_whitened_patches_are_uncorrelated_and_of_variance_1() -> None:
    network, images = fresh(), smooth_images()

    network.start_from_images(images, epsilon=0.0)
    white = network.whiten(images).permute(1, 0, 2, 3).flatten(1)  # (filters, patches)

    moments = white[:12] @ white[:12].T / white.shape[1]
    torch.testing.assert_close(moments, torch.eye(12), atol=1e-3, rtol=0)


def test_filters_come_in_pairs_of_opposite_sign_the_strongest_direction_first() -> None:
    network, images = fresh(), smooth_images()
    patches = images.unfold(2, 2, 1).unfold(3, 2, 1).permute(0, 2, 3, 1, 4, 5).reshape(-1, 12)

    network.start_from_images(images)

    filters = network.whiten.weight.flatten(1)
    assert torch.equal(filters[:12], -filters[12:])
    strengths = (patches @ F.normalize(filters[:12]).T).square().mean(0)  # along each direction
    assert (strengths.diff() < 0).all()
    torch.testing.assert_close(filters[:12].norm(dim=1), (strengths + 5e-4).rsqrt(), atol=0, rtol=1e-3)


def test_whitening_does_not_depend_on_memory_order_and_refuses_images_of_other_channels() -> None:
    one, other = fresh(), fresh()

    one.start_from_images(smooth_images())
    other.start_from_images(smooth_images().to(memory_format=torch.channels_last))

    torch.testing.assert_close(one.whiten.weight, other.whiten.weight)
    with pytest.raises(UserError, match=r"3 channel\(s\), these have 1"):
        one.start_from_images(smooth_images(channels=1))


def test_grey_images_have_a_first_layer_of_their_own() -> None:
    network = fresh(channels=1, classes=7)

    network.start_from_images(smooth_images(channels=1))

    assert network.whiten.weight.shape == (8, 1, 2, 2)
    assert network(smooth_images(2, channels=1)).shape == (2, 7)


def test_convolutions_start_by_passing_on_their_inputs() -> None:
    convolution = nn.Conv2d(3, 5, 3, padding=1, bias=False)
    initialise_as_identity(convolution)
    maps = torch.randn(2, 3, 6, 6)

    torch.testing.assert_close(convolution(maps)[:, :3], maps)
    assert convolution(maps)[:, 3:].std() > 0
    network = fresh()
    assert (network.get_submodule("layers.2.conv2").weight[:, :, 1, 1] == torch.eye(256)).all()


def test_only_biases_of_batch_norms_learn() -> None:
    learning = {name for name, parameter in fresh().named_parameters() if parameter.requires_grad}

    assert {name for name in learning if "norm" in name} == {
        f"layers.{group}.norm{number}.bias" for group in (1, 2, 3) for number in (1, 2)
    }
    assert {"whiten.weight", "whiten.bias", "layers.1.conv1.weight", "head.weight"} <= learning


def test_logits_are_a_ninth_of_what_the_head_says() -> None:
    network, seen = fresh(), []
    network.head.register_forward_hook(lambda _, inputs, output: seen.append(output))

    logits = network(smooth_images(4))

    torch.testing.assert_close(logits, seen[0] / 9)


@pytest.mark.parametrize("side", [25, 32, 48])
def test_images_from_25_to_48_pixels_are_taken(side: int) -> None:
    with torch.device("meta"):
        network = models.build("airbench94_cifar", {})

    assert network(torch.zeros(2, 3, side, side, device="meta")).shape == (2, 10)


@pytest.mark.parametrize("height, width", [(24, 32), (32, 49)])
def test_other_images_are_refused_with_the_bounds(height: int, width: int) -> None:
    with pytest.raises(
        UserError, match=rf"at least 25x25 and at most 48x48, these are {height}x{width}\n.*resize: \[32, 32\]"
    ):
        fresh()(torch.zeros(2, 3, height, width))
