"""OverFeat: the tables of its layers, and an answer for each place of the window."""

from typing import Any

import pytest
import torch

from distdl import models
from distdl.errors import UserError
from distdl.models import zoo
from distdl.models.layers import Chain
from distdl.models.overfeat import OverFeat


def on_meta(name: str) -> Any:
    with torch.device("meta"):
        return models.build(name, {})


@pytest.mark.parametrize(
    "name, sides",
    [
        ("overfeat_fast", {"conv1": 56, "conv2": 24, "conv3": 12, "conv4": 12, "conv5": 12, "pool5": 6, "full6": 1}),
        ("overfeat_accurate", {"conv1": 108, "conv2": 30, "conv3": 15, "conv6": 15, "pool6": 5, "full7": 1}),
    ],
)
def test_maps_have_the_sizes_of_the_papers_tables(name: str, sides: dict[str, int]) -> None:
    found = {layer.name.split(".")[1]: layer.output_shape for layer in zoo.layer_table(name)}

    assert {layer: found[layer][1:] for layer in sides} == {layer: (side, side) for layer, side in sides.items()}


@pytest.mark.parametrize("name, side", [("overfeat_fast", 231), ("overfeat_accurate", 221)])
def test_the_window_is_the_smallest_image(name: str, side: int) -> None:
    network = on_meta(name).eval()

    assert network(torch.zeros(1, 3, side, side + 60, device="meta")).shape == (1, 1000)
    with pytest.raises(UserError, match=rf"data: .* at least {side}x{side}, these are {side - 1}x{side}"):
        network(torch.zeros(1, 3, side - 1, side, device="meta"))


def test_a_larger_image_has_the_largest_logit_of_all_windows() -> None:
    torch.manual_seed(0)
    features = Chain(torch.nn.Conv2d(1, 4, 3), torch.nn.ReLU(), torch.nn.MaxPool2d(2))
    network = OverFeat(8, 1, features, Chain(torch.nn.Conv2d(4, 5, 3)))
    images = torch.randn(2, 1, 10, 8)

    windows = torch.stack([network(images[:, :, top : top + 8]) for top in (0, 2)])

    torch.testing.assert_close(network(images), windows.amax(dim=0))
    assert not torch.equal(windows[0], windows[1])
