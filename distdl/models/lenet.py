"""LeNet-5 for 32x32 grey images (LeCun, Bottou, Bengio and Haffner 1998, "Gradient-based learning applied to document
recognition", section II.B). The layers carry the paper's names: C1 S2 C3 S4 C5 F6.

It departs from the paper where everybody has since: C3 sees all six maps (table I connects 60 of 96 pairs), S2 and S4
average without the trainable scale and bias, the squashing is a plain tanh, and the output is linear, for a softmax,
in place of the radial basis functions. Hence 61,706 parameters rather than 60,000.
"""

import torch
from torch import nn

from distdl.errors import UserError
from distdl.models.layers import check_channels, check_probabilities, check_sizes, drop_units

SIDE = 32  # MNIST's 28x28 digits are padded, so that a stroke's end can lie at the centre of C3's field of view


def lenet5(*, classes: int = 10, channels: int = 1, dropout: float = 0.0) -> nn.Module:
    """LeNet-5. Weights start with variance 1 / fan-in and biases at 0, which keeps a tanh unit in its linear range
    (LeCun, Bottou, Orr and Mueller 1998, "Efficient BackProp", section 4.6). `dropout`: of F6."""
    check_sizes(classes=classes, channels=channels)
    check_probabilities(dropout=dropout)
    return LeNet5(classes, channels, dropout)


class LeNet5(nn.Module):
    def __init__(self, classes: int, channels: int, dropout: float) -> None:
        super().__init__()
        self.channels = channels
        self.features = Features(channels)
        self.classifier = Classifier(classes, dropout)
        for parameter in self.parameters():
            if parameter.ndim > 1:
                nn.init.kaiming_normal_(parameter, mode="fan_in", nonlinearity="linear")
            else:
                nn.init.zeros_(parameter)

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
                else f"Add {{resize: {SIDE}}} to the transforms of each split.",
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
