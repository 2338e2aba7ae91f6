"""Inception-v3 (Szegedy et al. 2015, "Rethinking the Inception architecture for computer vision", table 1): large
convolutions taken apart into small ones, 5x5 into two of 3x3 and 7x7 into 1x7 and 7x1.

Submodules have torchvision's names (Conv2d_1a_3x3, Mixed_5b.branch1x1, ..., fc), so that published weights load as they
are. An auxiliary classifier on Mixed_6e regularises (section 4); its loss counts 0.4 in training.
"""

import torch
import torch.nn.functional as F
from torch import nn

from distdl.models.inception_parts import Convolution, check_has_heads, check_side
from distdl.models.layers import check_channels, check_probabilities, check_sizes, drop_units


def inception_v3(*, classes: int = 1000, channels: int = 3, auxiliary: bool = False, dropout: float = 0.5) -> nn.Module:
    """Inception-v3: 23,834,568 parameters, with the auxiliary head 27,161,264. Its published weights want each channel
    normalised to a mean and a deviation of 0.5."""
    check_sizes(classes=classes, channels=channels)
    check_probabilities(dropout=dropout)
    return InceptionV3(classes, channels, auxiliary, dropout)


class InceptionV3(nn.Module):
    """`auxiliary`: whether AuxLogits exists. Weights start as torchvision's: normal, deviation 0.1."""

    def __init__(self, classes: int, channels: int, auxiliary: bool, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        self.Conv2d_1a_3x3 = Convolution(channels, 32, 3, stride=2, padding="valid")
        self.Conv2d_2a_3x3 = Convolution(32, 32, 3, padding="valid")
        self.Conv2d_2b_3x3 = Convolution(32, 64, 3)
        self.Conv2d_3b_1x1 = Convolution(64, 80, 1)
        self.Conv2d_4a_3x3 = Convolution(80, 192, 3, padding="valid")
        self.Mixed_5b = Mixed35(192, of_pool=32)
        self.Mixed_5c = Mixed35(256, of_pool=64)
        self.Mixed_5d = Mixed35(288, of_pool=64)
        self.Mixed_6a = To17(288)
        self.Mixed_6b = Mixed17(768, width=128)
        self.Mixed_6c = Mixed17(768, width=160)
        self.Mixed_6d = Mixed17(768, width=160)
        self.Mixed_6e = Mixed17(768, width=192)
        self.AuxLogits = AuxiliaryHead(768, classes) if auxiliary else None
        self.Mixed_7a = To8(768)
        self.Mixed_7b = Mixed8(1280)
        self.Mixed_7c = Mixed8(2048)
        self.fc = nn.Linear(2048, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.normal_(module.weight, std=0.1)  # torchvision truncates it at 20 deviations
        if self.AuxLogits is not None:
            nn.init.normal_(self.AuxLogits.conv1.conv.weight, std=0.01)
            nn.init.normal_(self.AuxLogits.fc.weight, std=0.001)

    def forward(self, images_NCHW: torch.Tensor) -> torch.Tensor:
        """(batch, channels, height, width), by design 299x299, from 75x75 on -> logits (batch, classes); in training
        with the auxiliary head its own as well, (batch, 2, classes)."""
        if self.training and self.AuxLogits is not None:
            return torch.stack(self.forward_with_auxiliary(images_NCHW), dim=1)
        return self._from_7a_on(self._up_to_6e(images_NCHW))

    def forward_with_auxiliary(self, images_NCHW: torch.Tensor) -> list[torch.Tensor]:
        """Logits (batch, classes) of the network and of AuxLogits, which takes maps of 17x17.

        Raises UserError for images smaller than 299x299."""
        check_has_heads(self.AuxLogits, "Inception-v3")
        check_side(images_NCHW, 299, "Inception-v3's auxiliary head")
        maps = self._up_to_6e(images_NCHW)
        return [self._from_7a_on(maps), self.AuxLogits(maps)]  # type: ignore[misc]

    def _up_to_6e(self, images_NCHW: torch.Tensor) -> torch.Tensor:
        check_channels(images_NCHW, self.Conv2d_1a_3x3.conv.in_channels)
        check_side(images_NCHW, 75, "Inception-v3")
        maps = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(images_NCHW)))
        maps = F.max_pool2d(maps, 3, stride=2)
        maps = F.max_pool2d(self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(maps)), 3, stride=2)
        maps = self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(maps)))
        maps = self.Mixed_6c(self.Mixed_6b(self.Mixed_6a(maps)))
        maps_6e: torch.Tensor = self.Mixed_6e(self.Mixed_6d(maps))
        return maps_6e

    def _from_7a_on(self, maps: torch.Tensor) -> torch.Tensor:
        maps = self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(maps)))
        features = drop_units(maps.mean((2, 3)), self.dropout, self.training)
        logits: torch.Tensor = self.fc(features)
        return logits

    def blocks(self) -> list[str]:
        """The inception modules. The stem and the classifiers are left to the root."""
        return [name for name, _ in self.named_children() if name.startswith("Mixed")]


class Mixed35(nn.Module):
    """Maps of 35x35 keep their size (figure 5)."""

    def __init__(self, inputs: int, of_pool: int) -> None:
        super().__init__()
        self.branch1x1 = Convolution(inputs, 64, 1)
        self.branch5x5_1 = Convolution(inputs, 48, 1)
        self.branch5x5_2 = Convolution(48, 64, 5)
        self.branch3x3dbl_1 = Convolution(inputs, 64, 1)
        self.branch3x3dbl_2 = Convolution(64, 96, 3)
        self.branch3x3dbl_3 = Convolution(96, 96, 3)
        self.branch_pool = Convolution(inputs, of_pool, 1)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        of_5x5 = self.branch5x5_2(self.branch5x5_1(maps))
        of_two_3x3 = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(maps)))
        return torch.cat([self.branch1x1(maps), of_5x5, of_two_3x3, self.branch_pool(_average_around(maps))], 1)


class To17(nn.Module):
    """35x35 -> 17x17 (figure 10)."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.branch3x3 = Convolution(inputs, 384, 3, stride=2, padding="valid")
        self.branch3x3dbl_1 = Convolution(inputs, 64, 1)
        self.branch3x3dbl_2 = Convolution(64, 96, 3)
        self.branch3x3dbl_3 = Convolution(96, 96, 3, stride=2, padding="valid")

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        of_two_3x3 = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(maps)))
        return torch.cat([self.branch3x3(maps), of_two_3x3, F.max_pool2d(maps, 3, stride=2)], 1)


class Mixed17(nn.Module):
    """Maps of 17x17 keep their size; n = 7 (figure 6)."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.branch1x1 = Convolution(inputs, 192, 1)
        self.branch7x7_1 = Convolution(inputs, width, 1)
        self.branch7x7_2 = Convolution(width, width, (1, 7))
        self.branch7x7_3 = Convolution(width, 192, (7, 1))
        self.branch7x7dbl_1 = Convolution(inputs, width, 1)
        self.branch7x7dbl_2 = Convolution(width, width, (7, 1))
        self.branch7x7dbl_3 = Convolution(width, width, (1, 7))
        self.branch7x7dbl_4 = Convolution(width, width, (7, 1))
        self.branch7x7dbl_5 = Convolution(width, 192, (1, 7))
        self.branch_pool = Convolution(inputs, 192, 1)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        of_7x7 = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(maps)))
        of_two_7x7 = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(maps)))
        of_two_7x7 = self.branch7x7dbl_5(self.branch7x7dbl_4(of_two_7x7))
        return torch.cat([self.branch1x1(maps), of_7x7, of_two_7x7, self.branch_pool(_average_around(maps))], 1)


class To8(nn.Module):
    """17x17 -> 8x8 (figure 10, with 1x7 and 7x1 in the longer branch)."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.branch3x3_1 = Convolution(inputs, 192, 1)
        self.branch3x3_2 = Convolution(192, 320, 3, stride=2, padding="valid")
        self.branch7x7x3_1 = Convolution(inputs, 192, 1)
        self.branch7x7x3_2 = Convolution(192, 192, (1, 7))
        self.branch7x7x3_3 = Convolution(192, 192, (7, 1))
        self.branch7x7x3_4 = Convolution(192, 192, 3, stride=2, padding="valid")

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        of_3x3 = self.branch3x3_2(self.branch3x3_1(maps))
        of_7x7 = self.branch7x7x3_3(self.branch7x7x3_2(self.branch7x7x3_1(maps)))
        return torch.cat([of_3x3, self.branch7x7x3_4(of_7x7), F.max_pool2d(maps, 3, stride=2)], 1)


class Mixed8(nn.Module):
    """Maps of 8x8 keep their size; the branches fan out at their ends (figure 7)."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.branch1x1 = Convolution(inputs, 320, 1)
        self.branch3x3_1 = Convolution(inputs, 384, 1)
        self.branch3x3_2a = Convolution(384, 384, (1, 3))
        self.branch3x3_2b = Convolution(384, 384, (3, 1))
        self.branch3x3dbl_1 = Convolution(inputs, 448, 1)
        self.branch3x3dbl_2 = Convolution(448, 384, 3)
        self.branch3x3dbl_3a = Convolution(384, 384, (1, 3))
        self.branch3x3dbl_3b = Convolution(384, 384, (3, 1))
        self.branch_pool = Convolution(inputs, 192, 1)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        reduced = self.branch3x3_1(maps)
        of_3x3 = [self.branch3x3_2a(reduced), self.branch3x3_2b(reduced)]
        once = self.branch3x3dbl_2(self.branch3x3dbl_1(maps))
        of_two_3x3 = [self.branch3x3dbl_3a(once), self.branch3x3dbl_3b(once)]
        of_pool = self.branch_pool(_average_around(maps))
        return torch.cat([self.branch1x1(maps), *of_3x3, *of_two_3x3, of_pool], 1)


class AuxiliaryHead(nn.Module):
    """5x5 means at a stride of 3, a 5x5 convolution to one pixel, logits (figure 8)."""

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__()
        self.conv0 = Convolution(inputs, 128, 1)
        self.conv1 = Convolution(128, 768, 5, padding="valid")
        self.fc = nn.Linear(768, classes)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        maps = self.conv1(self.conv0(F.avg_pool2d(maps, 5, stride=3)))
        logits: torch.Tensor = self.fc(maps.mean((2, 3)))
        return logits


def _average_around(maps: torch.Tensor) -> torch.Tensor:
    """As torchvision: at the edges, the zeros around the map count."""
    return F.avg_pool2d(maps, 3, stride=1, padding=1)
