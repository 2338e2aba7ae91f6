"""RegNetY (Radosavovic, Kosaraju, Girshick, He and Dollar 2020, "Designing network design spaces"): bottlenecks with
grouped 3x3 convolutions and squeeze-excitation, whose widths and depths follow from four numbers by a linear rule.

Submodules have torchvision's names (stem.0, trunk_output.block1.block1-0.f.a.0, ..., fc) and widths, so that published
weights load as they are. Torchvision rounds a stage's width to groups in its own way, which makes two of the networks a
little wider than the paper's (and timm's): RegNetY-800MF 144, 320, 784 for 128, 320, 768, and RegNetY-8GF 224 for 168.
The stem and each stage shrink the image by 2.
"""

import math
from collections import Counter
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from distdl.models.layers import (
    check_channels,
    check_probabilities,
    check_sizes,
    drop_residual,
    drop_units,
    initialise_relu_convolutions,
    set_stochastic_depth,
)
from distdl.models.mobile import conv_norm, divisible
from distdl.models.squeeze_excite import SqueezeExcite

STEM = 32


class Design(NamedTuple):
    """A column of the paper's figure 16: d, w_0, w_a, w_m and g; b is 1."""

    depth: int
    initial_width: int
    slope: float
    step: float
    group_width: int


class Stage(NamedTuple):
    width: int
    depth: int


def regnet_y_400mf(
    *, classes: int = 1000, channels: int = 3, dropout: float = 0.0, stochastic_depth: float = 0.0
) -> nn.Module:
    """RegNetY-400MF: 4,344,144 parameters."""
    return RegNet(Design(16, 48, 27.89, 2.09, 8), classes, channels, dropout, stochastic_depth)


def regnet_y_800mf(
    *, classes: int = 1000, channels: int = 3, dropout: float = 0.0, stochastic_depth: float = 0.0
) -> nn.Module:
    """RegNetY-800MF: 6,432,512 parameters (the paper's has 6.3 million)."""
    return RegNet(Design(14, 56, 38.84, 2.4, 16), classes, channels, dropout, stochastic_depth)


def regnet_y_1_6gf(
    *, classes: int = 1000, channels: int = 3, dropout: float = 0.0, stochastic_depth: float = 0.0
) -> nn.Module:
    """RegNetY-1.6GF: 11,202,430 parameters."""
    return RegNet(Design(27, 48, 20.71, 2.65, 24), classes, channels, dropout, stochastic_depth)


def regnet_y_3_2gf(
    *, classes: int = 1000, channels: int = 3, dropout: float = 0.0, stochastic_depth: float = 0.0
) -> nn.Module:
    """RegNetY-3.2GF: 19,436,338 parameters."""
    return RegNet(Design(21, 80, 42.63, 2.66, 24), classes, channels, dropout, stochastic_depth)


def regnet_y_8gf(
    *, classes: int = 1000, channels: int = 3, dropout: float = 0.0, stochastic_depth: float = 0.0
) -> nn.Module:
    """RegNetY-8GF: 39,381,472 parameters (the paper's has 39.2 million)."""
    return RegNet(Design(17, 192, 76.82, 2.19, 56), classes, channels, dropout, stochastic_depth)


def stages(design: Design) -> list[Stage]:
    """Blocks' widths rise linearly, are rounded to powers of `step` and to multiples of 8 (section 3.3, equations 2 to
    4), and blocks of one width are a stage. Each stage's width is then made a multiple of the groups' width."""
    widths = []
    for index in range(design.depth):
        linear = design.initial_width + design.slope * index
        power = round(math.log(linear / design.initial_width, design.step))
        widths.append(round(design.initial_width * design.step**power / 8) * 8)
    return [
        Stage(divisible(width, min(design.group_width, width)), depth)
        for width, depth in Counter(widths).items()  # in the order of the blocks
    ]


class RegNet(nn.Module):
    def __init__(self, design: Design, classes: int, channels: int, dropout: float, stochastic_depth: float) -> None:
        check_sizes(classes=classes, channels=channels)
        check_probabilities(dropout=dropout, stochastic_depth=stochastic_depth)
        super().__init__()
        self.channels = channels
        self.dropout = dropout
        self.stem = conv_norm(channels, STEM, 3, stride=2, activation=nn.ReLU)
        self.trunk_output = nn.Sequential()
        inputs = STEM
        for number, stage in enumerate(stages(design), start=1):
            blocks = nn.Sequential()
            for index in range(stage.depth):
                groups = stage.width // min(design.group_width, stage.width)
                block = Bottleneck(inputs, stage.width, 2 if index == 0 else 1, groups)
                blocks.add_module(f"block{number}-{index}", block)
                inputs = stage.width
            self.trunk_output.add_module(f"block{number}", blocks)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(inputs, classes)

        initialise_relu_convolutions(self)
        nn.init.normal_(self.fc.weight, std=0.01)
        nn.init.zeros_(self.fc.bias)
        set_stochastic_depth([self.get_submodule(name) for name in self.blocks()], stochastic_depth)

    def forward(self, images_NCHW: torch.Tensor) -> torch.Tensor:
        """(batch, channels, height, width), any size -> logits (batch, classes)."""
        check_channels(images_NCHW, self.channels)
        features = self.avgpool(self.trunk_output(self.stem(images_NCHW))).flatten(1)
        logits: torch.Tensor = self.fc(drop_units(features, self.dropout, self.training))
        return logits

    def blocks(self) -> list[str]:
        """The bottlenecks. The stem and the classifier are left to the root."""
        return [name for name, module in self.named_modules() if isinstance(module, Bottleneck)]


class Bottleneck(nn.Module):
    """The Y block (figure 4a, with squeeze-excitation behind the 3x3): three convolutions of one width around which the
    input is added, projected where the shape changes. The squeeze is to a quarter of what enters the block."""

    drop = 0.0  # probability of leaving out the residual

    def __init__(self, inputs: int, width: int, stride: int, groups: int) -> None:
        super().__init__()
        self.proj = conv_norm(inputs, width, stride=stride) if stride > 1 or inputs != width else None
        self.f = nn.Sequential()
        self.f.add_module("a", conv_norm(inputs, width, activation=nn.ReLU))
        self.f.add_module("b", conv_norm(width, width, 3, stride=stride, groups=groups, activation=nn.ReLU))
        self.f.add_module("se", SqueezeExcite(width, squeezed=round(inputs / 4)))
        self.f.add_module("c", conv_norm(width, width))

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        residual = drop_residual(self.f(maps), self.drop, self.training)
        shortcut = maps if self.proj is None else self.proj(maps)
        return F.relu(residual + shortcut, inplace=True)
