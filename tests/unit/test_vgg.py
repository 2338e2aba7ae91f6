"""VGG: torchvision's names, what may be switched, and squeeze and excitation."""

from typing import Any

import pytest
import torch
from torch import nn

from distdl import models
from distdl.errors import UserError
from distdl.models.activations import KEEPING_CHANNELS
from distdl.models.squeeze_excite import SqueezeExcite
from distdl.models.vgg import start_as_torchvision

VGGS = {11: 8, 13: 10, 16: 13, 19: 16}  # convolutions; three linear layers make it so many as the name says


def on_meta(name: str, **args: object) -> Any:
    with torch.device("meta"):
        return models.build(name, args)


@pytest.mark.parametrize("layers, n_convolutions", VGGS.items())
@pytest.mark.parametrize("suffix", ["", "_bn"])
def test_layers_are_as_many_as_the_name_says(layers: int, n_convolutions: int, suffix: str) -> None:
    kinds = [type(module) for module in on_meta(f"vgg{layers}{suffix}").modules()]

    assert kinds.count(nn.Conv2d) == n_convolutions == layers - kinds.count(nn.Linear)
    assert kinds.count(nn.BatchNorm2d) == (n_convolutions if suffix else 0)
    assert kinds.count(nn.MaxPool2d) == 5


def test_names_and_shapes_are_those_of_torchvisions_weights() -> None:
    plain = {name: tuple(tensor.shape) for name, tensor in on_meta("vgg16").state_dict().items()}
    with_norm = {name: tuple(tensor.shape) for name, tensor in on_meta("vgg16_bn").state_dict().items()}

    assert len(plain) == 32 and len(with_norm) == 97
    assert {"features.0.weight": (64, 3, 3, 3), "features.28.bias": (512,)}.items() <= plain.items()
    assert {"features.40.weight": (512, 512, 3, 3), "features.41.running_var": (512,)}.items() <= with_norm.items()
    assert plain["classifier.0.weight"] == with_norm["classifier.0.weight"] == (4096, 25088)
    assert plain["classifier.6.weight"] == (1000, 4096)


@pytest.mark.parametrize("name", ["vgg11", "vgg19_bn", "se_vgg16"])
def test_images_of_32_pixels_are_the_smallest(name: str) -> None:
    network = on_meta(name).eval()

    assert network(torch.zeros(1, 3, 32, 32, device="meta")).shape == (1, 1000)
    with pytest.raises(UserError, match=r"data: .* at least 32x32, these are 40x31\n.*\{resize: 32\}"):
        network(torch.zeros(1, 3, 40, 31, device="meta"))


@pytest.mark.parametrize("name", KEEPING_CHANNELS)
def test_every_activation_that_keeps_the_channels_can_be_had(name: str) -> None:
    network = on_meta("vgg11", activation=name)
    kind = type(KEEPING_CHANNELS[name]())

    assert len([module for module in network.modules() if type(module) is kind]) == 8 + 2
    assert network(torch.zeros(1, 3, 32, 32, device="meta")).shape == (1, 1000)


def test_an_activation_that_changes_the_channels_is_refused() -> None:
    with pytest.raises(UserError, match=r"model\.args\.activation: unknown activation 'maxout'"):
        on_meta("vgg11", activation="maxout")


def test_mirror_padding_repeats_the_border_in_each_convolution() -> None:
    convolution = on_meta("vgg11", padding="mirror").features[3].to_empty(device="cpu")
    nn.init.constant_(convolution.weight, 1 / 9)  # a mean of 3x3 pixels, summed over 64 channels
    nn.init.zeros_(convolution.bias)

    even = torch.ones(1, 64, 4, 4)

    # Zeros would darken the border.
    torch.testing.assert_close(convolution(even), torch.full((1, 128, 4, 4), 64.0), rtol=1e-5, atol=0)
    with pytest.raises(UserError, match=r"(?s)model\.args\.padding: unknown padding 'reflect'.*zeros, mirror"):
        on_meta("vgg11", padding="reflect")


@pytest.mark.parametrize("name", ["vgg16", "vgg16_bn", "se_vgg16"])
def test_dropout_is_a_half_unless_it_is_set(name: str) -> None:
    def rates(network: Any) -> list[float]:
        return [module.p for module in network.modules() if isinstance(module, nn.Dropout)]

    assert rates(on_meta(name)) == [0.5, 0.5]
    assert rates(on_meta(name, dropout=0.0)) == [0.0, 0.0]


def test_squeeze_and_excitation_stands_behind_each_convolutions_activation() -> None:
    layers = list(on_meta("se_vgg16").features)

    kinds = [type(layer) for layer in layers]
    assert kinds.count(SqueezeExcite) == 13
    for index, layer in enumerate(layers):
        if isinstance(layer, nn.Conv2d):
            assert kinds[index + 1 : index + 4] == [nn.BatchNorm2d, nn.ReLU, SqueezeExcite]
            assert layers[index + 3].fc1.in_channels == layer.out_channels


def test_weights_start_as_torchvisions() -> None:
    torch.manual_seed(0)
    convolution, linear = nn.Conv2d(16, 64, 3), nn.Linear(100, 100)

    start_as_torchvision(nn.Sequential(convolution, linear))

    assert convolution.weight.std().item() == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.03)
    assert linear.weight.std().item() == pytest.approx(0.01, rel=0.03)
    assert not convolution.bias.any() and not linear.bias.any()
