"""Inception-v4 (Szegedy, Ioffe, Vanhoucke and Alemi 2016, "Inception-v4, Inception-ResNet and the impact of residual
connections on learning", figures 3 to 9): 299x299 -> 35x35 -> 17x17 -> 8x8.

Submodules have timm's names (features.0.conv, features.6.branch1.0.conv, ..., last_linear), so that published weights
load as they are.
"""

import torch
from torch import nn

from distdl.models.inception_parts import Branches, Convolution, average_around, check_side
from distdl.models.layers import check_channels, check_probabilities, check_sizes, drop_units


def inception_v4(*, classes: int = 1000, channels: int = 3, dropout: float = 0.2) -> nn.Module:
    """Inception-v4: 42,679,816 parameters. Its published weights want each channel normalised to a mean and a deviation
    of 0.5."""
    check_sizes(classes=classes, channels=channels)
    check_probabilities(dropout=dropout)
    return InceptionV4(classes, channels, dropout)


class InceptionV4(nn.Module):
    """Figure 9. Weights start as the authors' code has them: normal with variance 2 / fan-in."""

    def __init__(self, classes: int, channels: int, dropout: float) -> None:
        super().__init__()
        self.channels = channels
        self.dropout = dropout
        self.features = nn.Sequential(
            *stem(channels),
            *(inception_a() for _ in range(4)),
            reduction_a(),
            *(inception_b() for _ in range(7)),
            reduction_b(),
            *(InceptionC() for _ in range(3)),
        )
        self.last_linear = nn.Linear(1536, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")

    def forward(self, images_NCHW: torch.Tensor) -> torch.Tensor:
        """(batch, channels, height, width), by design 299x299, any size from 75 on -> logits (batch, classes)."""
        check_channels(images_NCHW, self.channels)
        check_side(images_NCHW, 75, "Inception-v4")
        maps = self.features(images_NCHW)
        features = drop_units(maps.mean((2, 3)), self.dropout, self.training)
        logits: torch.Tensor = self.last_linear(features)
        return logits

    def blocks(self) -> list[str]:
        """What has branches. The first convolutions and the classifier are left to the root."""
        return [name for name, module in self.named_modules() if isinstance(module, Branches | InceptionC)]


def stem(channels: int) -> list[nn.Module]:
    """299x299 -> 35x35 pixels of 384 channels (figure 3)."""
    return [
        Convolution(channels, 32, 3, stride=2, padding="valid"),
        Convolution(32, 32, 3, padding="valid"),
        Convolution(32, 64, 3),
        Branches(maxpool=nn.MaxPool2d(3, stride=2), conv=Convolution(64, 96, 3, stride=2, padding="valid")),
        Branches(
            branch0=nn.Sequential(Convolution(160, 64, 1), Convolution(64, 96, 3, padding="valid")),
            branch1=nn.Sequential(
                Convolution(160, 64, 1),
                Convolution(64, 64, (1, 7)),
                Convolution(64, 64, (7, 1)),
                Convolution(64, 96, 3, padding="valid"),
            ),
        ),
        Branches(conv=Convolution(192, 192, 3, stride=2, padding="valid"), maxpool=nn.MaxPool2d(3, stride=2)),
    ]


def inception_a() -> Branches:
    """Maps of 35x35 keep their size (figure 4)."""
    return Branches(
        branch0=Convolution(384, 96, 1),
        branch1=nn.Sequential(Convolution(384, 64, 1), Convolution(64, 96, 3)),
        branch2=nn.Sequential(Convolution(384, 64, 1), Convolution(64, 96, 3), Convolution(96, 96, 3)),
        branch3=nn.Sequential(average_around(), Convolution(384, 96, 1)),
    )


def reduction_a() -> Branches:
    """35x35 -> 17x17; k, l, m, n = 192, 224, 256, 384 (figure 7, table 1)."""
    return Branches(
        branch0=Convolution(384, 384, 3, stride=2, padding="valid"),
        branch1=nn.Sequential(
            Convolution(384, 192, 1), Convolution(192, 224, 3), Convolution(224, 256, 3, stride=2, padding="valid")
        ),
        branch2=nn.MaxPool2d(3, stride=2),
    )


def inception_b() -> Branches:
    """Maps of 17x17 keep their size (figure 5)."""
    return Branches(
        branch0=Convolution(1024, 384, 1),
        branch1=nn.Sequential(Convolution(1024, 192, 1), Convolution(192, 224, (1, 7)), Convolution(224, 256, (7, 1))),
        branch2=nn.Sequential(
            Convolution(1024, 192, 1),
            Convolution(192, 192, (7, 1)),
            Convolution(192, 224, (1, 7)),
            Convolution(224, 224, (7, 1)),
            Convolution(224, 256, (1, 7)),
        ),
        branch3=nn.Sequential(average_around(), Convolution(1024, 128, 1)),
    )


def reduction_b() -> Branches:
    """17x17 -> 8x8 (figure 8)."""
    return Branches(
        branch0=nn.Sequential(Convolution(1024, 192, 1), Convolution(192, 192, 3, stride=2, padding="valid")),
        branch1=nn.Sequential(
            Convolution(1024, 256, 1),
            Convolution(256, 256, (1, 7)),
            Convolution(256, 320, (7, 1)),
            Convolution(320, 320, 3, stride=2, padding="valid"),
        ),
        branch2=nn.MaxPool2d(3, stride=2),
    )


class InceptionC(nn.Module):
    """Maps of 8x8 keep their size; two branches fan out at their ends (figure 6)."""

    def __init__(self) -> None:
        super().__init__()
        self.branch0 = Convolution(1536, 256, 1)
        self.branch1_0 = Convolution(1536, 384, 1)
        self.branch1_1a = Convolution(384, 256, (1, 3))
        self.branch1_1b = Convolution(384, 256, (3, 1))
        self.branch2_0 = Convolution(1536, 384, 1)
        self.branch2_1 = Convolution(384, 448, (3, 1))
        self.branch2_2 = Convolution(448, 512, (1, 3))
        self.branch2_3a = Convolution(512, 256, (1, 3))
        self.branch2_3b = Convolution(512, 256, (3, 1))
        self.branch3 = nn.Sequential(average_around(), Convolution(1536, 256, 1))

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        once = self.branch1_0(maps)
        thrice = self.branch2_2(self.branch2_1(self.branch2_0(maps)))
        fanned = [self.branch1_1a(once), self.branch1_1b(once), self.branch2_3a(thrice), self.branch2_3b(thrice)]
        return torch.cat([self.branch0(maps), *fanned, self.branch3(maps)], 1)
