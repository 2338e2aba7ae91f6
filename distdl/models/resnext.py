"""ResNeXts for ImageNet (Xie, Girshick, Dollar, Tu and He 2017, "Aggregated residual transformations for deep neural
networks", table 1): ResNets v1.5 whose bottlenecks have a 3x3 convolution in many narrow groups.

32x4d: 32 groups, of 4 channels each in layer1 and of twice as many in each further layer. Submodules have torchvision's
names.
"""

from functools import partial
from typing import Any

from distdl.models.options import options_of
from distdl.models.resnet import DEPTHS, Bottleneck, ResNet


@options_of(ResNet)
def resnext50_32x4d(**options: Any) -> ResNet:
    """ResNeXt-50 32x4d, as large and as fast as ResNet-50: 25,028,904 parameters."""
    return ResNet(partial(Bottleneck, groups=32, width_per_group=4), DEPTHS[50], **options)


@options_of(ResNet)
def resnext101_32x4d(**options: Any) -> ResNet:
    """ResNeXt-101 32x4d, the paper's counterpart of ResNet-101: 44,177,704 parameters."""
    return ResNet(partial(Bottleneck, groups=32, width_per_group=4), DEPTHS[101], **options)


@options_of(ResNet)
def resnext101_32x8d(**options: Any) -> ResNet:
    """ResNeXt-101 32x8d: 88,791,336 parameters."""
    return ResNet(partial(Bottleneck, groups=32, width_per_group=8), DEPTHS[101], **options)


@options_of(ResNet)
def resnext101_64x4d(**options: Any) -> ResNet:
    """ResNeXt-101 64x4d, the paper's best: 83,455,272 parameters."""
    return ResNet(partial(Bottleneck, groups=64, width_per_group=4), DEPTHS[101], **options)
