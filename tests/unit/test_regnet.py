"""RegNetY: widths by the linear rule, groups, squeeze-excitation, torchvision's names."""

from functools import cache
from typing import Any

import pytest
import torch
from torch import nn

from distdl import models
from distdl.models.regnet import Bottleneck, Design, stages


@cache
def on_meta(name: str) -> Any:
    with torch.device("meta"):
        return models.build(name, {})


@pytest.mark.parametrize(
    "name, depths, widths, group_width",
    [  # torchvision's; the paper's figure 16 has 128 and 768 in 800MF, and 168 in 8GF
        ("regnet_y_400mf", [1, 3, 6, 6], [48, 104, 208, 440], 8),
        ("regnet_y_800mf", [1, 3, 8, 2], [64, 144, 320, 784], 16),
        ("regnet_y_1_6gf", [2, 6, 17, 2], [48, 120, 336, 888], 24),
        ("regnet_y_3_2gf", [2, 5, 13, 1], [72, 216, 576, 1512], 24),
        ("regnet_y_8gf", [2, 4, 10, 1], [224, 448, 896, 2016], 56),
    ],
)
def test_stages_are_those_of_the_published_weights(
    name: str, depths: list[int], widths: list[int], group_width: int
) -> None:
    made = list(on_meta(name).trunk_output)

    assert [len(stage) for stage in made] == depths
    for stage, width in zip(made, widths):
        for block in stage:
            assert block.f.b[0].out_channels == width
            assert width // block.f.b[0].groups == group_width


def test_the_linear_rule_by_hand() -> None:
    # 8 + 8 j = 8, 16, 24, 32 are 8 * 2 ** (0, 1, 1.58, 2): rounded powers 0, 1, 2, 2
    assert stages(Design(depth=4, initial_width=8, slope=8, step=2, group_width=8)) == [(8, 1), (16, 1), (32, 2)]
    # groups wider than a stage are narrowed to it; else the width becomes a multiple of theirs
    assert stages(Design(depth=4, initial_width=8, slope=8, step=2, group_width=12)) == [(8, 1), (24, 1), (36, 2)]


def test_it_has_the_names_and_shapes_of_torchvisions_weights() -> None:
    shapes = {name: tuple(tensor.shape) for name, tensor in on_meta("regnet_y_400mf").state_dict().items()}

    assert len(shapes) == 6 + 16 * (18 + 4) + 4 * 6 + 2
    assert {
        "stem.0.weight": (32, 3, 3, 3),
        "stem.1.running_mean": (32,),
        "trunk_output.block1.block1-0.proj.0.weight": (48, 32, 1, 1),
        "trunk_output.block1.block1-0.proj.1.weight": (48,),
        "trunk_output.block1.block1-0.f.a.0.weight": (48, 32, 1, 1),
        "trunk_output.block1.block1-0.f.b.0.weight": (48, 8, 3, 3),
        "trunk_output.block1.block1-0.f.se.fc1.weight": (8, 48, 1, 1),  # a quarter of the 32 that enter
        "trunk_output.block2.block2-1.f.se.fc1.weight": (26, 104, 1, 1),
        "trunk_output.block4.block4-5.f.c.1.bias": (440,),
        "fc.weight": (1000, 440),
    }.items() <= shapes.items()


def test_only_a_stages_first_block_projects_and_shrinks() -> None:
    blocks = {name: on_meta("regnet_y_800mf").get_submodule(name) for name in models.blocks(on_meta("regnet_y_800mf"))}

    firsts = {name for name, block in blocks.items() if block.proj is not None}

    assert firsts == {name for name, block in blocks.items() if block.f.b[0].stride == (2, 2)}
    assert firsts == {name for name in blocks if name.endswith("-0")} and len(firsts) == 4


def test_a_block_adds_its_input_and_leaves_out_a_rows_residual_or_scales_it() -> None:
    torch.manual_seed(0)
    block, maps = Bottleneck(16, 16, 1, 2).eval(), torch.rand(100, 16, 4, 4)  # not negative: the last ReLU leaves them
    residual = block.f(maps)

    block.drop, block.training = 0.5, True  # and its batch norms as in evaluation
    outputs = block(maps)

    left_out = (outputs == maps).flatten(1).all(1)
    torch.testing.assert_close(outputs[~left_out], torch.relu(maps + 2 * residual)[~left_out])
    assert left_out.float().mean() == pytest.approx(0.5, abs=0.2)


def test_dropout_and_the_start_of_the_classifier() -> None:
    torch.manual_seed(0)
    network: Any = models.build("regnet_y_400mf", {"classes": 100, "dropout": 0.4})
    seen: list[torch.Tensor] = []
    network.fc.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))

    for module in network.modules():
        module.training = not isinstance(module, nn.BatchNorm2d)
    network(torch.randn(8, 3, 32, 32))
    network.eval()(torch.randn(8, 3, 32, 32))

    dropped, plain = [(units == 0).float().mean() for units in seen]
    assert dropped - plain * 0.6 == pytest.approx(0.4, abs=0.05)  # ReLU leaves zeros of its own
    assert network.fc.weight.std().item() == pytest.approx(0.01, rel=0.05) and not network.fc.bias.any()
