"""LeNet-5 for 32x32 grey images (LeCun, Bottou, Bengio and Haffner 1998, "Gradient-based learning applied to document
recognition", section II.B). The layers carry the paper's names: C1 S2 C3 S4 C5 F6.

`lenet5_sparse` is the paper's. `lenet5` departs from it where everybody has since: C3 sees all six maps (table I
connects 60 of 96 pairs), S2 and S4 average without the trainable scale and bias, the squashing is a plain tanh, and the
output is linear, for a softmax, in place of the radial basis functions. Hence 61,706 parameters rather than 60,000.
"""

import random

import torch
import torch.nn.functional as F
from torch import nn

from distdl.errors import UserError
from distdl.models.activations import ScaledTanh
from distdl.models.layers import check_channels, check_probabilities, check_sizes, drop_units

SIDE = 32  # MNIST's 28x28 digits are padded, so that a stroke's end can lie at the centre of C3's field of view


def lenet5(*, classes: int = 10, channels: int = 1, dropout: float = 0.0) -> nn.Module:
    """LeNet-5. Weights start with variance 1 / fan-in and biases at 0, which keeps a tanh unit in its linear range
    (LeCun, Bottou, Orr and Mueller 1998, "Efficient BackProp", section 4.6). `dropout`: of F6."""
    check_sizes(classes=classes, channels=channels)
    check_probabilities(dropout=dropout)
    network = LeNet5(channels, Features(channels), Classifier(classes, dropout))
    for parameter in network.parameters():
        if parameter.ndim > 1:
            nn.init.kaiming_normal_(parameter, mode="fan_in", nonlinearity="linear")
        else:
            nn.init.zeros_(parameter)
    return network


def lenet5_sparse(*, classes: int = 10, channels: int = 1, dropout: float = 0.0) -> nn.Module:
    """LeNet-5 as published: 60,000 trainable parameters, and 840 fixed ones of its output. A unit's weights and bias
    start uniform within 2.4 / fan-in (appendix A). `dropout`: of F6.

    The output is the negative of the squared distance between F6 and each class's code. Cross-entropy of that is the
    paper's criterion (equation 9) without the rubbish class: its constant e^-j. Such logits spread over more than a
    hundred, and ask for a tenth of the learning rate of `lenet5`.
    """
    check_sizes(classes=classes, channels=channels)
    check_probabilities(dropout=dropout)
    network = LeNet5(channels, SparseFeatures(channels), RadialClassifier(classes, dropout))
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear | SubSampling):
            fan_in = 4 if isinstance(module, SubSampling) else module.weight[0].numel()
            for parameter in module.parameters():
                nn.init.uniform_(parameter, -2.4 / fan_in, 2.4 / fan_in)
    return network


class LeNet5(nn.Module):
    def __init__(self, channels: int, features: nn.Module, classifier: nn.Module) -> None:
        super().__init__()
        self.channels = channels
        self.features = features
        self.classifier = classifier

    def forward(self, images_NCHW: torch.Tensor) -> torch.Tensor:
        """(batch, channels, 32, 32) -> logits (batch, classes)."""
        check_channels(images_NCHW, self.channels)
        height, width = images_NCHW.shape[2:]
        if (height, width) != (SIDE, SIDE):
            raise UserError(
                f"LeNet-5 takes images of {SIDE}x{SIDE}, these are {height}x{width}",
                where="data",
                fix="Add {pad: 2} to the transforms of each split."
                if height == width == 28
                else f"Add {{resize: [{SIDE}, {SIDE}]}} to the transforms of each split.",
            )
        logits: torch.Tensor = self.classifier(self.features(images_NCHW))
        return logits

    def blocks(self) -> list[str]:
        return ["features", "classifier"]


class Features(nn.Module):
    """C1 to C5: (batch, channels, 32, 32) -> (batch, 120)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.c1 = nn.Conv2d(channels, 6, 5)  # 32 -> 28
        self.s2 = nn.AvgPool2d(2)  # 28 -> 14
        self.c3 = nn.Conv2d(6, 16, 5)  # 14 -> 10
        self.s4 = nn.AvgPool2d(2)  # 10 -> 5
        self.c5 = nn.Conv2d(16, 120, 5)  # 5 -> 1

    def forward(self, images_NCHW: torch.Tensor) -> torch.Tensor:
        maps = self.s2(torch.tanh(self.c1(images_NCHW)))
        maps = self.s4(torch.tanh(self.c3(maps)))
        return torch.tanh(self.c5(maps)).flatten(1)


class Classifier(nn.Module):
    """F6 and the output: (batch, 120) -> logits (batch, classes)."""

    def __init__(self, classes: int, dropout: float) -> None:
        super().__init__()
        self.f6 = nn.Linear(120, 84)
        self.output = nn.Linear(84, classes)
        self.dropout = dropout

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        units = drop_units(torch.tanh(self.f6(values)), self.dropout, self.training)
        logits: torch.Tensor = self.output(units)
        return logits


# Table I: which maps of S2 each map of C3 sees, by the number of them.
SEEING_THREE = ((0, 1, 2), (1, 2, 3), (2, 3, 4), (3, 4, 5), (0, 4, 5), (0, 1, 5))
SEEING_FOUR = (
    (0, 1, 2, 3),
    (1, 2, 3, 4),
    (2, 3, 4, 5),
    (0, 3, 4, 5),
    (0, 1, 4, 5),
    (0, 1, 2, 5),
    (0, 1, 3, 4),
    (1, 2, 4, 5),
    (0, 2, 3, 5),
)


class SparseFeatures(nn.Module):
    """The paper's C1 to C5: (batch, channels, 32, 32) -> (batch, 120). C3's sixteenth map sees all of S2."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.squash = ScaledTanh()
        self.c1 = nn.Conv2d(channels, 6, 5)
        self.s2 = SubSampling(6)
        self.c3_three = nn.Conv2d(3 * 6, 6, 5, groups=6)
        self.c3_four = nn.Conv2d(4 * 9, 9, 5, groups=9)
        self.c3_all = nn.Conv2d(6, 1, 5)
        self.s4 = SubSampling(16)
        self.c5 = nn.Conv2d(16, 120, 5)

    def forward(self, images_NCHW: torch.Tensor) -> torch.Tensor:
        maps = self.squash(self.s2(self.squash(self.c1(images_NCHW))))
        three = self.c3_three(maps[:, sum(SEEING_THREE, ())])
        four = self.c3_four(maps[:, sum(SEEING_FOUR, ())])
        maps = self.squash(torch.cat([three, four, self.c3_all(maps)], dim=1))
        maps = self.squash(self.s4(maps))
        features: torch.Tensor = self.squash(self.c5(maps)).flatten(1)
        return features


class SubSampling(nn.Module):
    """The sum of 2x2 pixels, times a trainable coefficient, plus a trainable bias: one of each for a map."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        return F.avg_pool2d(maps, 2) * (4 * self.weight[:, None, None]) + self.bias[:, None, None]


class RadialClassifier(nn.Module):
    """F6 and the output: (batch, 120) -> logits (batch, classes), never positive.

    A code's 84 components are -1 or 1. The paper draws them as 7x12 pictures of the characters, so that similar ones
    have similar codes, and names as the alternative what is done here for any classes: chosen at random, once for all.
    """

    codes: torch.Tensor

    def __init__(self, classes: int, dropout: float) -> None:
        super().__init__()
        self.f6 = nn.Linear(120, 84)
        self.squash = ScaledTanh()
        self.dropout = dropout
        draws = random.Random(1998)
        self.register_buffer("codes", torch.tensor([draws.choices((-1.0, 1.0), k=84) for _ in range(classes)]))

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        units = drop_units(self.squash(self.f6(values)), self.dropout, self.training)
        return -(units[:, None] - self.codes).square().sum(dim=2)
