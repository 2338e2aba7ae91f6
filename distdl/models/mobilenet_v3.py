"""MobileNetV3 (Howard et al. 2019, "Searching for MobileNetV3", tables 1 and 2): inverted residual blocks found by a
search for accuracy at a phone's latency, with piecewise linear stand-ins for swish and sigmoid.

Submodules have torchvision's names (features.0.0, features.4.block.2.fc1, ..., classifier.3), so that published weights
load as they are. The image shrinks by 2 five times.
"""

from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from distdl.errors import UserError
from distdl.models.layers import (
    check_channels,
    check_probabilities,
    check_sizes,
    initialise_relu_convolutions,
    set_stochastic_depth,
)
from distdl.models.mobile import InvertedResidual, conv_norm, divisible, zero_convolution_biases
from distdl.models.squeeze_excite import SqueezeExcite


class Row(NamedTuple):
    """A bottleneck's row of table 1 or 2: kernel, "exp size", "#out", "SE", "NL" (h-swish, else ReLU), stride."""

    kernel: int
    expanded: int
    outputs: int
    squeeze_excite: bool
    hard_swish: bool
    stride: int


LARGE = (
    Row(3, 16, 16, False, False, 1),
    Row(3, 64, 24, False, False, 2),
    Row(3, 72, 24, False, False, 1),
    Row(5, 72, 40, True, False, 2),
    Row(5, 120, 40, True, False, 1),
    Row(5, 120, 40, True, False, 1),
    Row(3, 240, 80, False, True, 2),
    Row(3, 200, 80, False, True, 1),
    Row(3, 184, 80, False, True, 1),
    Row(3, 184, 80, False, True, 1),
    Row(3, 480, 112, True, True, 1),
    Row(3, 672, 112, True, True, 1),
    Row(5, 672, 160, True, True, 2),
    Row(5, 960, 160, True, True, 1),
    Row(5, 960, 160, True, True, 1),
)
SMALL = (
    Row(3, 16, 16, True, False, 2),
    Row(3, 72, 24, False, False, 2),
    Row(3, 88, 24, False, False, 1),
    Row(5, 96, 40, True, True, 2),
    Row(5, 240, 40, True, True, 1),
    Row(5, 240, 40, True, True, 1),
    Row(5, 120, 48, True, True, 1),
    Row(5, 144, 48, True, True, 1),
    Row(5, 288, 96, True, True, 2),
    Row(5, 576, 96, True, True, 1),
    Row(5, 576, 96, True, True, 1),
)
NORM = partial(nn.BatchNorm2d, eps=0.001, momentum=0.01)  # of torchvision's weights; section 6.1 says 0.99 a step


def mobilenet_v3_large(
    *, classes: int = 1000, channels: int = 3, dropout: float = 0.2, stochastic_depth: float = 0.0, width: float = 1.0
) -> nn.Module:
    """MobileNetV3-Large: 5,483,032 parameters. `width`: a factor of all channels (the paper's multiplier: 0.75 ...)."""
    return MobileNetV3(LARGE, 1280, classes, channels, dropout, stochastic_depth, width)


def mobilenet_v3_small(
    *, classes: int = 1000, channels: int = 3, dropout: float = 0.2, stochastic_depth: float = 0.0, width: float = 1.0
) -> nn.Module:
    """MobileNetV3-Small: 2,542,856 parameters. `width`: a factor of all channels (the paper's multiplier: 0.75 ...)."""
    return MobileNetV3(SMALL, 1024, classes, channels, dropout, stochastic_depth, width)


class MobileNetV3(nn.Module):
    """`rows` make the bottlenecks; `hidden` units lie between the pooled features and the classes."""

    def __init__(
        self,
        rows: tuple[Row, ...],
        hidden: int,
        classes: int,
        channels: int,
        dropout: float,
        stochastic_depth: float,
        width: float,
    ) -> None:
        check_sizes(classes=classes, channels=channels)
        check_probabilities(dropout=dropout, stochastic_depth=stochastic_depth)
        check_width(width)
        super().__init__()
        self.channels = channels
        inputs = divisible(16 * width)
        self.features = nn.Sequential(conv_norm(channels, inputs, 3, stride=2, norm=NORM, activation=nn.Hardswish))
        for row in rows:
            self.features.append(make_block(inputs, row, width))
            inputs = divisible(row.outputs * width)
        self.features.append(conv_norm(inputs, 6 * inputs, norm=NORM, activation=nn.Hardswish))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(
            nn.Linear(6 * inputs, divisible(hidden * width)),
            nn.Hardswish(),
            nn.Dropout(dropout),
            nn.Linear(divisible(hidden * width), classes),
        )

        initialise_relu_convolutions(self)
        zero_convolution_biases(self)
        for layer in self.classifier:
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, std=0.01)
                nn.init.zeros_(layer.bias)
        set_stochastic_depth([self.get_submodule(name) for name in self.blocks()], stochastic_depth)

    def forward(self, images_NCHW: torch.Tensor) -> torch.Tensor:
        """(batch, channels, height, width), any size -> logits (batch, classes)."""
        check_channels(images_NCHW, self.channels)
        features = self.avgpool(self.features(images_NCHW)).flatten(1)
        logits: torch.Tensor = self.classifier(features)
        return logits

    def blocks(self) -> list[str]:
        """The bottlenecks. The stem, the last convolution and the classifier are left to the root."""
        return [name for name, module in self.named_modules() if isinstance(module, InvertedResidual)]


def make_block(inputs: int, row: Row, width: float) -> InvertedResidual:
    """Squeeze-excitation squeezes to a quarter of the expanded channels (section 5.3), in multiples of 8."""
    expanded = divisible(row.expanded * width)
    squeezed = divisible(expanded // 4)
    return InvertedResidual(
        inputs,
        expanded,
        divisible(row.outputs * width),
        row.kernel,
        row.stride,
        attention=SqueezeExcite(expanded, squeezed=squeezed, gate=F.hardsigmoid) if row.squeeze_excite else None,
        activation=nn.Hardswish if row.hard_swish else nn.ReLU,
        norm=NORM,
    )


def check_width(width: float) -> None:
    """Raises UserError unless the factor is a number above 0."""
    if isinstance(width, bool) or not isinstance(width, int | float) or not 0 < width < float("inf"):
        raise UserError(f"{width!r} is not a number above 0", where="model.args.width")
