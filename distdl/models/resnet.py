"""ResNets for ImageNet (He, Zhang, Ren and Sun 2015, "Deep residual learning for image recognition", table 1).

Submodules have torchvision's names (conv1, bn1, layer1.0.conv1, ..., fc), so that published weights load as they are.
The stem shrinks the image by 4, each of layer2, layer3 and layer4 by 2 in its first block.
"""

from collections.abc import Callable
from functools import partial
from typing import Literal

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


def resnet18(
    *,
    classes: int = 1000,
    channels: int = 3,
    zero_init_residual: bool = False,
    dropout: float = 0.0,
    stochastic_depth: float = 0.0,
) -> nn.Module:
    """ResNet-18: 11,689,512 parameters."""
    return ResNet(BasicBlock, (2, 2, 2, 2), classes, channels, zero_init_residual, dropout, stochastic_depth)


def resnet34(
    *,
    classes: int = 1000,
    channels: int = 3,
    zero_init_residual: bool = False,
    dropout: float = 0.0,
    stochastic_depth: float = 0.0,
) -> nn.Module:
    """ResNet-34: 21,797,672 parameters."""
    return ResNet(BasicBlock, (3, 4, 6, 3), classes, channels, zero_init_residual, dropout, stochastic_depth)


def resnet50(
    *,
    classes: int = 1000,
    channels: int = 3,
    zero_init_residual: bool = False,
    dropout: float = 0.0,
    stochastic_depth: float = 0.0,
) -> nn.Module:
    """ResNet-50 v1.5, which people mean today: a bottleneck's stride is in its 3x3 convolution. 25,557,032 parameters,
    6 % more work than the paper's and about half a point of top-1 better."""
    return ResNet(Bottleneck, (3, 4, 6, 3), classes, channels, zero_init_residual, dropout, stochastic_depth)


def resnet50_v1(
    *,
    classes: int = 1000,
    channels: int = 3,
    zero_init_residual: bool = False,
    dropout: float = 0.0,
    stochastic_depth: float = 0.0,
) -> nn.Module:
    """ResNet-50 as published: a bottleneck's stride is in its first 1x1 convolution. Same weights' shapes as v1.5."""
    make_block = partial(Bottleneck, strided="conv1")
    return ResNet(make_block, (3, 4, 6, 3), classes, channels, zero_init_residual, dropout, stochastic_depth)


class ResNet(nn.Module):
    """`make_block(channels in, width, stride)` gives each residual block; `depths` counts them in layer1 to layer4.

    zero_init_residual: each block starts as the identity (the last batch norm's weight is 0): Goyal et al. 2017,
    "Accurate, large minibatch SGD", section 5.1; for large batches.
    """

    def __init__(
        self,
        make_block: "Callable[[int, int, int], BasicBlock | Bottleneck]",
        depths: tuple[int, int, int, int],
        classes: int,
        channels: int,
        zero_init_residual: bool,
        dropout: float,
        stochastic_depth: float,
    ) -> None:
        check_sizes(classes=classes, channels=channels)
        check_probabilities(dropout=dropout, stochastic_depth=stochastic_depth)
        super().__init__()
        self.dropout = dropout
        self.conv1 = nn.Conv2d(channels, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)

        n_channels = 64
        layers: list[nn.Sequential] = []
        for width, depth in zip((64, 128, 256, 512), depths):
            layer = nn.Sequential()
            for index in range(depth):
                block = make_block(n_channels, width, 2 if layers and index == 0 else 1)
                n_channels = width * block.expansion
                layer.append(block)
            layers.append(layer)
        self.layer1, self.layer2, self.layer3, self.layer4 = layers

        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(n_channels, classes)

        initialise_relu_convolutions(self)
        set_stochastic_depth([self.get_submodule(name) for name in self.blocks()], stochastic_depth)
        if zero_init_residual:
            for module in self.modules():
                if isinstance(module, BasicBlock | Bottleneck):
                    nn.init.zeros_(module.last_norm.weight)

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
        return [name for name, module in self.named_modules() if isinstance(module, BasicBlock | Bottleneck)]


class BasicBlock(nn.Module):
    """Two 3x3 convolutions around which the input is added (figure 5, left)."""

    expansion = 1
    drop = 0.0  # probability of leaving out the residual

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = projection(inputs, width, stride)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        residual = F.relu(self.bn1(self.conv1(maps)), inplace=True)
        residual = drop_residual(self.bn2(self.conv2(residual)), self.drop, self.training)
        shortcut = maps if self.downsample is None else self.downsample(maps)
        return F.relu(residual + shortcut, inplace=True)

    @property
    def last_norm(self) -> nn.BatchNorm2d:
        return self.bn2


class Bottleneck(nn.Module):
    """1x1 to `width` channels, 3x3, 1x1 to four times as many (figure 5, right). `strided` says which of them shrinks:
    conv1 in the paper, conv2 in v1.5, where no input pixel goes unread."""

    expansion = 4
    drop = 0.0  # probability of leaving out the residual

    def __init__(self, inputs: int, width: int, stride: int, *, strided: Literal["conv1", "conv2"] = "conv2") -> None:
        super().__init__()
        outputs = width * self.expansion
        self.conv1 = nn.Conv2d(inputs, width, 1, stride=stride if strided == "conv1" else 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride=stride if strided == "conv2" else 1, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.downsample = projection(inputs, outputs, stride)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        residual = F.relu(self.bn1(self.conv1(maps)), inplace=True)
        residual = F.relu(self.bn2(self.conv2(residual)), inplace=True)
        residual = drop_residual(self.bn3(self.conv3(residual)), self.drop, self.training)
        shortcut = maps if self.downsample is None else self.downsample(maps)
        return F.relu(residual + shortcut, inplace=True)

    @property
    def last_norm(self) -> nn.BatchNorm2d:
        return self.bn3


def projection(inputs: int, outputs: int, stride: int) -> nn.Sequential | None:
    """The shortcut of a block that changes the shape: a strided 1x1 convolution (option B); None is the identity."""
    if stride == 1 and inputs == outputs:
        return None
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False), nn.BatchNorm2d(outputs))
