"""AlexNet in one tower with torchvision's names, and in two as published."""

from collections import OrderedDict
from typing import Any

import pytest
import torch

from distdl import models
from distdl.errors import UserError
from distdl.models import zoo
from distdl.models.alexnet import start_as_published


def on_meta(name: str, **args: object) -> Any:
    with torch.device("meta"):
        return models.build(name, args)


def test_one_tower_has_the_names_and_shapes_of_torchvisions_weights() -> None:
    shapes = {name: tuple(tensor.shape) for name, tensor in on_meta("alexnet").state_dict().items()}

    assert len(shapes) == 16
    assert {
        "features.0.weight": (64, 3, 11, 11),
        "features.3.weight": (192, 64, 5, 5),
        "features.10.bias": (256,),
        "classifier.1.weight": (4096, 9216),
        "classifier.4.weight": (4096, 4096),
        "classifier.6.weight": (1000, 4096),
    }.items() <= shapes.items()


def test_two_towers_meet_in_conv3() -> None:
    rows = {layer.name.split(".")[1]: layer for layer in zoo.layer_table("alexnet_two_tower") if "." in layer.name}

    # A map of 48 channels for each tower of conv1, not of 96.
    assert rows["conv2"].parameters == 256 * (48 * 25 + 1)
    assert rows["conv3"].parameters == 384 * (256 * 9 + 1)
    assert rows["conv4"].parameters == 384 * (192 * 9 + 1)
    assert rows["conv1"].output_shape == (96, 55, 55)
    assert rows["pool1"].output_shape == (96, 27, 27)
    assert rows["pool5"].output_shape == (256, 6, 6)


def test_the_towers_order_is_relu_normalisation_pooling() -> None:
    names = [name for name, _ in on_meta("alexnet_two_tower").features.named_children()]

    assert names[:8] == ["conv1", "relu1", "norm1", "pool1", "conv2", "relu2", "norm2", "pool2"]


def test_two_towers_start_with_the_papers_biases() -> None:
    torch.manual_seed(0)
    names = [name for name, _ in on_meta("alexnet_two_tower").named_parameters() if name.endswith("bias")]
    layers = [name.split(".")[1] for name in names]
    small = torch.nn.Sequential(OrderedDict((layer, torch.nn.Linear(50, 50)) for layer in layers))

    start_as_published(small)

    assert [layer for layer in layers if (small.get_submodule(layer).bias == 1).all()] == (
        ["conv2", "conv4", "conv5", "fc6", "fc7"]
    )
    assert [layer for layer in layers if not small.get_submodule(layer).bias.any()] == ["conv1", "conv3", "fc8"]
    assert small.get_parameter("conv3.weight").std().item() == pytest.approx(0.01, rel=0.05)


@pytest.mark.parametrize("name", ["alexnet", "alexnet_two_tower"])
def test_images_of_63_pixels_are_the_smallest(name: str) -> None:
    network = on_meta(name).eval()

    assert network(torch.zeros(1, 3, 63, 63, device="meta")).shape == (1, 1000)
    with pytest.raises(UserError, match=r"data: .* at least 63x63, these are 62x80\n.*\{resize: 63\}"):
        network(torch.zeros(1, 3, 62, 80, device="meta"))


@pytest.mark.parametrize("name", ["alexnet", "alexnet_two_tower"])
def test_dropout_is_a_half_unless_it_is_set(name: str) -> None:
    def rates(network: Any) -> list[float]:
        return [module.p for module in network.modules() if isinstance(module, torch.nn.Dropout)]

    assert rates(on_meta(name)) == [0.5, 0.5]
    assert rates(on_meta(name, dropout=0.0)) == [0.0, 0.0]
    with pytest.raises(UserError, match=r"model\.args\.dropout"):
        on_meta(name, dropout=1.0)
