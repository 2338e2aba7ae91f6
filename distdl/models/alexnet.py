"""AlexNet, twice: what people mean by it today, and what was published.

alexnet            one tower (Krizhevsky 2014, "One weird trick for parallelizing convolutional neural networks",
                   section 2): 64 filters in the first layer, no normalisation. Submodules have torchvision's names,
                   so that published weights load as they are.
alexnet_two_tower  two towers (Krizhevsky, Sutskever and Hinton 2012, "ImageNet classification with deep
                   convolutional neural networks"), which meet in conv3 and behind conv5, with local response
                   normalisation. Submodules have the names of Caffe: conv1 ... conv5, fc6 ... fc8.
"""

from collections import OrderedDict

import torch
from torch import nn

from distdl.models.activations import LocalResponseNorm
from distdl.models.layers import Chain, check_channels, check_probabilities, check_sizes, check_smallest

SMALLEST = 63  # of which a pixel is left behind the last pooling


def alexnet(*, classes: int = 1000, channels: int = 3, dropout: float = 0.5) -> nn.Module:
    """AlexNet in one tower: 61,100,840 parameters. Weights start as torch's layers do."""
    check_arguments(classes, channels, dropout)
    features = Chain(
        nn.Conv2d(channels, 64, 11, stride=4, padding=2),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(3, stride=2),
        nn.Conv2d(64, 192, 5, padding=2),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(3, stride=2),
        nn.Conv2d(192, 384, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(384, 256, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(256, 256, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(3, stride=2),
    )
    classifier = Chain(
        nn.Dropout(dropout),
        nn.Linear(256 * 6 * 6, 4096),
        nn.ReLU(inplace=True),
        nn.Dropout(dropout),
        nn.Linear(4096, 4096),
        nn.ReLU(inplace=True),
        nn.Linear(4096, classes),
    )
    return AlexNet(channels, features, classifier)


def alexnet_two_tower(*, classes: int = 1000, channels: int = 3, dropout: float = 0.5) -> nn.Module:
    """AlexNet as published: 60,965,224 parameters. `groups` keeps the towers apart. Weights start normal with
    deviation 0.01, biases at 1 in conv2, conv4, conv5, fc6 and fc7, so that their ReLUs have something to learn from,
    and at 0 in the others (section 5)."""
    check_arguments(classes, channels, dropout)
    features = Chain(
        OrderedDict[str, nn.Module](
            conv1=nn.Conv2d(channels, 96, 11, stride=4, padding=2),  # 224 -> 55, as the paper's figure 2 says
            relu1=nn.ReLU(inplace=True),
            norm1=LocalResponseNorm(),
            pool1=nn.MaxPool2d(3, stride=2),
            conv2=nn.Conv2d(96, 256, 5, padding=2, groups=2),
            relu2=nn.ReLU(inplace=True),
            norm2=LocalResponseNorm(),
            pool2=nn.MaxPool2d(3, stride=2),
            conv3=nn.Conv2d(256, 384, 3, padding=1),
            relu3=nn.ReLU(inplace=True),
            conv4=nn.Conv2d(384, 384, 3, padding=1, groups=2),
            relu4=nn.ReLU(inplace=True),
            conv5=nn.Conv2d(384, 256, 3, padding=1, groups=2),
            relu5=nn.ReLU(inplace=True),
            pool5=nn.MaxPool2d(3, stride=2),
        )
    )
    classifier = Chain(
        OrderedDict[str, nn.Module](
            fc6=nn.Linear(256 * 6 * 6, 4096),
            relu6=nn.ReLU(inplace=True),
            drop6=nn.Dropout(dropout),
            fc7=nn.Linear(4096, 4096),
            relu7=nn.ReLU(inplace=True),
            drop7=nn.Dropout(dropout),
            fc8=nn.Linear(4096, classes),
        )
    )
    network = AlexNet(channels, features, classifier)
    start_as_published(network)
    return network


def start_as_published(network: nn.Module) -> None:
    for name, parameter in network.named_parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=0.01)
        else:
            layer = name.split(".")[-2]
            nn.init.constant_(parameter, 1.0 if layer in ("conv2", "conv4", "conv5", "fc6", "fc7") else 0.0)


def check_arguments(classes: int, channels: int, dropout: float) -> None:
    check_sizes(classes=classes, channels=channels)
    check_probabilities(dropout=dropout)


class AlexNet(nn.Module):
    def __init__(self, channels: int, features: Chain, classifier: Chain) -> None:
        super().__init__()
        self.channels = channels
        self.features = features
        self.avgpool = nn.AdaptiveAvgPool2d(6)  # for 224x224 the identity
        self.classifier = classifier

    def forward(self, images_NCHW: torch.Tensor) -> torch.Tensor:
        """(batch, channels, height, width), by design 224x224 -> logits (batch, classes)."""
        check_channels(images_NCHW, self.channels)
        check_smallest(images_NCHW, SMALLEST)
        logits: torch.Tensor = self.classifier(self.avgpool(self.features(images_NCHW)).flatten(1))
        return logits

    def blocks(self) -> list[str]:
        return ["features", "classifier"]
