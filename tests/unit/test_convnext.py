"""ConvNeXt: torchvision's names, layer norm over channels, layer scale, stochastic depth, the smallest image."""

from typing import Any

import pytest
import torch
from torch import nn

from distdl import models
from distdl.errors import UserError
from distdl.models.convnext import ChannelNorm, ConvNeXt, ConvNeXtBlock


def small(stochastic_depth: float = 0.0, dropout: float = 0.0, channels: int = 3) -> ConvNeXt:
    torch.manual_seed(0)
    return ConvNeXt((8, 12, 16, 20), (1, 1, 2, 1), 5, channels, dropout, stochastic_depth)


def on_meta(name: str) -> Any:
    with torch.device("meta"):
        return models.build(name, {})


def visible(block: ConvNeXtBlock) -> ConvNeXtBlock:
    """Its residual as large as its input, which a layer scale of 1e-6 would hide."""
    nn.init.ones_(block.layer_scale)
    return block


def test_it_has_the_names_and_shapes_of_torchvisions_weights() -> None:
    shapes = {name: tuple(tensor.shape) for name, tensor in on_meta("convnext_tiny").state_dict().items()}

    assert len(shapes) == 182
    assert {
        "features.0.0.weight": (96, 3, 4, 4),
        "features.0.1.bias": (96,),
        "features.1.0.layer_scale": (96, 1, 1),
        "features.1.0.block.0.weight": (96, 1, 7, 7),
        "features.1.0.block.2.weight": (96,),
        "features.1.2.block.3.weight": (384, 96),
        "features.1.2.block.5.weight": (96, 384),
        "features.2.0.weight": (96,),
        "features.2.1.weight": (192, 96, 2, 2),
        "features.7.2.block.5.bias": (768,),
        "classifier.0.weight": (768,),
        "classifier.2.weight": (1000, 768),
    }.items() <= shapes.items()


@pytest.mark.parametrize(
    "name, depths, widths",
    [
        ("convnext_tiny", [3, 3, 9, 3], [96, 192, 384, 768]),
        ("convnext_small", [3, 3, 27, 3], [96, 192, 384, 768]),
        ("convnext_base", [3, 3, 27, 3], [128, 256, 512, 1024]),
    ],
)
def test_stages_have_the_papers_depths_and_widths(name: str, depths: list[int], widths: list[int]) -> None:
    stages = [on_meta(name).features[index] for index in (1, 3, 5, 7)]

    assert [len(stage) for stage in stages] == depths
    assert [len(stage[0].layer_scale) for stage in stages] == widths


def test_channel_norm_gives_each_pixel_mean_0_and_variance_1_over_its_channels() -> None:
    maps = torch.randn(2, 64, 3, 5) * 7 + 3

    normal = ChannelNorm(64)(maps)

    assert normal.shape == maps.shape
    torch.testing.assert_close(normal.mean(1), torch.zeros(2, 3, 5), atol=1e-5, rtol=0)
    torch.testing.assert_close(normal.var(1, unbiased=False), torch.ones(2, 3, 5), atol=1e-4, rtol=0)


def test_maps_stay_channels_last_once_they_are() -> None:
    batch = torch.randn(2, 3, 64, 64).to(memory_format=torch.channels_last)

    maps = small().to(memory_format=torch.channels_last).features(batch)

    assert maps.shape == (2, 20, 2, 2)
    assert maps.is_contiguous(memory_format=torch.channels_last)


def test_blocks_start_as_the_identity_but_for_a_millionth_and_linear_layers_with_a_deviation_of_002() -> None:
    block = ConvNeXtBlock(8)
    maps = torch.randn(2, 8, 6, 6)

    torch.testing.assert_close(block(maps), maps, atol=1e-5, rtol=0)
    assert not torch.equal(visible(block)(maps), maps)
    assert small().features[5][0].block[3].weight.std().item() == pytest.approx(0.02, rel=0.1)
    assert not small().classifier[2].bias.any()


def test_stochastic_depth_rises_to_the_papers_and_leaves_out_or_scales_a_rows_residual() -> None:
    drops = [on_meta("convnext_tiny").get_submodule(name).drop for name in models.blocks(on_meta("convnext_tiny"))]
    assert len(drops) == 18 and drops[-1] == pytest.approx(0.1) and drops[8] == pytest.approx(0.05)

    block = visible(small(stochastic_depth=0.5).features[7][0])
    maps = torch.randn(100, 20, 2, 2)
    dropped, whole = block.train()(maps) - maps, block.eval()(maps) - maps

    left_out = (dropped == 0).flatten(1).all(1)
    torch.testing.assert_close(dropped[~left_out], 2 * whole[~left_out], atol=1e-5, rtol=1e-4)
    assert left_out.float().mean() == pytest.approx(0.5, abs=0.2)


def test_dropout_is_in_front_of_the_output() -> None:
    network, seen = small(dropout=0.4), []
    network.classifier[2].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))

    network.train()(torch.randn(50, 3, 32, 32))
    network.eval()(torch.randn(50, 3, 32, 32))

    dropped, plain = seen
    assert (dropped == 0).float().mean() == pytest.approx(0.4, abs=0.05)
    assert (plain != 0).all()


def test_blocks_are_called_in_their_order() -> None:
    network, called = small(), []
    for name in network.blocks():
        network.get_submodule(name).register_forward_pre_hook(lambda *_, name=name: called.append(name))

    network(torch.ones(2, 3, 32, 32))

    assert (
        called == network.blocks() == ["features.1.0", "features.3.0", "features.5.0", "features.5.1", "features.7.0"]
    )


def test_an_image_below_32_is_refused_with_the_minimum() -> None:
    with pytest.raises(UserError, match=r"data: ConvNeXt takes images of at least 32x32, these are 32x31\n.*resize"):
        small()(torch.zeros(2, 3, 32, 31))
    assert small()(torch.zeros(2, 3, 32, 47)).shape == (2, 5)


def test_another_number_of_channels_is_refused_or_built() -> None:
    with pytest.raises(UserError, match=r"3 channel\(s\), these have 1\n.*model.args.channels=1"):
        small()(torch.zeros(2, 1, 32, 32))
    assert small(channels=1)(torch.zeros(2, 1, 32, 32)).shape == (2, 5)
