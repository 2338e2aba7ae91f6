"""SE-ResNets and SE-ResNeXts for ImageNet (Hu, Shen and Sun 2017, "Squeeze-and-excitation networks", table 1).

They are the bottlenecks of resnet.py with a SqueezeExcite behind the last norm, so that a block's residual is weighed
map by map before the input is added. The SE-ResNets are of v1: the stride is in the first 1x1 convolution.

Submodules have the names of timm's legacy_seresnet50 and the like, which hold the authors' weights. Like theirs, the
stem's pooling pads nothing and lets its last window hang over the edge.
"""

from collections import OrderedDict
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from distdl.errors import UserError
from distdl.models.layers import check_channels, check_probabilities, check_sizes, drop_units
from distdl.models.options import options_of
from distdl.models.resnet import (
    DEPTHS,
    Bottleneck,
    MakeBlock,
    initialise_residual,
    residual_blocks,
    residual_layers,
)

SMALLEST_SIDE = 3  # below that the stem's pooling has no window


class SEResNet(nn.Module):
    """`make_block`, `depths` and `zero_init_residual` are those of resnet.py's ResNet."""

    def __init__(
        self,
        make_block: MakeBlock,
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
        stem = OrderedDict(
            conv1=nn.Conv2d(channels, 64, 7, stride=2, padding=3, bias=False),
            bn1=nn.BatchNorm2d(64),
            relu1=nn.ReLU(inplace=True),
        )
        self.channels = channels
        self.layer0 = nn.Sequential(stem)
        self.pool0 = nn.MaxPool2d(3, stride=2, ceil_mode=True)
        (self.layer1, self.layer2, self.layer3, self.layer4), n_channels = residual_layers(make_block, depths)
        self.last_linear = nn.Linear(n_channels, classes)
        initialise_residual(self, stochastic_depth, zero_init_residual)

    def forward(self, images_NCHW: torch.Tensor) -> torch.Tensor:
        """(batch, channels, height, width), any size from 32 on -> logits (batch, classes)."""
        check_channels(images_NCHW, self.channels)
        height, width = images_NCHW.shape[2:]
        if min(height, width) < SMALLEST_SIDE:
            raise UserError(
                f"SE-ResNet takes images of at least {SMALLEST_SIDE}x{SMALLEST_SIDE}, these are {height}x{width}",
                where="data",
                fix="Add {resize: 224} to the transforms of each split.",
            )
        maps = self.pool0(self.layer0(images_NCHW))
        maps = self.layer4(self.layer3(self.layer2(self.layer1(maps))))
        features = drop_units(F.adaptive_avg_pool2d(maps, 1).flatten(1), self.dropout, self.training)
        logits: torch.Tensor = self.last_linear(features)
        return logits

    def blocks(self) -> list[str]:
        """The residual blocks. The stem and the classifier are left to the root."""
        return residual_blocks(self)


# --- the networks ---


@options_of(SEResNet)
def se_resnet50(*, reduction: int = 16, **options: Any) -> SEResNet:
    """SE-ResNet-50: 28,088,024 parameters. `reduction`: how many times fewer units than maps are in the middle of a
    SqueezeExcite, here and below."""
    return SEResNet(bottleneck(reduction), DEPTHS[50], **options)


@options_of(SEResNet)
def se_resnet101(*, reduction: int = 16, **options: Any) -> SEResNet:
    """SE-ResNet-101: 49,326,872 parameters."""
    return SEResNet(bottleneck(reduction), DEPTHS[101], **options)


@options_of(SEResNet)
def se_resnet152(*, reduction: int = 16, **options: Any) -> SEResNet:
    """SE-ResNet-152: 66,821,848 parameters."""
    return SEResNet(bottleneck(reduction), DEPTHS[152], **options)


@options_of(SEResNet)
def se_resnext50_32x4d(*, reduction: int = 16, **options: Any) -> SEResNet:
    """SE-ResNeXt-50 32x4d: 27,559,896 parameters."""
    return SEResNet(bottleneck_32x4d(reduction), DEPTHS[50], **options)


@options_of(SEResNet)
def se_resnext101_32x4d(*, reduction: int = 16, **options: Any) -> SEResNet:
    """SE-ResNeXt-101 32x4d: 48,955,416 parameters."""
    return SEResNet(bottleneck_32x4d(reduction), DEPTHS[101], **options)


def bottleneck(reduction: int) -> MakeBlock:
    check_sizes(reduction=reduction)
    return partial(Bottleneck, strided="conv1", reduction=reduction)


def bottleneck_32x4d(reduction: int) -> MakeBlock:
    """A ResNeXt's: its stride is in the 3x3."""
    check_sizes(reduction=reduction)
    return partial(Bottleneck, groups=32, width_per_group=4, reduction=reduction)
