"""OverFeat (Sermanet, Eigen, Zhang, Mathieu, Fergus and LeCun 2013, "OverFeat: integrated recognition, localization and
detection using convolutional networks"), the fast network of table 1 and the accurate one of table 3.

AlexNet without response normalisation and without overlapping pools, with larger first maps. The fully connected
layers are convolutions too, so that a larger image gives a map of answers, one for each place of a window that slides
over it: a class's logit is the largest of its map (section 3.3). The layers have the numbers of the paper's tables.
"""

from collections import OrderedDict

import torch
from torch import nn

from distdl.models.layers import Chain, check_channels, check_probabilities, check_sizes, check_smallest


def overfeat_fast(*, classes: int = 1000, channels: int = 3, dropout: float = 0.5) -> nn.Module:
    """OverFeat, the fast network: 145,920,872 parameters, for images of 231x231."""
    check_arguments(classes, channels, dropout)
    features = Chain(
        OrderedDict[str, nn.Module](
            conv1=nn.Conv2d(channels, 96, 11, stride=4),  # 231 -> 56
            relu1=nn.ReLU(inplace=True),
            pool1=nn.MaxPool2d(2),  # 28
            conv2=nn.Conv2d(96, 256, 5),  # 24
            relu2=nn.ReLU(inplace=True),
            pool2=nn.MaxPool2d(2),  # 12
            conv3=nn.Conv2d(256, 512, 3, padding=1),
            relu3=nn.ReLU(inplace=True),
            conv4=nn.Conv2d(512, 1024, 3, padding=1),
            relu4=nn.ReLU(inplace=True),
            conv5=nn.Conv2d(1024, 1024, 3, padding=1),
            relu5=nn.ReLU(inplace=True),
            pool5=nn.MaxPool2d(2),  # 6
        )
    )
    classifier = Chain(
        OrderedDict[str, nn.Module](
            full6=nn.Conv2d(1024, 3072, 6),  # 1
            relu6=nn.ReLU(inplace=True),
            drop6=nn.Dropout(dropout),
            full7=nn.Conv2d(3072, 4096, 1),
            relu7=nn.ReLU(inplace=True),
            drop7=nn.Dropout(dropout),
            full8=nn.Conv2d(4096, classes, 1),
        )
    )
    return OverFeat(231, channels, features, classifier)


def overfeat_accurate(*, classes: int = 1000, channels: int = 3, dropout: float = 0.5) -> nn.Module:
    """OverFeat, the accurate network: 144,656,488 parameters, for images of 221x221, and twice the work of the fast
    one: the first layer has a stride of 2 and not 4."""
    check_arguments(classes, channels, dropout)
    features = Chain(
        OrderedDict[str, nn.Module](
            conv1=nn.Conv2d(channels, 96, 7, stride=2),  # 221 -> 108
            relu1=nn.ReLU(inplace=True),
            pool1=nn.MaxPool2d(3),  # 36
            conv2=nn.Conv2d(96, 256, 7),  # 30
            relu2=nn.ReLU(inplace=True),
            pool2=nn.MaxPool2d(2),  # 15
            conv3=nn.Conv2d(256, 512, 3, padding=1),
            relu3=nn.ReLU(inplace=True),
            conv4=nn.Conv2d(512, 512, 3, padding=1),
            relu4=nn.ReLU(inplace=True),
            conv5=nn.Conv2d(512, 1024, 3, padding=1),
            relu5=nn.ReLU(inplace=True),
            conv6=nn.Conv2d(1024, 1024, 3, padding=1),
            relu6=nn.ReLU(inplace=True),
            pool6=nn.MaxPool2d(3),  # 5
        )
    )
    classifier = Chain(
        OrderedDict[str, nn.Module](
            full7=nn.Conv2d(1024, 4096, 5),  # 1
            relu7=nn.ReLU(inplace=True),
            drop7=nn.Dropout(dropout),
            full8=nn.Conv2d(4096, 4096, 1),
            relu8=nn.ReLU(inplace=True),
            drop8=nn.Dropout(dropout),
            full9=nn.Conv2d(4096, classes, 1),
        )
    )
    return OverFeat(221, channels, features, classifier)


def check_arguments(classes: int, channels: int, dropout: float) -> None:
    check_sizes(classes=classes, channels=channels)
    check_probabilities(dropout=dropout)


class OverFeat(nn.Module):
    """`side`: of the window, for which the classifier gives one answer. Weights start normal with deviation 0.01
    (section 3.1), biases at 0."""

    def __init__(self, side: int, channels: int, features: Chain, classifier: Chain) -> None:
        super().__init__()
        self.side = side
        self.channels = channels
        self.features = features
        self.classifier = classifier
        for parameter in self.parameters():
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=0.01)
            else:
                nn.init.zeros_(parameter)

    def forward(self, images_NCHW: torch.Tensor) -> torch.Tensor:
        """(batch, channels, height, width), of the window's size or larger -> logits (batch, classes)."""
        check_channels(images_NCHW, self.channels)
        check_smallest(images_NCHW, self.side)
        logits: torch.Tensor = self.classifier(self.features(images_NCHW)).amax(dim=(2, 3))
        return logits

    def blocks(self) -> list[str]:
        return ["features", "classifier"]
