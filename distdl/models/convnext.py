"""ConvNeXt (Liu, Mao, Wu, Feichtenhofer, Darrell and Xie 2022, "A ConvNet for the 2020s"): a ResNet, modernised step by
step until it matches vision transformers.

Submodules have torchvision's names (features.0.0, features.1.0.block.0, features.1.0.layer_scale, ..., classifier.2),
so that published weights load as they are. The stem cuts the image into patches of 4x4, each later stage halves it.
Layer norms are over channels: maps are turned to NHWC for them, which is a view when images come channels-last.
"""

import torch
import torch.nn.functional as F
from torch import nn

from distdl.errors import UserError
from distdl.models.layers import (
    check_channels,
    check_probabilities,
    check_sizes,
    drop_residual,
    drop_units,
    set_stochastic_depth,
)

SMALLEST = 32  # pixels a side: 4 * 2 * 2 * 2
EPSILON = 1e-6  # of layer norms


def convnext_tiny(
    *, classes: int = 1000, channels: int = 3, dropout: float = 0.0, stochastic_depth: float = 0.1
) -> nn.Module:
    """ConvNeXt-T: 28,589,128 parameters. Stochastic depth is the paper's (table 5)."""
    return ConvNeXt((96, 192, 384, 768), (3, 3, 9, 3), classes, channels, dropout, stochastic_depth)


def convnext_small(
    *, classes: int = 1000, channels: int = 3, dropout: float = 0.0, stochastic_depth: float = 0.4
) -> nn.Module:
    """ConvNeXt-S: 50,223,688 parameters. Stochastic depth is the paper's (table 5)."""
    return ConvNeXt((96, 192, 384, 768), (3, 3, 27, 3), classes, channels, dropout, stochastic_depth)


def convnext_base(
    *, classes: int = 1000, channels: int = 3, dropout: float = 0.0, stochastic_depth: float = 0.5
) -> nn.Module:
    """ConvNeXt-B: 88,591,464 parameters. Stochastic depth is the paper's (table 5)."""
    return ConvNeXt((128, 256, 512, 1024), (3, 3, 27, 3), classes, channels, dropout, stochastic_depth)


class ConvNeXt(nn.Module):
    """`widths` and `depths`: channels and blocks of the stages (section 3)."""

    def __init__(
        self,
        widths: tuple[int, ...],
        depths: tuple[int, ...],
        classes: int,
        channels: int,
        dropout: float,
        stochastic_depth: float,
    ) -> None:
        check_sizes(classes=classes, channels=channels)
        check_probabilities(dropout=dropout, stochastic_depth=stochastic_depth)
        super().__init__()
        self.channels = channels
        self.dropout = dropout
        self.features = nn.Sequential(
            nn.Sequential(nn.Conv2d(channels, widths[0], 4, stride=4), ChannelNorm(widths[0]))
        )
        for index, (width, depth) in enumerate(zip(widths, depths)):
            if index:
                before = widths[index - 1]
                self.features.append(nn.Sequential(ChannelNorm(before), nn.Conv2d(before, width, 2, stride=2)))
            self.features.append(nn.Sequential(*(ConvNeXtBlock(width) for _ in range(depth))))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(ChannelNorm(widths[-1]), nn.Flatten(), nn.Linear(widths[-1], classes))

        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]  # all have one
        set_stochastic_depth([self.get_submodule(name) for name in self.blocks()], stochastic_depth)

    def forward(self, images_NCHW: torch.Tensor) -> torch.Tensor:
        """(batch, channels, height, width), any size from 32 on -> logits (batch, classes)."""
        check_channels(images_NCHW, self.channels)
        height, width = images_NCHW.shape[2:]
        if min(height, width) < SMALLEST:
            raise UserError(
                f"ConvNeXt takes images of at least {SMALLEST}x{SMALLEST}, these are {height}x{width}",
                where="data",
                fix=f"Add {{resize: {SMALLEST}}}, or more, to the transforms of each split.",
            )
        norm, flatten, linear = self.classifier
        features = flatten(norm(self.avgpool(self.features(images_NCHW))))
        logits: torch.Tensor = linear(drop_units(features, self.dropout, self.training))
        return logits

    def blocks(self) -> list[str]:
        """The residual blocks. The stem, the halvings between stages and the classifier are left to the root."""
        return [name for name, module in self.named_modules() if isinstance(module, ConvNeXtBlock)]


class ConvNeXtBlock(nn.Module):
    """A depthwise 7x7 convolution, then in NHWC a layer norm and two linear layers with four times the width between
    them, around which the input is added (figure 4). `layer_scale` starts each block close to the identity."""

    drop = 0.0  # probability of leaving out the residual

    def __init__(self, width: int) -> None:
        super().__init__()
        self.block = nn.Sequential(
            nn.Conv2d(width, width, 7, padding=3, groups=width),
            Permute(0, 2, 3, 1),
            nn.LayerNorm(width, eps=EPSILON),
            nn.Linear(width, 4 * width),
            nn.GELU(),
            nn.Linear(4 * width, width),
            Permute(0, 3, 1, 2),
        )
        self.layer_scale = nn.Parameter(torch.full((width, 1, 1), 1e-6))

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        return maps + drop_residual(self.layer_scale * self.block(maps), self.drop, self.training)


class ChannelNorm(nn.LayerNorm):
    """Layer norm over each pixel's channels: NCHW to the same."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=EPSILON)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        maps_NHWC = maps.permute(0, 2, 3, 1)
        return F.layer_norm(maps_NHWC, self.normalized_shape, self.weight, self.bias, self.eps).permute(0, 3, 1, 2)


class Permute(nn.Module):
    """A view with the dimensions in another order."""

    def __init__(self, *order: int) -> None:
        super().__init__()
        self.order = order

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        return maps.permute(self.order)
