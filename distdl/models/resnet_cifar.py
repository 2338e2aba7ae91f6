"""ResNets for 32x32 colour images (He, Zhang, Ren and Sun 2015, "Deep residual learning for image recognition",
section 4.2): three stages of n blocks with 16, 32 and 64 channels, 6n + 2 layers, and shortcuts without parameters.
"""

from typing import Any

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
from distdl.models.options import options_of


class CifarResNet(nn.Module):
    """`layers` are those with weights, the shortcuts' none: 6n + 2."""

    def __init__(
        self,
        layers: int,
        *,
        classes: int = 10,
        channels: int = 3,
        dropout: float = 0.0,
        stochastic_depth: float = 0.0,
    ) -> None:
        check_sizes(classes=classes, channels=channels)
        check_probabilities(dropout=dropout, stochastic_depth=stochastic_depth)
        super().__init__()
        self.dropout = dropout
        depth = (layers - 2) // 6  # blocks in each of the three stages
        self.conv1 = nn.Conv2d(channels, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = nn.Sequential(*(CifarBlock(16, 16) for _ in range(depth)))
        self.layer2 = nn.Sequential(*(CifarBlock(16 if index == 0 else 32, 32) for index in range(depth)))
        self.layer3 = nn.Sequential(*(CifarBlock(32 if index == 0 else 64, 64) for index in range(depth)))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(64, classes)
        initialise_relu_convolutions(self)
        set_stochastic_depth([self.get_submodule(name) for name in self.blocks()], stochastic_depth)

    def forward(self, images_NCHW: torch.Tensor) -> torch.Tensor:
        """(batch, channels, height, width), by design 32x32 -> logits (batch, classes)."""
        check_channels(images_NCHW, self.conv1.in_channels)
        maps = F.relu(self.bn1(self.conv1(images_NCHW)), inplace=True)
        maps = self.layer3(self.layer2(self.layer1(maps)))
        features = drop_units(self.avgpool(maps).flatten(1), self.dropout, self.training)
        logits: torch.Tensor = self.fc(features)
        return logits

    def blocks(self) -> list[str]:
        """The residual blocks. The stem and the classifier are left to the root."""
        return [name for name, module in self.named_modules() if isinstance(module, CifarBlock)]


class CifarBlock(nn.Module):
    """Two 3x3 convolutions around which the input is added. Where the channels double, the map halves, and the
    shortcut takes every second pixel and appends channels of zeros (option A)."""

    drop = 0.0  # probability of leaving out the residual

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.stride = 1 if inputs == outputs else 2
        self.new_channels = outputs - inputs
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=self.stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        residual = F.relu(self.bn1(self.conv1(maps)), inplace=True)
        residual = drop_residual(self.bn2(self.conv2(residual)), self.drop, self.training)
        shortcut = maps
        if self.new_channels:
            every_second = maps[:, :, :: self.stride, :: self.stride]
            shortcut = F.pad(every_second, (0, 0, 0, 0, 0, self.new_channels))
        return F.relu(residual + shortcut, inplace=True)


# --- the networks ---


@options_of(CifarResNet)
def resnet20_cifar(**options: Any) -> CifarResNet:
    """ResNet-20: 269,722 parameters."""
    return CifarResNet(20, **options)


@options_of(CifarResNet)
def resnet32_cifar(**options: Any) -> CifarResNet:
    """ResNet-32: 464,154 parameters."""
    return CifarResNet(32, **options)


@options_of(CifarResNet)
def resnet44_cifar(**options: Any) -> CifarResNet:
    """ResNet-44: 658,586 parameters."""
    return CifarResNet(44, **options)


@options_of(CifarResNet)
def resnet56_cifar(**options: Any) -> CifarResNet:
    """ResNet-56: 853,018 parameters."""
    return CifarResNet(56, **options)


@options_of(CifarResNet)
def resnet110_cifar(**options: Any) -> CifarResNet:
    """ResNet-110: 1,727,962 parameters. The paper trains it at a learning rate of 0.01 until the training error is
    below 80 % (about 400 steps), since 0.1 is too much for it to begin with."""
    return CifarResNet(110, **options)


@options_of(CifarResNet)
def resnet1202_cifar(**options: Any) -> CifarResNet:
    """ResNet-1202: 19,421,274 parameters. It fits the training set as well as ResNet-110 and is worse on the test set,
    which the paper puts down to overfitting."""
    return CifarResNet(1202, **options)
