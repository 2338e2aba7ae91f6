"""EfficientNet-B0 (Tan and Le 2019, "EfficientNet: rethinking model scaling for convolutional neural networks", table
1), which was found by a search for accuracy at 400 M multiply-accumulates.

Submodules have torchvision's names (features.0.0, features.1.0.block.1.fc1, ..., classifier.1), so that published
weights load as they are. The stem and stages 2, 3, 4 and 6 shrink the image by 2 each.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from distdl.models.layers import (
    check_channels,
    check_probabilities,
    check_sizes,
    initialise_relu_convolutions,
    set_stochastic_depth,
)
from distdl.models.mobile import InvertedResidual, conv_norm, zero_convolution_biases
from distdl.models.squeeze_excite import SqueezeExcite


class Stage(NamedTuple):
    """A row of table 1. The stride is that of the first block."""

    expansion: int
    kernel: int
    stride: int
    outputs: int
    depth: int


STEM = 32
STAGES = (
    Stage(expansion=1, kernel=3, stride=1, outputs=16, depth=1),
    Stage(expansion=6, kernel=3, stride=2, outputs=24, depth=2),
    Stage(expansion=6, kernel=5, stride=2, outputs=40, depth=2),
    Stage(expansion=6, kernel=3, stride=2, outputs=80, depth=3),
    Stage(expansion=6, kernel=5, stride=1, outputs=112, depth=3),
    Stage(expansion=6, kernel=5, stride=2, outputs=192, depth=4),
    Stage(expansion=6, kernel=3, stride=1, outputs=320, depth=1),
)
HEAD = 1280


def efficientnet_b0(
    *, classes: int = 1000, channels: int = 3, dropout: float = 0.2, stochastic_depth: float = 0.2
) -> nn.Module:
    """EfficientNet-B0: 5,288,548 parameters. Dropout and stochastic depth are those of section 5.2."""
    check_sizes(classes=classes, channels=channels)
    check_probabilities(dropout=dropout, stochastic_depth=stochastic_depth)
    return EfficientNet(classes, channels, dropout, stochastic_depth)


class EfficientNet(nn.Module):
    def __init__(self, classes: int, channels: int, dropout: float, stochastic_depth: float) -> None:
        super().__init__()
        self.channels = channels
        self.features = nn.Sequential(conv_norm(channels, STEM, 3, stride=2, activation=nn.SiLU))
        inputs = STEM
        for stage in STAGES:
            self.features.append(make_stage(inputs, stage))
            inputs = stage.outputs
        self.features.append(conv_norm(inputs, HEAD, activation=nn.SiLU))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        linear = nn.Linear(HEAD, classes)
        self.classifier = nn.Sequential(nn.Dropout(dropout), linear)

        initialise_relu_convolutions(self)
        zero_convolution_biases(self)
        nn.init.uniform_(linear.weight, -(classes**-0.5), classes**-0.5)
        nn.init.zeros_(linear.bias)
        set_stochastic_depth([self.get_submodule(name) for name in self.blocks()], stochastic_depth)

    def forward(self, images_NCHW: torch.Tensor) -> torch.Tensor:
        """(batch, channels, height, width), any size -> logits (batch, classes)."""
        check_channels(images_NCHW, self.channels)
        features = self.avgpool(self.features(images_NCHW)).flatten(1)
        logits: torch.Tensor = self.classifier(features)
        return logits

    def blocks(self) -> list[str]:
        """The inverted residual blocks. The stem, the last convolution and the classifier are left to the root."""
        return [name for name, module in self.named_modules() if isinstance(module, InvertedResidual)]


def make_stage(inputs: int, stage: Stage) -> nn.Sequential:
    """`depth` blocks, of which the first changes the shape. Squeeze-excitation squeezes to a quarter of what enters
    the block, and not of what the expansion makes of it."""
    blocks = nn.Sequential()
    for index in range(stage.depth):
        expanded = inputs * stage.expansion
        blocks.append(
            InvertedResidual(
                inputs,
                expanded,
                stage.outputs,
                stage.kernel,
                stage.stride if index == 0 else 1,
                attention=SqueezeExcite(expanded, squeezed=inputs // 4, activation=F.silu),
                activation=nn.SiLU,
            )
        )
        inputs = stage.outputs
    return blocks
