"""Networks for German traffic signs (GTSRB, 43 classes), the winner and the runner-up of the benchmark in 2011.

gtsrb_mcdnn       one column (Ciresan, Meier, Masci and Schmidhuber 2012, "Multi-column deep neural network for
                  traffic sign classification"), for colour images of 48x48
gtsrb_committee   many columns, whose class probabilities are averaged
gtsrb_multiscale  two stages, of which both go to the classifier (Sermanet and LeCun 2011, "Traffic sign recognition
                  with multi-scale convolutional networks"), for grey images of 32x32
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

from distdl.errors import UserError
from distdl.models.activations import Absolute, LocalContrastNorm, ScaledTanh
from distdl.models.layers import Chain, check_channels, check_sizes


def gtsrb_mcdnn(*, classes: int = 43, channels: int = 3) -> nn.Module:
    """A column of the multi-column network: 1,543,443 parameters. Weights start uniform within 0.05."""
    check_sizes(classes=classes, channels=channels)
    return Column(classes, channels)


def gtsrb_committee(*, classes: int = 43, channels: int = 3, columns: int = 25) -> nn.Module:
    """The multi-column network: softmax of its logits is the mean of the columns' probabilities. 38,586,075 parameters.

    The paper trains each column alone (as `gtsrb_mcdnn`), five of them for each of five ways to normalise the contrast,
    and gives each its own version of the image. Here all columns see the image as it comes; weights of columns that
    were trained alone fit in under the names columns.0, columns.1, ...
    """
    check_sizes(classes=classes, channels=channels, columns=columns)
    return Committee([Column(classes, channels) for _ in range(columns)])


def gtsrb_multiscale(
    *, classes: int = 43, channels: int = 1, features1: int = 108, features2: int = 108, hidden: int = 100
) -> nn.Module:
    """The network of two scales: 1,098,159 parameters. Its first stage's maps, sub-sampled once more, go to the
    classifier beside those of the second, so that it sees details as well as whole shapes.

    A stage: 5x5 convolution, tanh, absolute value, contrast normalisation, 2x2 mean (Jarrett et al. 2009). The paper
    compares several sizes, on colour and on grey images, of which grey ones did best. `features1` and `features2` (maps
    of the stages) and `hidden` (units of the classifier) set them; all maps are connected here, and weights start as
    torch's layers do.
    """
    check_sizes(classes=classes, channels=channels, features1=features1, features2=features2, hidden=hidden)
    return MultiScale(classes, channels, features1, features2, hidden)


class Column(nn.Module):
    side = 48

    def __init__(self, classes: int, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.features = Chain(
            nn.Conv2d(channels, 100, 7),  # 48 -> 42
            ScaledTanh(),
            nn.MaxPool2d(2),  # 21
            nn.Conv2d(100, 150, 4),  # 18
            ScaledTanh(),
            nn.MaxPool2d(2),  # 9
            nn.Conv2d(150, 250, 4),  # 6
            ScaledTanh(),
            nn.MaxPool2d(2),  # 3
        )
        self.classifier = Chain(nn.Linear(250 * 3 * 3, 300), ScaledTanh(), nn.Linear(300, classes))
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -0.05, 0.05)

    def forward(self, images_NCHW: torch.Tensor) -> torch.Tensor:
        """(batch, channels, 48, 48) -> logits (batch, classes)."""
        check_channels(images_NCHW, self.channels)
        check_side(images_NCHW, self.side)
        logits: torch.Tensor = self.classifier(self.features(images_NCHW).flatten(1))
        return logits

    def blocks(self) -> list[str]:
        return ["features", "classifier"]


class Committee(nn.Module):
    def __init__(self, columns: list[Column]) -> None:
        super().__init__()
        self.columns = nn.ModuleList(columns)

    def forward(self, images_NCHW: torch.Tensor) -> torch.Tensor:
        """(batch, channels, 48, 48) -> logits (batch, classes): the logarithm of the mean probability."""
        log_probabilities = torch.stack([F.log_softmax(column(images_NCHW), dim=1) for column in self.columns])
        return log_probabilities.logsumexp(dim=0) - math.log(len(self.columns))

    def blocks(self) -> list[str]:
        return [f"columns.{number}" for number in range(len(self.columns))]


class MultiScale(nn.Module):
    side = 32

    def __init__(self, classes: int, channels: int, features1: int, features2: int, hidden: int) -> None:
        super().__init__()
        self.channels = channels
        self.stage1 = stage(channels, features1)  # 32 -> 14
        self.stage2 = stage(features1, features2)  # 14 -> 5
        self.subsample = nn.AvgPool2d(2)  # stage 1 once more: 14 -> 7
        self.classifier = Chain(
            nn.Linear(features1 * 7 * 7 + features2 * 5 * 5, hidden), nn.Tanh(), nn.Linear(hidden, classes)
        )

    def forward(self, images_NCHW: torch.Tensor) -> torch.Tensor:
        """(batch, channels, 32, 32) -> logits (batch, classes)."""
        check_channels(images_NCHW, self.channels)
        check_side(images_NCHW, self.side)
        fine = self.stage1(images_NCHW)
        both = torch.cat([self.subsample(fine).flatten(1), self.stage2(fine).flatten(1)], dim=1)
        logits: torch.Tensor = self.classifier(both)
        return logits

    def blocks(self) -> list[str]:
        return ["stage1", "stage2", "classifier"]


def stage(inputs: int, outputs: int) -> Chain:
    return Chain(nn.Conv2d(inputs, outputs, 5), nn.Tanh(), Absolute(), LocalContrastNorm(), nn.AvgPool2d(2))


def check_side(images_NCHW: torch.Tensor, side: int) -> None:
    """Raises UserError unless the images are `side` x `side`."""
    height, width = images_NCHW.shape[2:]
    if (height, width) != (side, side):
        raise UserError(
            f"the network takes images of {side}x{side}, these are {height}x{width}",
            where="data",
            fix=f"Add {{resize: [{side}, {side}]}} to the transforms of each split.",
        )
