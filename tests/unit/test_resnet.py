"""What only the residual networks promise: where they shrink, how wide they are, and that weights fit other libraries.

Counts at default arguments are in tests/zoo_counts.py; everything here has shapes and no contents but where said.
"""

import inspect
from functools import cache, partial
from typing import Any

import pytest
import torch
from torch import nn

from distdl import models
from distdl.errors import UserError
from distdl.models.resnet import Bottleneck, resnet50
from distdl.models.se_resnet import SEResNet


@cache
def on_meta(name: str, **args: object) -> Any:  # Any: the tests reach for submodules by name
    with torch.device("meta"):
        return models.build(name, args)


def strides(name: str, block: str = "layer2.0") -> tuple[int, int]:
    first, second = (on_meta(name).get_submodule(f"{block}.{conv}").stride[0] for conv in ("conv1", "conv2"))
    return first, second


# --- depth and stride ---


@pytest.mark.parametrize("name, blocks", [("resnet101", 33), ("resnet152", 50)])
def test_names_count_three_layers_a_bottleneck_the_stem_and_the_classifier(name: str, blocks: int) -> None:
    assert len(models.blocks(on_meta(name))) == blocks
    assert name == f"resnet{3 * blocks + 2}"


@pytest.mark.parametrize("name", ["resnet101", "resnet152", "wide_resnet50_2", "resnext50_32x4d", "se_resnext50_32x4d"])
def test_v1_5_shrinks_in_the_3x3(name: str) -> None:
    assert strides(name) == (1, 2)


@pytest.mark.parametrize("name", ["resnet101_v1", "resnet152_v1", "se_resnet50", "se_resnet101"])
def test_v1_shrinks_in_the_first_1x1(name: str) -> None:
    assert strides(name) == (2, 1)


# --- width ---


def test_width_multiplies_the_channels_inside_the_bottlenecks_alone() -> None:
    shapes = {name: tuple(value.shape) for name, value in on_meta("resnet101", width=2).state_dict().items()}

    assert shapes["layer3.5.conv1.weight"] == (512, 1024, 1, 1)
    assert shapes["layer3.5.conv2.weight"] == (512, 512, 3, 3)
    assert shapes["layer3.5.conv3.weight"] == (1024, 512, 1, 1)
    assert sum(each.numel() for each in on_meta("resnet101", width=2).parameters()) == 126_886_696  # torchvision's


def test_wide_resnet50_2_is_resnet50_of_width_two() -> None:
    wide, doubled = on_meta("wide_resnet50_2").state_dict(), on_meta("resnet50", width=2).state_dict()

    assert {name: value.shape for name, value in wide.items()} == {name: value.shape for name, value in doubled.items()}


@pytest.mark.parametrize("width", [0, -1.0, "two", True])
def test_an_impossible_width_is_refused_by_its_key(width: object) -> None:
    with pytest.raises(UserError, match=r"model\.args\.width: .* is not a number above 0"):
        models.build("resnet50", {"width": width})


@pytest.mark.parametrize(
    "name, groups, inner",
    [
        ("resnext50_32x4d", 32, 128),
        ("resnext101_32x4d", 32, 128),
        ("resnext101_32x8d", 32, 256),
        ("resnext101_64x4d", 64, 256),
        ("se_resnext101_32x4d", 32, 128),
    ],
)
def test_a_resnexts_name_says_its_groups_and_their_channels_in_layer1(name: str, groups: int, inner: int) -> None:
    network = on_meta(name)

    assert network.layer1[0].conv2.groups == groups
    assert network.layer1[0].conv2.weight.shape == (inner, inner // groups, 3, 3)
    assert network.layer4[0].conv2.weight.shape == (8 * inner, 8 * inner // groups, 3, 3)


# --- squeeze and excitation ---


def test_a_residual_is_weighed_before_the_input_is_added() -> None:
    torch.manual_seed(0)
    block = Bottleneck(64, 16, 1, reduction=16).eval()
    nn.init.constant_(block.se_module.fc2.bias, -1000.0)  # each factor is 0: nothing but the input is left
    maps = torch.rand(2, 64, 4, 4)

    assert torch.equal(block(maps), maps)


@pytest.mark.parametrize("args", [{"reduction": 16}, {"groups": 32, "width_per_group": 4}, {"strided": "conv1"}])
def test_every_sort_of_bottleneck_compiles_whole(args: dict[str, Any]) -> None:
    torch.manual_seed(0)
    block, maps = Bottleneck(64, 64, 2, **args).eval(), torch.rand(2, 64, 8, 8)
    expected = block(maps)

    block.compile(backend="eager", fullgraph=True)

    torch.testing.assert_close(block(maps), expected)


def test_se_resnet_has_the_names_of_timms_legacy_weights() -> None:
    names = on_meta("se_resnet50").state_dict().keys()

    assert {
        "layer0.conv1.weight",
        "layer0.bn1.running_var",
        "layer1.0.se_module.fc1.bias",
        "layer1.0.downsample.1.weight",
        "layer4.2.se_module.fc2.weight",
        "last_linear.bias",
    } <= names
    assert len(names) == 320 + 16 * 4  # ResNet-50's, and four of each block


def test_the_pooling_of_an_se_resnet_pads_nothing_and_hangs_over_the_edge() -> None:
    network = on_meta("se_resnet50")
    maps = torch.arange(64.0).reshape(1, 1, 8, 8)

    assert network.pool0(maps).shape == (1, 1, 4, 4)
    assert network.pool0(maps)[0, 0, 0, 0] == 18  # the window begins at the first pixel, not before it


def test_reduction_divides_the_units_in_the_middle() -> None:
    assert on_meta("se_resnet50", reduction=32).layer4[0].se_module.fc1.weight.shape == (64, 2048, 1, 1)
    with pytest.raises(UserError, match=r"model\.args\.reduction"):
        models.build("se_resnet50", {"reduction": 0})


def test_se_resnet_trains_drops_and_starts_as_the_identity_like_a_resnet() -> None:
    torch.manual_seed(0)
    of_bottlenecks = partial(Bottleneck, strided="conv1", reduction=16)
    network: Any = SEResNet(of_bottlenecks, (1, 1, 1, 2), classes=10, zero_init_residual=True, stochastic_depth=0.2)

    logits = network(torch.randn(2, 3, 32, 32))
    logits.sum().backward()

    assert logits.shape == (2, 10)
    assert all(parameter.grad is not None for parameter in network.parameters())
    assert not any(network.get_submodule(name).bn3.weight.any() for name in network.blocks())
    assert [network.get_submodule(name).drop for name in network.blocks()] == pytest.approx(
        [0.04, 0.08, 0.12, 0.16, 0.2]
    )


def test_se_resnet_says_how_small_an_image_may_be() -> None:
    network = on_meta("se_resnet50").eval()

    assert network(torch.empty(1, 3, 3, 3, device="meta")).shape == (1, 1000)
    with pytest.raises(UserError, match="at least 3x3, these are 2x9"):
        network(torch.empty(1, 3, 2, 9, device="meta"))
    with pytest.raises(UserError, match=r"model\.args\.channels=1"):
        network(torch.empty(1, 1, 32, 32, device="meta"))


# --- arguments that a family's networks have in common ---


def test_a_network_takes_its_own_arguments_and_those_of_its_family() -> None:
    function = inspect.signature(resnet50)

    assert {name: p.default for name, p in function.parameters.items()} == {
        "width": 1.0,
        "classes": 1000,
        "channels": 3,
        "zero_init_residual": False,
        "dropout": 0.0,
        "stochastic_depth": 0.0,
    }


def test_a_misspelt_one_is_answered_before_anything_is_built() -> None:
    with pytest.raises(
        UserError, match=r"model 'resnet152' takes no argument 'zero_init' - did you mean zero_init_res"
    ):
        models.build("resnet152", {"zero_init": True})
    with pytest.raises(UserError, match="'wide_resnet50_2' takes no argument 'width'"):
        models.build("wide_resnet50_2", {"width": 3})


# --- for CIFAR ---


@pytest.mark.parametrize("layers", [32, 44, 56])
def test_a_cifar_resnet_has_as_many_layers_as_its_name_says(layers: int) -> None:
    with_weights = [m for m in on_meta(f"resnet{layers}_cifar").modules() if isinstance(m, nn.Conv2d | nn.Linear)]

    assert len(with_weights) == layers
