"""The network of airbench94, which learns CIFAR-10 to 94 % in seconds (Jordan 2024, "94% on CIFAR-10 in 3.29 seconds on
a single GPU").

Images pass a 2x2 convolution that whitens patches, three groups of two 3x3 convolutions (the first in front of a
max-pooling) with batch norm and GELU, a last max-pooling and a linear layer whose output is divided by 9. Submodules
have the names of the author's later airbench94_muon.py (whiten, layers.1.conv1, ..., head).

The whitening weights come from training images: with `model.init_images: 5000` a run sets them before its first step,
and `model.freeze: [whiten.weight]` leaves them there.
"""

import torch
import torch.nn.functional as F
from torch import nn

from distdl.errors import UserError
from distdl.models.layers import check_channels, check_sizes

WIDTHS = (64, 256, 256)
PATCH = 2
SCALE = 1 / 9
SMALLEST, LARGEST = 25, 48  # pixels a side for which the last pooling leaves one


def airbench94_cifar(*, classes: int = 10, channels: int = 3) -> nn.Module:
    """The network of airbench94: 1,972,792 parameters. Its first layer whitens if the run says model.init_images."""
    check_sizes(classes=classes, channels=channels)
    return Airbench(classes, channels)


class Airbench(nn.Module):
    def __init__(self, classes: int, channels: int) -> None:
        super().__init__()
        n_filters = 2 * channels * PATCH**2  # twice the values of a patch
        self.whiten = nn.Conv2d(channels, n_filters, PATCH)
        groups = [ConvGroup(inputs, outputs) for inputs, outputs in zip((n_filters, *WIDTHS), WIDTHS)]
        self.layers = nn.Sequential(nn.GELU(), *groups, nn.MaxPool2d(3))
        self.head = nn.Linear(WIDTHS[-1], classes, bias=False)
        nn.init.zeros_(self.whiten.bias)  # type: ignore[arg-type]  # it has one
        initialise_as_identity(self.whiten)

    def forward(self, images_NCHW: torch.Tensor) -> torch.Tensor:
        """(batch, channels, height, width), by design 32x32 -> logits (batch, classes)."""
        check_channels(images_NCHW, self.whiten.in_channels)
        height, width = images_NCHW.shape[2:]
        if not (SMALLEST <= height <= LARGEST and SMALLEST <= width <= LARGEST):
            raise UserError(
                f"airbench94 takes images of at least {SMALLEST}x{SMALLEST} and at most {LARGEST}x{LARGEST}, "
                f"these are {height}x{width}",
                where="data",
                fix="Add {resize: [32, 32]} to the transforms of each split.",
            )
        features = self.layers(self.whiten(images_NCHW)).flatten(1)
        logits: torch.Tensor = self.head(features) * SCALE
        return logits

    @torch.no_grad()
    def start_from_images(self, images_NCHW: torch.Tensor, epsilon: float = 5e-4) -> None:
        """Sets the first layer's weights from training images, normalised as in training (the author: 5,000).

        Its first filters are the eigenvectors of the 2x2 patches' second moments, each divided by its eigenvalue's
        root, so that what they make of patches is uncorrelated and of variance 1; the others are their negatives, since
        a GELU lets one sign pass. Page, "How to train your ResNet 8", has it first. Raises UserError for images of
        other channels.
        """
        check_channels(images_NCHW, self.whiten.in_channels)
        patches = F.unfold(images_NCHW.float(), PATCH)  # (batch, values of a patch, patches of an image)
        moments = torch.einsum("npi,nqi->pq", patches, patches) / (patches.shape[0] * patches.shape[2])
        eigenvalues, eigenvectors = torch.linalg.eigh(moments)  # ascending; each column a vector
        filters = (eigenvectors / (eigenvalues + epsilon).sqrt()).T.flip(0)
        self.whiten.weight.copy_(torch.cat([filters, -filters]).reshape(self.whiten.weight.shape))

    def blocks(self) -> list[str]:
        """The groups. The first convolution, the last pooling and the classifier are left to the root."""
        return [name for name, module in self.named_modules() if isinstance(module, ConvGroup)]


class ConvGroup(nn.Module):
    """3x3, max-pooling, batch norm, GELU; 3x3, batch norm, GELU."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.pool = nn.MaxPool2d(2)
        self.norm1 = batch_norm(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm2 = batch_norm(outputs)
        initialise_as_identity(self.conv1)
        initialise_as_identity(self.conv2)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        maps = F.gelu(self.norm1(self.pool(self.conv1(maps))))
        return F.gelu(self.norm2(self.conv2(maps)))


def batch_norm(channels: int) -> nn.BatchNorm2d:
    """Running statistics follow fast, and only the bias learns: the weights stay 1."""
    norm = nn.BatchNorm2d(channels, eps=1e-12, momentum=0.4)
    norm.weight.requires_grad_(False)
    return norm


def initialise_as_identity(convolution: nn.Conv2d) -> None:
    """Dirac: the first filters pass each input channel on as it is; the others keep torch's own start."""
    with torch.no_grad():
        nn.init.dirac_(convolution.weight[: convolution.in_channels])
