"""What only the Inception networks promise: their modules' channels, sizes and strides, names of published weights,
auxiliary heads, residuals, squeeze-and-excitation. Mostly on the meta device, where tensors have shapes alone."""

from functools import cache
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from distdl import models
from distdl.errors import UserError
from distdl.models import bn_inception, inception_resnet, inception_v3
from distdl.models.inception_parts import Branches, Convolution, average_around
from distdl.models.squeeze_excite import SqueezeExcite

SMALLEST = {
    "googlenet": 15,
    "googlenet_paper": 31,
    "bn_inception": 7,
    "se_bn_inception": 7,
    "inception_v3": 75,
    "inception_v4": 75,
    "inception_resnet_v1": 75,
    "se_inception_resnet_v2": 75,
}


@cache
def on_meta(name: str, **args: object) -> Any:
    with torch.device("meta"):
        return models.build(name, args).eval()


def empty(side: int, channels: int = 3, batch: int = 1) -> torch.Tensor:
    return torch.empty(batch, channels, side, side, device="meta")


def shapes_of_blocks(name: str, side: int) -> dict[str, tuple[int, ...]]:
    """What each block gives for an image of that size: (channels, height, width)."""
    network, shapes = on_meta(name), {}
    hooks = [
        network.get_submodule(block).register_forward_hook(
            lambda _, inputs, output, block=block: shapes.update({block: tuple(output.shape[1:])})
        )
        for block in models.blocks(network)
    ]
    network(empty(side))
    for hook in hooks:
        hook.remove()
    return shapes


# --- all of them ---


@pytest.mark.parametrize("name", SMALLEST)
def test_the_smallest_image_passes_and_a_smaller_one_is_refused(name: str) -> None:
    least = SMALLEST[name]

    assert on_meta(name)(empty(least)).shape == (1, 1000)
    with pytest.raises(UserError, match=rf"images of at least {least}x{least}, these are {least - 1}x{least - 1}"):
        on_meta(name)(empty(least - 1))


@pytest.mark.parametrize("name", ["googlenet_paper", "bn_inception", "inception_v3", "inception_v4"])
def test_grey_images_are_refused_by_the_argument_that_fits_them(name: str) -> None:
    with pytest.raises(UserError, match=r"3 channel\(s\), these have 1\n.*model.args.channels=1"):
        on_meta(name)(empty(80, channels=1))


@pytest.mark.parametrize("name", ["googlenet", "inception_v3", "inception_v4", "inception_resnet_v2"])
def test_batch_norms_have_the_epsilon_of_the_published_weights(name: str) -> None:
    assert {module.eps for module in on_meta(name).modules() if isinstance(module, nn.BatchNorm2d)} == {0.001}


def test_branches_stand_side_by_side_in_their_order() -> None:
    branches = Branches(twice=nn.Upsample(scale_factor=1), pooled=nn.MaxPool2d(3, stride=1, padding=1))
    maps = torch.randn(2, 3, 4, 4)

    assert torch.equal(branches(maps), torch.cat([maps, F.max_pool2d(maps, 3, 1, 1)], 1))


def test_a_valid_convolution_uses_up_its_edge_and_the_same_one_keeps_the_size() -> None:
    maps = torch.randn(2, 3, 9, 9)

    assert Convolution(3, 4, (1, 7))(maps).shape == (2, 4, 9, 9)
    assert Convolution(3, 4, 3, padding="valid")(maps).shape == (2, 4, 7, 7)
    assert Convolution(3, 4, 3, stride=2, padding="valid")(maps).shape == (2, 4, 4, 4)


def test_an_average_at_a_corner_is_of_the_four_pixels_that_are_there() -> None:
    maps = torch.arange(16.0).view(1, 1, 4, 4)

    assert average_around()(maps)[0, 0, 0, 0] == (0 + 1 + 4 + 5) / 4


# --- GoogLeNet ---


@pytest.mark.parametrize("name, prefix", [("googlenet", "inception"), ("googlenet_paper", "inception_")])
def test_googlenet_has_the_shapes_of_the_papers_table_1(name: str, prefix: str) -> None:
    assert shapes_of_blocks(name, 224) == {
        f"{prefix}3a": (256, 28, 28),
        f"{prefix}3b": (480, 28, 28),
        f"{prefix}4a": (512, 14, 14),
        f"{prefix}4b": (512, 14, 14),
        f"{prefix}4c": (512, 14, 14),
        f"{prefix}4d": (528, 14, 14),
        f"{prefix}4e": (832, 14, 14),
        f"{prefix}5a": (832, 7, 7),
        f"{prefix}5b": (1024, 7, 7),
    }


def test_googlenet_has_5x5_convolutions_as_published_and_3x3_in_their_place_as_in_torchvision() -> None:
    assert on_meta("googlenet_paper").get_submodule("inception_3a.conv_5x5").weight.shape == (32, 16, 5, 5)
    assert on_meta("googlenet").get_submodule("inception3a.branch3.1.conv").weight.shape == (32, 16, 3, 3)


HEAD_OF_PAPER = 128 + (2048 + 1) * 1024 + (1024 + 1) * 1000  # but for the weights of its 1x1 convolution


@pytest.mark.parametrize(
    "name, parameters",
    [
        ("googlenet", 13_004_888),
        ("googlenet_paper", 6_998_552 + 2 * HEAD_OF_PAPER + (512 + 528) * 128),
        ("inception_v3", 27_161_264),
    ],
)
def test_auxiliary_heads_have_the_published_number_of_parameters(name: str, parameters: int) -> None:
    assert sum(parameter.numel() for parameter in on_meta(name, auxiliary=True).parameters()) == parameters


@pytest.mark.parametrize(
    "name, side, n_heads", [("googlenet", 32, 2), ("googlenet_paper", 224, 2), ("inception_v3", 299, 1)]
)
def test_forward_with_auxiliary_gives_the_networks_logits_and_those_of_each_head(
    name: str, side: int, n_heads: int
) -> None:
    network = on_meta(name, auxiliary=True)

    assert [tuple(logits.shape) for logits in network.forward_with_auxiliary(empty(side))] == [(1, 1000)] * (
        1 + n_heads
    )
    assert network.eval()(empty(side)).shape == (1, 1000)
    assert network.train()(empty(side, batch=2)).shape == (2, 1 + n_heads, 1000)
    assert models.blocks(network) == models.blocks(on_meta(name)), "forward does not call the heads"


def test_auxiliary_logits_reach_the_layers_below_their_head_and_no_others() -> None:
    torch.manual_seed(0)
    network: Any = models.build("googlenet", {"classes": 5, "auxiliary": True})

    main, first, second = network.forward_with_auxiliary(torch.randn(2, 3, 32, 32))
    first.square().sum().backward()

    assert network.aux1.fc2.weight.grad.any() and network.inception4a.branch1.conv.weight.grad.any()
    assert network.inception4b.branch1.conv.weight.grad is None and network.aux2.fc2.weight.grad is None
    assert main.shape == second.shape == (2, 5)


@pytest.mark.parametrize("name", ["googlenet", "googlenet_paper", "inception_v3"])
def test_a_network_without_its_heads_says_how_to_get_them(name: str) -> None:
    with pytest.raises(UserError, match=r"without its auxiliary heads\n.*auxiliary=true"):
        on_meta(name).forward_with_auxiliary(empty(224))


@pytest.mark.parametrize(
    "name, side, sizes", [("googlenet_paper", 222, "223x223 to 270x270"), ("inception_v3", 298, "at least 299x299")]
)
def test_auxiliary_heads_of_one_size_refuse_images_of_another(name: str, side: int, sizes: str) -> None:
    with pytest.raises(UserError, match=sizes):
        on_meta(name, auxiliary=True).forward_with_auxiliary(empty(side))


# --- BN-Inception ---


def test_bn_inception_has_the_shapes_of_the_papers_table() -> None:
    assert shapes_of_blocks("bn_inception", 224) == {
        "inception_3a": (256, 28, 28),
        "inception_3b": (320, 28, 28),
        "inception_3c": (576, 14, 14),
        "inception_4a": (576, 14, 14),
        "inception_4b": (576, 14, 14),
        "inception_4c": (608, 14, 14),
        "inception_4d": (608, 14, 14),
        "inception_4e": (1056, 7, 7),
        "inception_5a": (1024, 7, 7),
        "inception_5b": (1024, 7, 7),
    }


def test_bn_inception_takes_sizes_that_do_not_halve_evenly() -> None:
    assert shapes_of_blocks("bn_inception", 299)["inception_3c"] == (576, 19, 19)


@pytest.mark.parametrize("side", [8, 9])
def test_pooling_that_halves_gives_as_many_pixels_as_a_strided_convolution(side: int) -> None:
    maps = torch.rand(1, 2, side, side)

    pooled = bn_inception._halve(maps)

    assert pooled.shape[2:] == F.conv2d(maps, torch.ones(1, 2, 3, 3), stride=2, padding=1).shape[2:]
    assert pooled[0, 0, 1, 1] == maps[0, 0, 2:5, 2:5].max()
    assert pooled[0, 1, -1, -1] == maps[0, 1, 2 * (pooled.shape[2] - 1) :, 2 * (pooled.shape[3] - 1) :].max()


def test_only_the_last_module_of_bn_inception_pools_the_maximum() -> None:
    network = on_meta("bn_inception")

    assert [name for name in models.blocks(network) if network.get_submodule(name).pools_maximum] == ["inception_5b"]


def test_se_bn_inception_has_two_layers_more_a_module_and_no_biases_in_front_of_batch_norms() -> None:
    plain, with_se = (set(on_meta(name).state_dict()) for name in ("bn_inception", "se_bn_inception"))

    assert {name.split(".", 1)[1] for name in with_se - plain} == {
        f"se.{layer}.{kind}" for layer in ("fc1", "fc2") for kind in ("weight", "bias")
    }
    assert all(name.endswith(".bias") for name in plain - with_se) and len(plain - with_se) == 69


# --- squeeze-and-excitation ---


def test_squeeze_excite_scales_each_channel_by_what_the_channels_means_say() -> None:
    torch.manual_seed(0)
    layer, maps = SqueezeExcite(32, reduction=4), torch.randn(2, 32, 5, 5)
    weights = {name: tensor.flatten(1) if tensor.ndim > 1 else tensor for name, tensor in layer.state_dict().items()}

    means = maps.mean((2, 3))
    hidden = (means @ weights["fc1.weight"].T + weights["fc1.bias"]).relu()
    scales = (hidden @ weights["fc2.weight"].T + weights["fc2.bias"]).sigmoid()

    assert weights["fc1.weight"].shape == (8, 32)
    torch.testing.assert_close(layer(maps), maps * scales[:, :, None, None])


# --- Inception-v3 ---


def test_inception_v3_has_the_shapes_of_the_papers_table_1_and_torchvisions_names() -> None:
    assert shapes_of_blocks("inception_v3", 299) == {
        "Mixed_5b": (256, 35, 35),
        "Mixed_5c": (288, 35, 35),
        "Mixed_5d": (288, 35, 35),
        "Mixed_6a": (768, 17, 17),
        "Mixed_6b": (768, 17, 17),
        "Mixed_6c": (768, 17, 17),
        "Mixed_6d": (768, 17, 17),
        "Mixed_6e": (768, 17, 17),
        "Mixed_7a": (1280, 8, 8),
        "Mixed_7b": (2048, 8, 8),
        "Mixed_7c": (2048, 8, 8),
    }
    assert on_meta("inception_v3").state_dict()["Mixed_6b.branch7x7dbl_2.conv.weight"].shape == (128, 128, 7, 1)


def test_inception_v3_counts_the_zeros_around_the_map_in_its_averages() -> None:
    module, seen = inception_v3.Mixed35(192, of_pool=32), []
    module.branch_pool.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))

    module(torch.ones(1, 192, 5, 5))

    assert seen[0][0, 0, 0, 0] == pytest.approx(4 / 9)


# --- Inception-v4 and Inception-ResNet ---


def test_inception_v4_has_the_shapes_of_the_papers_figure_9() -> None:
    shapes = list(shapes_of_blocks("inception_v4", 299).values())

    stem = [(160, 73, 73), (192, 71, 71), (384, 35, 35)]
    assert shapes == stem + [(384, 35, 35)] * 4 + [(1024, 17, 17)] * 8 + [(1536, 8, 8)] * 4


@pytest.mark.parametrize(
    "name, depths, channels, n_other",
    [
        ("inception_resnet_v1", (5, 10, 5), (256, 896, 1792), 2),
        ("inception_resnet_v2", (10, 20, 10), (320, 1088, 2080), 3),
    ],
)
def test_inception_resnets_have_their_numbers_of_blocks(
    name: str, depths: tuple[int, ...], channels: tuple[int, ...], n_other: int
) -> None:
    network = on_meta(name)
    residual = [m.conv2d.out_channels for m in network.modules() if isinstance(m, inception_resnet.ResidualBlock)]

    assert residual == [width for width, depth in zip(channels, depths) for _ in range(depth)]
    assert len(models.blocks(network)) == sum(depths) + n_other


def small_block(**args: Any) -> inception_resnet.ResidualBlock:
    torch.manual_seed(0)
    return inception_resnet.ResidualBlock(8, 8, 0.1, {"branch0": nn.Identity()}, **args)


def test_a_residual_is_scaled_before_it_is_added() -> None:
    maps = torch.randn(2, 8, 3, 3)

    sums = maps + 0.1 * small_block().conv2d(maps)

    torch.testing.assert_close(small_block()(maps), sums.relu())
    torch.testing.assert_close(small_block(last=True)(maps), sums)


def test_squeeze_excitation_weighs_the_residual_and_not_the_shortcut() -> None:
    block = inception_resnet.ResidualBlock(16, 16, 0.1, {"branch0": nn.Identity()}, squeeze_excite=True, last=True)
    nn.init.zeros_(block.se.fc2.weight)  # type: ignore[union-attr]
    nn.init.constant_(block.se.fc2.bias, -100)  # type: ignore[union-attr, arg-type]  # a weight of 0
    maps = torch.randn(2, 16, 3, 3)

    torch.testing.assert_close(block(maps), maps)


def test_stochastic_depth_leaves_out_a_rows_residual_or_scales_it() -> None:
    block, maps = small_block(last=True), torch.randn(100, 8, 3, 3)
    block.drop = 0.5

    outputs = block(maps)

    left_out = (outputs == maps).flatten(1).all(1)
    torch.testing.assert_close(outputs[~left_out], (maps + 0.1 * block.conv2d(maps) / 0.5)[~left_out])
    assert left_out.float().mean() == pytest.approx(0.5, abs=0.2)


def test_stochastic_depth_grows_linearly_up_to_its_argument() -> None:
    with torch.device("meta"):
        network = models.build("inception_resnet_v1", {"stochastic_depth": 0.4})
    drops = [module.drop for module in network.modules() if isinstance(module, inception_resnet.ResidualBlock)]

    assert drops == pytest.approx([0.02 * (number + 1) for number in range(20)])


# --- compiling ---


def test_blocks_compile_in_one_piece_and_compute_the_same() -> None:
    torch.manual_seed(0)
    channels = bn_inception.Channels(16, 0, (4, 4), (4, 4), 0)
    blocks = [
        bn_inception.Inception(channels, bias=False, squeeze_excite=True, pools_maximum=False),
        inception_resnet.ResidualBlock(16, 16, 0.1, {"branch0": nn.Identity()}),
        Branches(branch0=Convolution(16, 4, (1, 7)), branch1=nn.Sequential(average_around(), Convolution(16, 4, 1))),
    ]
    maps = torch.rand(2, 16, 5, 5)
    for block in blocks:
        expected = block.eval()(maps)
        block.compile(backend="eager", fullgraph=True)
        torch.testing.assert_close(block(maps), expected)
