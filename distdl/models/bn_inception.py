"""BN-Inception, the second Inception network (Ioffe and Szegedy 2015, "Batch normalization", appendix), and that with
squeeze-and-excitation (Hu et al. 2017, "Squeeze-and-excitation networks", table 2).

Each 5x5 convolution of GoogLeNet is two of 3x3 here; 3c and 4e halve the map. Layers have the names of pretrainedmodels
0.7, but for a dot after the module's: its inception_3a_3x3_reduce is inception_3a.3x3_reduce here.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from distdl.models.inception_parts import check_side
from distdl.models.layers import (
    check_channels,
    check_probabilities,
    check_sizes,
    drop_units,
    initialise_relu_convolutions,
)
from distdl.models.squeeze_excite import SqueezeExcite


class Channels(NamedTuple):
    """Of a module. One without 1x1 halves the map, and appends what it pools as it is."""

    inputs: int
    of_1x1: int
    of_3x3: tuple[int, int]  # reduced by a 1x1, then of the 3x3
    of_double_3x3: tuple[int, int]  # likewise, then of both 3x3
    of_pool: int

    @property
    def outputs(self) -> int:
        return self.of_1x1 + self.of_3x3[1] + self.of_double_3x3[1] + (self.of_pool or self.inputs)


MODULES = {
    "inception_3a": Channels(192, 64, (64, 64), (64, 96), 32),
    "inception_3b": Channels(256, 64, (64, 96), (64, 96), 64),
    "inception_3c": Channels(320, 0, (128, 160), (64, 96), 0),
    "inception_4a": Channels(576, 224, (64, 96), (96, 128), 128),
    "inception_4b": Channels(576, 192, (96, 128), (96, 128), 128),
    "inception_4c": Channels(576, 160, (128, 160), (128, 160), 128),
    "inception_4d": Channels(608, 96, (128, 192), (160, 192), 128),
    "inception_4e": Channels(608, 0, (128, 192), (192, 256), 0),
    "inception_5a": Channels(1056, 352, (192, 320), (160, 224), 128),
    "inception_5b": Channels(1024, 352, (192, 320), (192, 224), 128),
}


def bn_inception(*, classes: int = 1000, channels: int = 3, dropout: float = 0.0) -> nn.Module:
    """BN-Inception: 11,295,240 parameters, of which the convolutions' biases, useless in front of a batch norm, are
    there for the published weights. These want BGR images of 0 to 255 less (104, 117, 128)."""
    return BNInception(classes, channels, dropout, bias=True, squeeze_excite=False)


def se_bn_inception(*, classes: int = 1000, channels: int = 3, dropout: float = 0.0) -> nn.Module:
    """BN-Inception with squeeze-and-excitation behind each module, and without the convolutions' biases: 11,931,622
    parameters, as in the authors' SE-BN-Inception."""
    return BNInception(classes, channels, dropout, bias=False, squeeze_excite=True)


class BNInception(nn.Module):
    """`bias`: whether convolutions have one. Weights start as in He et al. 2015, as Hu et al. let them."""

    def __init__(self, classes: int, channels: int, dropout: float, *, bias: bool, squeeze_excite: bool) -> None:
        check_sizes(classes=classes, channels=channels)
        check_probabilities(dropout=dropout)
        super().__init__()
        self.dropout = dropout
        self.conv1_7x7_s2 = nn.Conv2d(channels, 64, 7, stride=2, padding=3, bias=bias)
        self.conv1_7x7_s2_bn = nn.BatchNorm2d(64)
        self.conv2_3x3_reduce = nn.Conv2d(64, 64, 1, bias=bias)
        self.conv2_3x3_reduce_bn = nn.BatchNorm2d(64)
        self.conv2_3x3 = nn.Conv2d(64, 192, 3, padding=1, bias=bias)
        self.conv2_3x3_bn = nn.BatchNorm2d(192)
        for name, of_module in MODULES.items():
            pools_maximum = name == "inception_5b"
            self.add_module(name, Inception(of_module, bias, squeeze_excite, pools_maximum))
        self.last_linear = nn.Linear(MODULES["inception_5b"].outputs, classes)
        initialise_relu_convolutions(self)

    def forward(self, images_NCHW: torch.Tensor) -> torch.Tensor:
        """(batch, channels, height, width), any size from 7 on -> logits (batch, classes)."""
        check_channels(images_NCHW, self.conv1_7x7_s2.in_channels)
        check_side(images_NCHW, 7, "BN-Inception")
        maps = F.relu(self.conv1_7x7_s2_bn(self.conv1_7x7_s2(images_NCHW)), inplace=True)
        maps = F.max_pool2d(maps, 3, stride=2, ceil_mode=True)
        maps = F.relu(self.conv2_3x3_reduce_bn(self.conv2_3x3_reduce(maps)), inplace=True)
        maps = F.relu(self.conv2_3x3_bn(self.conv2_3x3(maps)), inplace=True)
        maps = F.max_pool2d(maps, 3, stride=2, ceil_mode=True)
        for name in MODULES:
            maps = self.get_submodule(name)(maps)
        features = drop_units(maps.mean((2, 3)), self.dropout, self.training)
        logits: torch.Tensor = self.last_linear(features)
        return logits

    def blocks(self) -> list[str]:
        """The inception modules. The stem and the classifier are left to the root."""
        return list(MODULES)


class Inception(nn.Module):
    """Figure 5 of the paper. Its layers have Caffe's names, which no Python attribute could have ("1x1")."""

    def __init__(self, channels: Channels, bias: bool, squeeze_excite: bool, pools_maximum: bool) -> None:
        super().__init__()
        self.halves = not channels.of_1x1
        self.pools_maximum = pools_maximum
        self.bias = bias
        last_stride = 2 if self.halves else 1
        reduced, of_3x3 = channels.of_3x3
        if not self.halves:
            self._add("1x1", channels.inputs, channels.of_1x1, 1)
        self._add("3x3_reduce", channels.inputs, reduced, 1)
        self._add("3x3", reduced, of_3x3, 3, last_stride)
        reduced, of_double_3x3 = channels.of_double_3x3
        self._add("double_3x3_reduce", channels.inputs, reduced, 1)
        self._add("double_3x3_1", reduced, of_double_3x3, 3)
        self._add("double_3x3_2", of_double_3x3, of_double_3x3, 3, last_stride)
        if not self.halves:
            self._add("pool_proj", channels.inputs, channels.of_pool, 1)
        self.se = SqueezeExcite(channels.outputs) if squeeze_excite else None

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        of_3x3 = self._run(maps, "3x3_reduce", "3x3")
        of_double_3x3 = self._run(maps, "double_3x3_reduce", "double_3x3_1", "double_3x3_2")
        if self.halves:
            branches = [of_3x3, of_double_3x3, _halve(maps)]
        else:
            of_pool = self._run(self._pool(maps), "pool_proj")
            branches = [self._run(maps, "1x1"), of_3x3, of_double_3x3, of_pool]
        outputs = torch.cat(branches, 1)
        return outputs if self.se is None else self.se(outputs)

    def _pool(self, maps: torch.Tensor) -> torch.Tensor:
        if self.pools_maximum:
            return F.max_pool2d(maps, 3, stride=1, padding=1)
        return F.avg_pool2d(maps, 3, stride=1, padding=1)

    def _add(self, name: str, inputs: int, outputs: int, kernel: int, stride: int = 1) -> None:
        self.add_module(name, nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=self.bias))
        self.add_module(f"{name}_bn", nn.BatchNorm2d(outputs))

    def _run(self, maps: torch.Tensor, *names: str) -> torch.Tensor:
        """Through these convolutions, each with its batch norm and a ReLU."""
        for name in names:
            maps = F.relu(getattr(self, f"{name}_bn")(getattr(self, name)(maps)), inplace=True)
        return maps


def _halve(maps: torch.Tensor) -> torch.Tensor:
    """Max pooling of 3x3 pixels at a stride of 2 -> as many pixels as a strided convolution gives, also for odd sizes.
    The maps come from ReLUs: zeros around them change no maximum."""
    height, width = maps.shape[2:]
    if height % 2 or width % 2:
        maps = F.pad(maps, (0, width % 2, 0, height % 2))
    return F.max_pool2d(maps, 3, stride=2, ceil_mode=True)
