"""LeNet-5 as published: table I, sub-sampling, and codes in place of a softmax."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from distdl import models
from distdl.errors import UserError
from distdl.models import zoo

# Table I of the paper, row by row: an X where a map of C3 (a column) sees that map of S2.
TABLE_1 = [
    "X...XXX..XXXX.XX",
    "XX...XXX..XXXX.X",
    "XXX...XXX..X.XXX",
    ".XXX..XXXX..X.XX",
    "..XXX..XXXX.XX.X",
    "...XXX..XXXX.XXX",
]


def sparse(**args: object) -> Any:
    torch.manual_seed(0)
    return models.build("lenet5_sparse", args)


def test_each_map_of_c3_sees_those_of_table_1() -> None:
    network, seen = sparse().double(), []
    network.features.s4.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    maps_of_s2 = torch.randn(1, 6, 14, 14, dtype=torch.float64)
    network.features.s2.register_forward_hook(lambda *_: changed)

    changed = maps_of_s2
    network(torch.zeros(1, 1, 32, 32, dtype=torch.float64))
    for index, row in enumerate(TABLE_1):
        changed = maps_of_s2.clone()
        changed[:, index] += 1
        network(torch.zeros(1, 1, 32, 32, dtype=torch.float64))
        moved = (seen[-1] != seen[0]).any(dim=3).any(dim=2)[0]
        assert "".join("X" if one else "." for one in moved) == row


def test_layers_have_the_papers_numbers_of_parameters() -> None:
    parameters: dict[str, int] = {}
    for layer in zoo.layer_table("lenet5_sparse"):
        name = layer.name.split(".")[1].split("_")[0]
        parameters[name] = parameters.get(name, 0) + layer.parameters

    counted = {name: n for name, n in parameters.items() if n}
    assert counted == {"c1": 156, "s2": 12, "c3": 1_516, "s4": 32, "c5": 48_120, "f6": 10_164}


def test_subsampling_scales_the_sum_of_four_pixels_and_adds_a_bias() -> None:
    layer = sparse().features.s2
    maps = torch.randn(2, 6, 4, 4)

    sums = maps[:, :, ::2, ::2] + maps[:, :, 1::2, ::2] + maps[:, :, ::2, 1::2] + maps[:, :, 1::2, 1::2]

    torch.testing.assert_close(layer(maps), sums * layer.weight.view(6, 1, 1) + layer.bias.view(6, 1, 1))


def test_logits_are_minus_the_squared_distances_to_840_fixed_numbers() -> None:
    network, units = sparse(), []
    network.classifier.squash.register_forward_hook(lambda _, inputs, output: units.append(output))

    logits = network(torch.randn(3, 1, 32, 32))
    codes = dict(network.named_buffers())["classifier.codes"]

    assert codes.shape == (10, 84) and set(codes.flatten().tolist()) == {-1.0, 1.0}
    torch.testing.assert_close(logits, -(torch.cdist(units[0], codes) ** 2))


def test_codes_are_the_same_in_every_network_and_no_two_classes_are_near_each_other() -> None:
    codes = sparse(classes=43).classifier.codes
    torch.manual_seed(1)
    others = models.build("lenet5_sparse", {"classes": 43}).get_buffer("classifier.codes")

    different = (codes[:, None] != codes).sum(dim=2) + 84 * torch.eye(43, dtype=torch.int64)
    assert torch.equal(codes, others)
    assert different.min() >= 20


def test_cross_entropy_of_the_logits_is_the_papers_criterion() -> None:
    logits, label = sparse()(torch.randn(1, 1, 32, 32)), torch.tensor([3])

    distances = -logits[0]
    criterion = distances[3] + torch.log(torch.exp(-distances).sum())

    torch.testing.assert_close(F.cross_entropy(logits, label), criterion, atol=1e-4, rtol=1e-4)


def test_a_units_weights_start_within_2_4_over_its_fan_in() -> None:
    weights = sparse().state_dict()

    for name, fan_in in {"features.c5.weight": 400, "features.c3_four.weight": 100, "features.s4.weight": 4}.items():
        assert 0.5 * 2.4 / fan_in < weights[name].abs().max() <= 2.4 / fan_in


def test_owners_of_28x28_digits_are_told_to_pad_them() -> None:
    with pytest.raises(UserError, match=r"32x32, these are 28x28\n.*\{pad: 2\}"):
        sparse()(torch.zeros(2, 1, 28, 28))
