"""ResNets for ImageNet (He, Zhang, Ren and Sun 2015, "Deep residual learning for image recognition", table 1).

Submodules have torchvision's names (conv1, bn1, layer1.0.conv1, ..., fc), so that published weights load as they are.
The stem shrinks the image by 4, each of layer2, layer3 and layer4 by 2 in its first block. The networks, at the end of
the file, are ResNet with one or the other block, so many in each layer; what they all take is in ResNet's signature.
resnext.py and se_resnet.py are made of the same parts.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import nn

from distdl.models.layers import (
    check_channels,
    check_factors,
    check_probabilities,
    check_sizes,
    drop_residual,
    drop_units,
    initialise_relu_convolutions,
    set_stochastic_depth,
)
from distdl.models.options import options_of
from distdl.models.squeeze_excite import SqueezeExcite

DEPTHS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}  # of table 1


class ResNet(nn.Module):
    """`make_block(inputs, base, stride)` gives each residual block; `depths` counts them in layer1 to layer4.

    zero_init_residual: each block starts as the identity (the last batch norm's weight is 0): Goyal et al. 2017,
    "Accurate, large minibatch SGD", section 5.1; for large batches.
    """

    def __init__(
        self,
        make_block: "MakeBlock",
        depths: tuple[int, ...],
        *,
        classes: int = 1000,
        channels: int = 3,
        zero_init_residual: bool = False,
        dropout: float = 0.0,
        stochastic_depth: float = 0.0,
    ) -> None:
        check_sizes(classes=classes, channels=channels)
        check_probabilities(dropout=dropout, stochastic_depth=stochastic_depth)
        super().__init__()
        self.dropout = dropout
        self.conv1 = nn.Conv2d(channels, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        (self.layer1, self.layer2, self.layer3, self.layer4), n_channels = residual_layers(make_block, depths)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(n_channels, classes)
        initialise_residual(self, stochastic_depth, zero_init_residual)

    def forward(self, images_NCHW: torch.Tensor) -> torch.Tensor:
        """(batch, channels, height, width), any size from 32 on -> logits (batch, classes)."""
        check_channels(images_NCHW, self.conv1.in_channels)
        maps = self.maxpool(F.relu(self.bn1(self.conv1(images_NCHW)), inplace=True))
        maps = self.layer4(self.layer3(self.layer2(self.layer1(maps))))
        features = drop_units(self.avgpool(maps).flatten(1), self.dropout, self.training)
        logits: torch.Tensor = self.fc(features)
        return logits

    def blocks(self) -> list[str]:
        """The residual blocks. The stem and the classifier are left to the root."""
        return residual_blocks(self)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions to `base` channels, around which the input is added (figure 5, left)."""

    drop = 0.0  # probability of leaving out the residual

    def __init__(self, inputs: int, base: int, stride: int) -> None:
        super().__init__()
        self.outputs = base
        self.conv1 = nn.Conv2d(inputs, base, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(base)
        self.conv2 = nn.Conv2d(base, base, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(base)
        self.downsample = projection(inputs, base, stride)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        residual = F.relu(self.bn1(self.conv1(maps)), inplace=True)
        residual = drop_residual(self.bn2(self.conv2(residual)), self.drop, self.training)
        shortcut = maps if self.downsample is None else self.downsample(maps)
        return F.relu(residual + shortcut, inplace=True)

    @property
    def last_norm(self) -> nn.BatchNorm2d:
        return self.bn2


class Bottleneck(nn.Module):
    """1x1, 3x3, and 1x1 to 4 * base channels (figure 5, right). `strided` says which of them shrinks: conv1 in the
    paper, conv2 in v1.5, where no input pixel goes unread.

    The 3x3 has `base` channels as published. It may have `groups`, of width_per_group * base / 64 channels each, as in
    ResNeXt. `reduction` is that of squeeze and excitation; 0: without it.
    """

    drop = 0.0  # probability of leaving out the residual

    def __init__(
        self,
        inputs: int,
        base: int,
        stride: int,
        *,
        strided: Literal["conv1", "conv2"] = "conv2",
        groups: int = 1,
        width_per_group: float = 64,
        reduction: int = 0,
    ) -> None:
        super().__init__()
        self.outputs = 4 * base
        inner = max(1, int(base * width_per_group / 64)) * groups
        stride1, stride2 = (stride, 1) if strided == "conv1" else (1, stride)
        self.conv1 = nn.Conv2d(inputs, inner, 1, stride=stride1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, inner, 3, stride=stride2, padding=1, groups=groups, bias=False)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3 = nn.Conv2d(inner, self.outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(self.outputs)
        self.se_module = SqueezeExcite(self.outputs, reduction) if reduction else None
        self.downsample = projection(inputs, self.outputs, stride)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        residual = F.relu(self.bn1(self.conv1(maps)), inplace=True)
        residual = F.relu(self.bn2(self.conv2(residual)), inplace=True)
        residual = self.bn3(self.conv3(residual))
        if self.se_module is not None:
            residual = self.se_module(residual)
        residual = drop_residual(residual, self.drop, self.training)
        shortcut = maps if self.downsample is None else self.downsample(maps)
        return F.relu(residual + shortcut, inplace=True)

    @property
    def last_norm(self) -> nn.BatchNorm2d:
        return self.bn3


MakeBlock = Callable[[int, int, int], BasicBlock | Bottleneck]


def projection(inputs: int, outputs: int, stride: int) -> nn.Sequential | None:
    """The shortcut of a block that changes the shape: a strided 1x1 convolution (option B); None is the identity."""
    if stride == 1 and inputs == outputs:
        return None
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False), nn.BatchNorm2d(outputs))


def residual_layers(make_block: MakeBlock, depths: tuple[int, ...]) -> tuple[list[nn.Sequential], int]:
    """layer1 to layer4 of table 1, behind a stem of 64 channels, and how many channels come out of them."""
    n_channels = 64
    layers: list[nn.Sequential] = []
    for base, depth in zip((64, 128, 256, 512), depths):
        layer = nn.Sequential()
        for index in range(depth):
            block = make_block(n_channels, base, 2 if layers and index == 0 else 1)
            n_channels = block.outputs
            layer.append(block)
        layers.append(layer)
    return layers, n_channels


def residual_blocks(network: nn.Module) -> list[str]:
    return [name for name, module in network.named_modules() if isinstance(module, BasicBlock | Bottleneck)]


def initialise_residual(network: nn.Module, stochastic_depth: float, zero_init_residual: bool) -> None:
    initialise_relu_convolutions(network)
    blocks = [network.get_submodule(name) for name in residual_blocks(network)]
    set_stochastic_depth(blocks, stochastic_depth)
    for block in blocks if zero_init_residual else ():
        assert isinstance(block, BasicBlock | Bottleneck)
        nn.init.zeros_(block.last_norm.weight)


# --- the networks ---


@options_of(ResNet)
def resnet18(**options: Any) -> ResNet:
    """ResNet-18: 11,689,512 parameters."""
    return ResNet(BasicBlock, DEPTHS[18], **options)


@options_of(ResNet)
def resnet34(**options: Any) -> ResNet:
    """ResNet-34: 21,797,672 parameters."""
    return ResNet(BasicBlock, DEPTHS[34], **options)


@options_of(ResNet)
def resnet50(*, width: float = 1.0, **options: Any) -> ResNet:
    """ResNet-50 v1.5, which people mean today: a bottleneck's stride is in its 3x3 convolution. 25,557,032 parameters,
    6 % more work than the paper's and about half a point of top-1 better. `width`: a factor for the channels inside the
    bottlenecks (Zagoruyko and Komodakis 2016, "Wide residual networks"), here and below."""
    return ResNet(bottleneck(width), DEPTHS[50], **options)


@options_of(ResNet)
def resnet101(*, width: float = 1.0, **options: Any) -> ResNet:
    """ResNet-101 v1.5: 44,549,160 parameters."""
    return ResNet(bottleneck(width), DEPTHS[101], **options)


@options_of(ResNet)
def resnet152(*, width: float = 1.0, **options: Any) -> ResNet:
    """ResNet-152 v1.5: 60,192,808 parameters."""
    return ResNet(bottleneck(width), DEPTHS[152], **options)


@options_of(ResNet)
def resnet50_v1(*, width: float = 1.0, **options: Any) -> ResNet:
    """ResNet-50 as published: a bottleneck's stride is in its first 1x1 convolution. Same weights' shapes as v1.5."""
    return ResNet(bottleneck(width, "conv1"), DEPTHS[50], **options)


@options_of(ResNet)
def resnet101_v1(*, width: float = 1.0, **options: Any) -> ResNet:
    """ResNet-101 as published."""
    return ResNet(bottleneck(width, "conv1"), DEPTHS[101], **options)


@options_of(ResNet)
def resnet152_v1(*, width: float = 1.0, **options: Any) -> ResNet:
    """ResNet-152 as published."""
    return ResNet(bottleneck(width, "conv1"), DEPTHS[152], **options)


@options_of(ResNet)
def wide_resnet50_2(**options: Any) -> ResNet:
    """Wide ResNet-50-2: ResNet-50 with twice the channels inside its bottlenecks, 68,883,240 parameters."""
    return ResNet(bottleneck(2.0), DEPTHS[50], **options)


def bottleneck(width: float, strided: Literal["conv1", "conv2"] = "conv2") -> MakeBlock:
    check_factors(width=width)
    return partial(Bottleneck, strided=strided, width_per_group=64 * width)
