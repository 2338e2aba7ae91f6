"""EfficientNet and MobileNetV3: inverted residuals, squeeze-excitation, the papers' tables, torchvision's names."""

from functools import cache
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from distdl import models
from distdl.errors import UserError
from distdl.models.mobile import InvertedResidual, conv_norm, divisible
from distdl.models.squeeze_excite import SqueezeExcite

NAMES = ["efficientnet_b0", "mobilenet_v3_large", "mobilenet_v3_small"]
every_mobile_network = pytest.mark.parametrize("name", NAMES)


@cache
def on_meta(name: str, **args: Any) -> Any:
    with torch.device("meta"):
        return models.build(name, args)


def shapes_of(name: str) -> dict[str, tuple[int, ...]]:
    return {key: tuple(tensor.shape) for key, tensor in on_meta(name).state_dict().items()}


# --- what they are made of ---


@pytest.mark.parametrize(
    "channels, expected", [(3, 8), (8, 8), (11.9, 16), (12, 16), (19, 24), (36, 40), (42.0, 40), (90, 88), (12.5, 16)]
)
def test_channels_are_rounded_to_multiples_of_8_but_no_more_than_a_tenth_down(channels: float, expected: int) -> None:
    assert divisible(channels) == expected


def test_conv_norm_keeps_the_size_and_names_convolution_and_norm_by_number() -> None:
    layers = conv_norm(4, 6, 5, stride=2, groups=2, activation=nn.SiLU)

    assert layers(torch.zeros(2, 4, 9, 8)).shape == (2, 6, 5, 4)
    assert [type(layer) for layer in layers] == [nn.Conv2d, nn.BatchNorm2d, nn.SiLU]
    assert len(conv_norm(4, 6)) == 2


def test_squeeze_excitation_scales_each_channel_by_what_all_averages_say() -> None:
    torch.manual_seed(0)
    layer, maps = SqueezeExcite(8, squeezed=3, activation=F.silu, gate=F.hardsigmoid), torch.randn(2, 8, 4, 5)

    averages = maps.mean((2, 3))
    hidden = F.silu(F.linear(averages, layer.fc1.weight[:, :, 0, 0], layer.fc1.bias))
    scales = F.hardsigmoid(F.linear(hidden, layer.fc2.weight[:, :, 0, 0], layer.fc2.bias))

    torch.testing.assert_close(layer(maps), maps * scales[:, :, None, None])


def test_squeeze_excitation_is_by_16_with_relu_and_sigmoid_unless_said() -> None:
    layer = SqueezeExcite(64)
    nn.init.zeros_(layer.fc2.weight)
    nn.init.zeros_(layer.fc2.bias)
    maps = torch.randn(2, 64, 2, 2)

    assert layer.fc1.weight.shape == (4, 64, 1, 1) and SqueezeExcite(64, 8).fc1.out_channels == 8
    torch.testing.assert_close(layer(maps), maps / 2)


@pytest.mark.parametrize(
    "inputs, outputs, stride, adds", [(8, 8, 1, True), (8, 16, 1, False), (8, 8, 2, False), (8, 16, 2, False)]
)
def test_a_block_adds_its_input_where_the_shape_stays(inputs: int, outputs: int, stride: int, adds: bool) -> None:
    block = InvertedResidual(inputs, 32, outputs, 3, stride, attention=None, activation=nn.ReLU).eval()
    nn.init.zeros_(block.block[-1][1].weight)  # the residual is 0
    maps = torch.randn(2, inputs, 6, 6)

    output = block(maps)

    assert output.shape == (2, outputs, 6 // stride, 6 // stride)
    assert torch.equal(output, maps) if adds else not output.any()


def test_a_block_leaves_out_a_rows_residual_or_scales_it() -> None:
    torch.manual_seed(0)
    block = InvertedResidual(8, 32, 8, 3, 1, attention=SqueezeExcite(32, 4), activation=nn.SiLU).eval()
    maps = torch.randn(200, 8, 4, 4)
    whole = block(maps) - maps

    block.drop, block.training = 0.25, True  # and its batch norms as in evaluation
    dropped = block(maps) - maps

    left_out = (dropped == 0).flatten(1).all(1)
    torch.testing.assert_close(dropped[~left_out], whole[~left_out] / 0.75, atol=1e-5, rtol=1e-4)
    assert left_out.float().mean() == pytest.approx(0.25, abs=0.1)


def test_a_blocks_last_convolution_is_linear_and_it_does_not_change_its_input() -> None:
    block = InvertedResidual(8, 32, 8, 3, 1, attention=None, activation=nn.ReLU)
    maps = torch.randn(4, 8, 5, 5)
    before = maps.clone()

    outputs = block(maps)

    assert [type(layer) for layer in block.block[-1]] == [nn.Conv2d, nn.BatchNorm2d]
    assert (outputs - maps).min() < 0  # a ReLU would let nothing through
    assert torch.equal(maps, before)


# --- both families ---


@every_mobile_network
def test_dropout_is_that_of_the_library_and_comes_before_the_output(name: str) -> None:
    assert on_meta(name).classifier[-2].p == 0.2
    assert on_meta(name, dropout=0.5).classifier[-2].p == 0.5


@every_mobile_network
def test_stochastic_depth_rises_up_to_what_is_asked(name: str) -> None:
    drops = [on_meta(name, stochastic_depth=0.4).get_submodule(block).drop for block in models.blocks(on_meta(name))]

    assert drops == sorted(drops)
    assert drops[-1] == pytest.approx(0.4) and drops[0] == pytest.approx(0.4 / len(drops))


@every_mobile_network
def test_grey_images_are_refused_by_their_channels(name: str) -> None:
    with pytest.raises(UserError, match=r"3 channel\(s\), these have 1\n.*model.args.channels=1"):
        on_meta(name)(torch.zeros(2, 1, 32, 32, device="meta"))


# --- EfficientNet ---


def test_efficientnet_has_the_names_and_shapes_of_torchvisions_weights() -> None:
    shapes = shapes_of("efficientnet_b0")

    assert len(shapes) == 360
    assert {
        "features.0.0.weight": (32, 3, 3, 3),
        "features.1.0.block.0.0.weight": (32, 1, 3, 3),  # no expansion
        "features.1.0.block.1.fc1.weight": (8, 32, 1, 1),
        "features.1.0.block.2.0.weight": (16, 32, 1, 1),
        "features.2.0.block.0.0.weight": (96, 16, 1, 1),
        "features.2.0.block.2.fc1.weight": (4, 96, 1, 1),  # a quarter of the 16 that enter
        "features.6.3.block.1.0.weight": (1152, 1, 5, 5),
        "features.8.1.running_var": (1280,),
        "classifier.1.weight": (1000, 1280),
    }.items() <= shapes.items()


def test_efficientnet_shrinks_by_32_in_the_stem_and_the_first_blocks_of_four_stages() -> None:
    maps = torch.zeros(2, 3, 224, 224, device="meta")
    sides = []
    for stage in on_meta("efficientnet_b0").features:
        maps = stage(maps)
        sides.append(maps.shape[-1])

    assert sides == [112, 112, 56, 28, 14, 14, 7, 7, 7]


def test_efficientnet_drops_a_fifth_of_the_last_residuals_unless_said() -> None:
    assert on_meta("efficientnet_b0").get_submodule("features.7.0").drop == pytest.approx(0.2)


def test_efficientnet_starts_as_torchvisions_does() -> None:
    torch.manual_seed(0)
    weights = models.build("efficientnet_b0", {"classes": 100}).state_dict()

    assert weights["features.8.0.weight"].std() == pytest.approx((2 / 1280) ** 0.5, rel=0.02)
    assert weights["classifier.1.weight"].abs().max() == pytest.approx(0.1, rel=0.01)
    assert not weights["classifier.1.bias"].any() and not weights["features.6.0.block.2.fc1.bias"].any()


# --- MobileNetV3 ---


def test_mobilenet_v3_has_the_names_and_shapes_of_torchvisions_weights() -> None:
    large, small = shapes_of("mobilenet_v3_large"), shapes_of("mobilenet_v3_small")

    assert len(large) == 312 and len(small) == 244
    assert {
        "features.0.0.weight": (16, 3, 3, 3),
        "features.1.block.0.0.weight": (16, 1, 3, 3),
        "features.4.block.2.fc1.weight": (24, 72, 1, 1),  # 18, to a multiple of 8, is not below 16.2
        "features.15.block.3.0.weight": (160, 960, 1, 1),
        "features.16.0.weight": (960, 160, 1, 1),
        "classifier.0.weight": (1280, 960),
        "classifier.3.weight": (1000, 1280),
    }.items() <= large.items()
    assert {
        "features.1.block.1.fc1.weight": (8, 16, 1, 1),
        "features.11.block.1.0.weight": (576, 1, 5, 5),
        "features.12.0.weight": (576, 96, 1, 1),
        "classifier.0.weight": (1024, 576),
    }.items() <= small.items()


@pytest.mark.parametrize("name, first", [("mobilenet_v3_large", 7), ("mobilenet_v3_small", 4)])
def test_mobilenet_v3_is_relu_before_and_hard_swish_from_the_row_where_the_table_says(name: str, first: int) -> None:
    activations = [block.block[0][2] for block in on_meta(name).features[1:-1]]

    assert [isinstance(activation, nn.Hardswish) for activation in activations] == [
        number >= first for number in range(1, len(activations) + 1)
    ]


@pytest.mark.parametrize(
    "name, with_attention",
    [("mobilenet_v3_large", {4, 5, 6, 11, 12, 13, 14, 15}), ("mobilenet_v3_small", {1, 4, 5, 6, 7, 8, 9, 10, 11})],
)
def test_mobilenet_v3_squeezes_in_the_rows_where_the_table_says(name: str, with_attention: set[int]) -> None:
    blocks = enumerate(on_meta(name).features[1:-1], start=1)

    assert {
        number for number, block in blocks if any(isinstance(layer, SqueezeExcite) for layer in block.block)
    } == with_attention


def test_mobilenet_v3_batch_norms_are_those_of_the_published_weights() -> None:
    norms = [module for module in on_meta("mobilenet_v3_small").modules() if isinstance(module, nn.BatchNorm2d)]

    assert {(norm.eps, norm.momentum) for norm in norms} == {(0.001, 0.01)}


@pytest.mark.parametrize("width, parameters", [(0.5, 917_264), (0.75, 1_653_920)])
def test_width_scales_all_channels(width: float, parameters: int) -> None:  # counts: torchvision's width_mult
    network = on_meta("mobilenet_v3_small", width=width)

    assert sum(parameter.numel() for parameter in network.parameters()) == parameters
    assert network(torch.zeros(2, 3, 64, 64, device="meta")).shape == (2, 1000)


@pytest.mark.parametrize("width", [0, -1.0, "half", True, float("nan")])
def test_an_impossible_width_is_refused_by_its_key(width: object) -> None:
    with pytest.raises(UserError, match=r"model\.args\.width: .* is not a number above 0"):
        models.build("mobilenet_v3_large", {"width": width})
