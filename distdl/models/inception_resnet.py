"""Inception-ResNets (Szegedy, Ioffe, Vanhoucke and Alemi 2016, "Inception-v4, Inception-ResNet and the impact of
residual connections on learning", section 3.2), and v2 with squeeze-and-excitation (Hu et al. 2017, table 2).

Branches compute a residual, which a 1x1 convolution widens and a factor of 0.1 to 0.2 scales down: without it, training
dies (section 3.3). v1 is the paper's, figures 10 to 15. v2 is what the authors released, and all its weights are for:
with v1's stem and twice as many blocks as figure 15, of 320, 1088 and 2080 channels. Submodules have timm's names
(conv2d_1a.conv, repeat.0.branch1.1.conv, ..., classif), and v1's those of facenet-pytorch, up to the classifier.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import nn

from distdl.models.inception_parts import Branches, Convolution, average_around, check_side
from distdl.models.layers import (
    check_channels,
    check_probabilities,
    check_sizes,
    drop_residual,
    drop_units,
    set_stochastic_depth,
)
from distdl.models.squeeze_excite import SqueezeExcite

Trunk = Mapping[str, nn.Module]  # in the order in which they are called

SCALE_35, SCALE_17, SCALE_8 = 0.17, 0.10, 0.20  # of the residuals of maps of 35x35, ... pixels, in the authors' code
FEATURES_V1, FEATURES_V2 = 1792, 1536


def inception_resnet_v1(
    *, classes: int = 1000, channels: int = 3, dropout: float = 0.2, stochastic_depth: float = 0.0
) -> nn.Module:
    """Inception-ResNet-v1, about as much work as Inception-v3: 22,756,328 parameters."""
    check_sizes(channels=channels)
    return InceptionResNet(trunk_v1(channels), FEATURES_V1, classes, channels, dropout, stochastic_depth)


def inception_resnet_v2(
    *, classes: int = 1000, channels: int = 3, dropout: float = 0.2, stochastic_depth: float = 0.0
) -> nn.Module:
    """Inception-ResNet-v2, about as much work as Inception-v4: 55,843,464 parameters. Its published weights want each
    channel normalised to a mean and a deviation of 0.5."""
    check_sizes(channels=channels)
    return InceptionResNet(trunk_v2(channels), FEATURES_V2, classes, channels, dropout, stochastic_depth)


def se_inception_resnet_v2(
    *, classes: int = 1000, channels: int = 3, dropout: float = 0.2, stochastic_depth: float = 0.0
) -> nn.Module:
    """Inception-ResNet-v2 with squeeze-and-excitation of each residual before it is scaled and added: 64,387,444
    parameters. The authors did not release theirs; this follows figure 3 of the paper."""
    check_sizes(channels=channels)
    trunk = trunk_v2(channels, squeeze_excite=True)
    return InceptionResNet(trunk, FEATURES_V2, classes, channels, dropout, stochastic_depth)


class InceptionResNet(nn.Module):
    """`features`: the channels that the trunk gives."""

    def __init__(
        self, trunk: Trunk, features: int, classes: int, channels: int, dropout: float, stochastic_depth: float
    ) -> None:
        check_sizes(classes=classes)
        check_probabilities(dropout=dropout, stochastic_depth=stochastic_depth)
        super().__init__()
        self.channels = channels
        self.dropout = dropout
        self.trunk = tuple(trunk)
        for name, module in trunk.items():
            self.add_module(name, module)
        self.classif = nn.Linear(features, classes)
        start_as_the_authors(self)
        set_stochastic_depth([m for m in self.modules() if isinstance(m, ResidualBlock)], stochastic_depth)

    def forward(self, images_NCHW: torch.Tensor) -> torch.Tensor:
        """(batch, channels, height, width), by design 299x299, any size from 75 on -> logits (batch, classes)."""
        check_channels(images_NCHW, self.channels)
        check_side(images_NCHW, 75, "Inception-ResNet")
        maps = images_NCHW
        for name in self.trunk:
            maps = self.get_submodule(name)(maps)
        features = drop_units(maps.mean((2, 3)), self.dropout, self.training)
        logits: torch.Tensor = self.classif(features)
        return logits

    def blocks(self) -> list[str]:
        """What has branches. The first convolutions and the classifier are left to the root."""
        return branched(self)


def branched(network: nn.Module) -> list[str]:
    return [name for name, module in network.named_modules() if isinstance(module, Branches | ResidualBlock)]


def start_as_the_authors(network: nn.Module) -> None:
    """Weights uniform as in Glorot and Bengio 2010, "Understanding the difficulty of training deep feedforward neural
    networks", equation 16, which TensorFlow's slim starts with; biases at 0."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


class ResidualBlock(nn.Module):
    """maps + scale * conv2d(the branches side by side), then a ReLU unless `last`. `inner`: their channels together."""

    drop = 0.0  # probability of leaving out the residual

    def __init__(
        self,
        channels: int,
        inner: int,
        scale: float,
        branches: Mapping[str, nn.Module],
        *,
        squeeze_excite: bool = False,
        last: bool = False,
    ) -> None:
        super().__init__()
        self.scale = scale
        self.last = last
        self.branches = tuple(branches)
        for name, branch in branches.items():
            self.add_module(name, branch)
        self.conv2d = nn.Conv2d(inner, channels, 1)
        self.se = SqueezeExcite(channels) if squeeze_excite else None

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        residual = self.conv2d(torch.cat([getattr(self, name)(maps) for name in self.branches], 1))
        if self.se is not None:
            residual = self.se(residual)
        outputs = maps + drop_residual(residual * self.scale, self.drop, self.training)
        return outputs if self.last else F.relu(outputs, inplace=True)


# --- v1 ---


def trunk_v1(channels: int, *, last_block: bool = False) -> Trunk:
    """Images of 299x299 -> maps of 8x8 with 1792 channels. `last_block`: another block, neither scaled nor followed by
    a ReLU, as v2 has it and the face networks' weights."""
    trunk: dict[str, nn.Module] = {
        "conv2d_1a": Convolution(channels, 32, 3, stride=2, padding="valid"),
        "conv2d_2a": Convolution(32, 32, 3, padding="valid"),
        "conv2d_2b": Convolution(32, 64, 3),
        "maxpool_3a": nn.MaxPool2d(3, stride=2),
        "conv2d_3b": Convolution(64, 80, 1),
        "conv2d_4a": Convolution(80, 192, 3, padding="valid"),
        "conv2d_4b": Convolution(192, 256, 3, stride=2, padding="valid"),
        "repeat_1": nn.Sequential(*(block35_v1() for _ in range(5))),
        "mixed_6a": to_17(256, 192, 192, 256),
        "repeat_2": nn.Sequential(*(block17_v1() for _ in range(10))),
        "mixed_7a": to_8(896, 256, 256, 256),
        "repeat_3": nn.Sequential(*(block8_v1(SCALE_8) for _ in range(5))),
    }
    return trunk | {"block8": block8_v1(1.0, last=True)} if last_block else trunk


def block35_v1() -> ResidualBlock:
    """Figure 10."""
    branches = {
        "branch0": Convolution(256, 32, 1),
        "branch1": nn.Sequential(Convolution(256, 32, 1), Convolution(32, 32, 3)),
        "branch2": nn.Sequential(Convolution(256, 32, 1), Convolution(32, 32, 3), Convolution(32, 32, 3)),
    }
    return ResidualBlock(256, 96, SCALE_35, branches)


def block17_v1() -> ResidualBlock:
    """Figure 11."""
    long = nn.Sequential(Convolution(896, 128, 1), Convolution(128, 128, (1, 7)), Convolution(128, 128, (7, 1)))
    return ResidualBlock(896, 256, SCALE_17, {"branch0": Convolution(896, 128, 1), "branch1": long})


def block8_v1(scale: float, *, last: bool = False) -> ResidualBlock:
    """Figure 13."""
    long = nn.Sequential(Convolution(1792, 192, 1), Convolution(192, 192, (1, 3)), Convolution(192, 192, (3, 1)))
    return ResidualBlock(1792, 384, scale, {"branch0": Convolution(1792, 192, 1), "branch1": long}, last=last)


# --- v2 ---


def trunk_v2(channels: int, *, squeeze_excite: bool = False) -> Trunk:
    """Images of 299x299 -> maps of 8x8 with 1536 channels."""
    se = squeeze_excite
    return {
        "conv2d_1a": Convolution(channels, 32, 3, stride=2, padding="valid"),
        "conv2d_2a": Convolution(32, 32, 3, padding="valid"),
        "conv2d_2b": Convolution(32, 64, 3),
        "maxpool_3a": nn.MaxPool2d(3, stride=2),
        "conv2d_3b": Convolution(64, 80, 1),
        "conv2d_4a": Convolution(80, 192, 3, padding="valid"),
        "maxpool_5a": nn.MaxPool2d(3, stride=2),
        "mixed_5b": mixed_5b(),
        "repeat": nn.Sequential(*(block35_v2(se) for _ in range(10))),
        "mixed_6a": to_17(320, 256, 256, 384),
        "repeat_1": nn.Sequential(*(block17_v2(se) for _ in range(20))),
        "mixed_7a": to_8(1088, 288, 288, 320),
        "repeat_2": nn.Sequential(*(block8_v2(SCALE_8, se) for _ in range(9))),
        "block8": block8_v2(1.0, se, last=True),
        "conv2d_7b": Convolution(2080, FEATURES_V2, 1),
    }


def mixed_5b() -> Branches:
    """192 -> 320 channels; not in the paper."""
    return Branches(
        branch0=Convolution(192, 96, 1),
        branch1=nn.Sequential(Convolution(192, 48, 1), Convolution(48, 64, 5)),
        branch2=nn.Sequential(Convolution(192, 64, 1), Convolution(64, 96, 3), Convolution(96, 96, 3)),
        branch3=nn.Sequential(average_around(), Convolution(192, 64, 1)),
    )


def block35_v2(squeeze_excite: bool) -> ResidualBlock:
    """Figure 16."""
    branches = {
        "branch0": Convolution(320, 32, 1),
        "branch1": nn.Sequential(Convolution(320, 32, 1), Convolution(32, 32, 3)),
        "branch2": nn.Sequential(Convolution(320, 32, 1), Convolution(32, 48, 3), Convolution(48, 64, 3)),
    }
    return ResidualBlock(320, 128, SCALE_35, branches, squeeze_excite=squeeze_excite)


def block17_v2(squeeze_excite: bool) -> ResidualBlock:
    """Figure 17."""
    long = nn.Sequential(Convolution(1088, 128, 1), Convolution(128, 160, (1, 7)), Convolution(160, 192, (7, 1)))
    branches = {"branch0": Convolution(1088, 192, 1), "branch1": long}
    return ResidualBlock(1088, 384, SCALE_17, branches, squeeze_excite=squeeze_excite)


def block8_v2(scale: float, squeeze_excite: bool, *, last: bool = False) -> ResidualBlock:
    """Figure 19."""
    long = nn.Sequential(Convolution(2080, 192, 1), Convolution(192, 224, (1, 3)), Convolution(224, 256, (3, 1)))
    branches = {"branch0": Convolution(2080, 192, 1), "branch1": long}
    return ResidualBlock(2080, 448, scale, branches, squeeze_excite=squeeze_excite, last=last)


# --- both ---


def to_17(inputs: int, k: int, l: int, m: int) -> Branches:  # noqa: E741  # the paper's letters
    """35x35 -> 17x17: k, l, m of figure 7 and table 1, whose n is 384."""
    return Branches(
        branch0=Convolution(inputs, 384, 3, stride=2, padding="valid"),
        branch1=nn.Sequential(
            Convolution(inputs, k, 1), Convolution(k, l, 3), Convolution(l, m, 3, stride=2, padding="valid")
        ),
        branch2=nn.MaxPool2d(3, stride=2),
    )


def to_8(inputs: int, of_short: int, middle: int, of_long: int) -> Branches:
    """17x17 -> 8x8 (figures 12 and 18): the channels of the second branch, and of the third's 3x3 convolutions."""
    return Branches(
        branch0=nn.Sequential(Convolution(inputs, 256, 1), Convolution(256, 384, 3, stride=2, padding="valid")),
        branch1=nn.Sequential(Convolution(inputs, 256, 1), Convolution(256, of_short, 3, stride=2, padding="valid")),
        branch2=nn.Sequential(
            Convolution(inputs, 256, 1),
            Convolution(256, middle, 3),
            Convolution(middle, of_long, 3, stride=2, padding="valid"),
        ),
        branch3=nn.MaxPool2d(3, stride=2),
    )
