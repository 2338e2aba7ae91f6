"""VGG (Simonyan and Zisserman 2014, "Very deep convolutional networks for large-scale image recognition", table 1,
configurations A, B, D and E): nothing but 3x3 convolutions, in five stages that each end with a 2x2 maximum.

Submodules have torchvision's names (features.0, ..., classifier.6), so that published weights load as they are. `_bn`:
a batch norm behind each convolution, without which the deeper ones need a start from a shallower one's weights, or the
one below. `activation`: any of distdl/models/activations.py that keeps the number of channels. `padding`: "zeros", or
"mirror", which repeats the border's pixels: with a margin of one pixel, that is all there is to mirror.
"""

from collections.abc import Iterator, Sequence
from typing import Literal

import torch
from torch import nn

from distdl.errors import UserError
from distdl.models.activations import KEEPING_CHANNELS, make_activation
from distdl.models.layers import (
    Chain,
    check_channels,
    check_probabilities,
    check_sizes,
    check_smallest,
    initialise_relu_convolutions,
)
from distdl.models.squeeze_excite import SqueezeExcite

WIDTHS = (64, 128, 256, 512, 512)
A, B, D, E = (1, 1, 2, 2, 2), (2, 2, 2, 2, 2), (2, 2, 3, 3, 3), (2, 2, 4, 4, 4)  # convolutions of each stage
PADDINGS: dict[str, Literal["zeros", "replicate"]] = {
    "zeros": "zeros",
    "mirror": "replicate",
}  # torch's names for a margin of 1
SMALLEST = 32


def vgg11(
    *, classes: int = 1000, channels: int = 3, activation: str = "relu", padding: str = "zeros", dropout: float = 0.5
) -> nn.Module:
    """VGG-11: 132,863,336 parameters."""
    layers = convolutions(A, channels, activation, padding, with_norm=False)
    return VGG(Chain(*layers), classes, channels, activation, dropout)


def vgg13(
    *, classes: int = 1000, channels: int = 3, activation: str = "relu", padding: str = "zeros", dropout: float = 0.5
) -> nn.Module:
    """VGG-13: 133,047,848 parameters."""
    layers = convolutions(B, channels, activation, padding, with_norm=False)
    return VGG(Chain(*layers), classes, channels, activation, dropout)


def vgg16(
    *, classes: int = 1000, channels: int = 3, activation: str = "relu", padding: str = "zeros", dropout: float = 0.5
) -> nn.Module:
    """VGG-16: 138,357,544 parameters."""
    layers = convolutions(D, channels, activation, padding, with_norm=False)
    return VGG(Chain(*layers), classes, channels, activation, dropout)


def vgg19(
    *, classes: int = 1000, channels: int = 3, activation: str = "relu", padding: str = "zeros", dropout: float = 0.5
) -> nn.Module:
    """VGG-19: 143,667,240 parameters."""
    layers = convolutions(E, channels, activation, padding, with_norm=False)
    return VGG(Chain(*layers), classes, channels, activation, dropout)


def vgg11_bn(
    *, classes: int = 1000, channels: int = 3, activation: str = "relu", padding: str = "zeros", dropout: float = 0.5
) -> nn.Module:
    """VGG-11 with batch norm: 132,868,840 parameters."""
    layers = convolutions(A, channels, activation, padding, with_norm=True)
    return VGG(Chain(*layers), classes, channels, activation, dropout)


def vgg13_bn(
    *, classes: int = 1000, channels: int = 3, activation: str = "relu", padding: str = "zeros", dropout: float = 0.5
) -> nn.Module:
    """VGG-13 with batch norm: 133,053,736 parameters."""
    layers = convolutions(B, channels, activation, padding, with_norm=True)
    return VGG(Chain(*layers), classes, channels, activation, dropout)


def vgg16_bn(
    *, classes: int = 1000, channels: int = 3, activation: str = "relu", padding: str = "zeros", dropout: float = 0.5
) -> nn.Module:
    """VGG-16 with batch norm: 138,365,992 parameters."""
    layers = convolutions(D, channels, activation, padding, with_norm=True)
    return VGG(Chain(*layers), classes, channels, activation, dropout)


def vgg19_bn(
    *, classes: int = 1000, channels: int = 3, activation: str = "relu", padding: str = "zeros", dropout: float = 0.5
) -> nn.Module:
    """VGG-19 with batch norm: 143,678,248 parameters."""
    layers = convolutions(E, channels, activation, padding, with_norm=True)
    return VGG(Chain(*layers), classes, channels, activation, dropout)


def se_vgg16(
    *, classes: int = 1000, channels: int = 3, activation: str = "relu", padding: str = "zeros", dropout: float = 0.5
) -> nn.Module:
    """SE-VGG-16: squeeze and excitation behind each convolution's activation, with batch norm (Hu et al. 2017,
    "Squeeze-and-excitation networks", sections 3.3 and 5.1): 138,596,784 parameters."""
    layers: list[nn.Module] = []
    for layer in convolutions(D, channels, activation, padding, with_norm=True):
        layers.append(layer)
        if isinstance(layer, nn.BatchNorm2d):
            width = layer.num_features
        elif not isinstance(layer, nn.Conv2d | nn.MaxPool2d):
            layers.append(SqueezeExcite(width))
    return VGG(Chain(*layers), classes, channels, activation, dropout)


def convolutions(
    depths: Sequence[int], channels: int, activation: str, padding: str, *, with_norm: bool
) -> Iterator[nn.Module]:
    """The layers of `features`: `depths` convolutions in each stage, its last one followed by a maximum."""
    check_sizes(channels=channels)
    if padding not in PADDINGS:
        raise UserError(
            f"unknown padding '{padding}'", where="model.args.padding", fix=f"It is one of: {', '.join(PADDINGS)}."
        )
    n_channels = channels
    for width, depth in zip(WIDTHS, depths):
        for _ in range(depth):
            yield nn.Conv2d(n_channels, width, 3, padding=1, padding_mode=PADDINGS[padding])
            if with_norm:
                yield nn.BatchNorm2d(width)
            yield make_activation(activation, KEEPING_CHANNELS)
            n_channels = width
        yield nn.MaxPool2d(2)


class VGG(nn.Module):
    def __init__(self, features: Chain, classes: int, channels: int, activation: str, dropout: float) -> None:
        check_sizes(classes=classes)
        check_probabilities(dropout=dropout)
        super().__init__()
        self.channels = channels
        self.features = features
        self.avgpool = nn.AdaptiveAvgPool2d(7)  # for 224x224 the identity
        self.classifier = Chain(
            nn.Linear(WIDTHS[-1] * 7 * 7, 4096),
            make_activation(activation, KEEPING_CHANNELS),
            nn.Dropout(dropout),
            nn.Linear(4096, 4096),
            make_activation(activation, KEEPING_CHANNELS),
            nn.Dropout(dropout),
            nn.Linear(4096, classes),
        )
        start_as_torchvision(self)

    def forward(self, images_NCHW: torch.Tensor) -> torch.Tensor:
        """(batch, channels, height, width), by design 224x224 -> logits (batch, classes)."""
        check_channels(images_NCHW, self.channels)
        check_smallest(images_NCHW, SMALLEST)
        logits: torch.Tensor = self.classifier(self.avgpool(self.features(images_NCHW)).flatten(1))
        return logits

    def blocks(self) -> list[str]:
        return ["features", "classifier"]


def start_as_torchvision(network: nn.Module) -> None:
    """Convolutions as He et al. 2015 do for ReLUs, linear layers normal with deviation 0.01, biases at 0."""
    initialise_relu_convolutions(network)
    for module in network.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.01)
        if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
