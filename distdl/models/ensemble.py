"""Several opinions on a picture: of networks (an ensemble), or of one network on its mirror image as well or on ten
crops. Used in evaluation.

All average probabilities and answer with their logarithms, which are logits with these probabilities: the loss and the
metrics of a task are computed from them as from any network's.

    Ensemble([distdl.load_model("first"), distdl.load_model("second")])  runs of other seeds, or of other data: bagging
    Mirrored(distdl.load_model("first"))     the image and its mirror image
    TenCrop(distdl.load_model("first"), 224)                             on images of 256x256
"""

import math
from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import nn

from distdl import models
from distdl.errors import UserError


class Ensemble(nn.Module):
    """The mean of several networks' probabilities (Krizhevsky, Sutskever and Hinton 2012, "ImageNet classification with
    deep convolutional neural networks", section 6.1; for bagging: Breiman 1996, "Bagging predictors")."""

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        """Raises UserError without a network."""
        if not networks:
            raise UserError("an ensemble of no networks has no opinion", fix="Give at least one.")
        super().__init__()
        self.networks = nn.ModuleList(networks)

    def forward(self, images_NCHW: torch.Tensor) -> torch.Tensor:
        """What the networks take -> log probabilities (batch, classes) in fp32."""
        return averaged(network(images_NCHW) for network in self.networks)

    def blocks(self) -> list[str]:
        """Those of all networks, one network after the other."""
        return [
            f"networks.{index}.{block}"
            for index, network in enumerate(self.networks)
            for block in models.blocks(network)
        ]


class Heard(nn.Module):
    """An ensemble whose members look at the same samples one after another, each in images of its own making.

    After `listen_to(network)` comes a pass over all samples in order. What it answers is the mean of the probabilities
    of this network and of all before it: after the last one, those of the ensemble.
    """

    def __init__(self) -> None:
        super().__init__()
        self._n_heard = 0
        self._total: list[torch.Tensor] = []  # batch by batch, log of the sum of probabilities (batch, classes)
        self._at = 0

    def listen_to(self, network: nn.Module) -> None:
        self.network = network
        self._n_heard += 1
        self._at = 0

    def forward(self, images_NCHW: torch.Tensor) -> torch.Tensor:
        """What this network takes -> log probabilities (batch, classes) in fp32."""
        log_probabilities = F.log_softmax(self.network(images_NCHW).float(), dim=1)
        if self._n_heard == 1:
            self._total.append(log_probabilities)
        else:
            self._total[self._at] = torch.logaddexp(self._total[self._at], log_probabilities)
        self._at += 1
        return self._total[self._at - 1] - math.log(self._n_heard)


class Mirrored(nn.Module):
    """The mean of a network's probabilities on an image and on its mirror image."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images_NCHW: torch.Tensor) -> torch.Tensor:
        """(batch, channels, height, width) -> log probabilities (batch, classes) in fp32."""
        return averaged(self.network(view) for view in (images_NCHW, images_NCHW.flip(3)))


class TenCrop(nn.Module):
    """The mean of a network's probabilities on an image's four corners and its centre, and on their mirror images
    (Krizhevsky et al. 2012, section 4.1). Ten passes, each with the memory of one."""

    def __init__(self, network: nn.Module, side: int) -> None:
        super().__init__()
        self.network = network
        self.side = side

    def forward(self, images_NCHW: torch.Tensor) -> torch.Tensor:
        """(batch, channels, height, width), both at least `side` -> log probabilities (batch, classes) in fp32."""
        return averaged(self.network(crop) for crop in ten_crops(images_NCHW, self.side))


def ten_crops(images_NCHW: torch.Tensor, side: int) -> list[torch.Tensor]:
    """Top left, top right, bottom left, bottom right, centre; then each mirrored. (batch, channels, side, side)."""
    height, width = images_NCHW.shape[2:]
    if min(height, width) < side:
        raise UserError(
            f"crops of {side}x{side} are taken of images that are at least as large, these are {height}x{width}",
            where="data",
            fix=f"Resize the images to more, such as {{resize: {side * 8 // 7}}}, or take smaller crops.",
        )
    bottom, right = height - side, width - side
    corners = [(0, 0), (0, right), (bottom, 0), (bottom, right), (bottom // 2, right // 2)]
    crops = [images_NCHW[:, :, top : top + side, left : left + side] for top, left in corners]
    return [*crops, *(crop.flip(3) for crop in crops)]


def averaged(logits: Iterable[torch.Tensor]) -> torch.Tensor:
    """The logarithm of the mean of their probabilities, computed without leaving logarithms: none becomes 0."""
    found = [F.log_softmax(each.float(), dim=1) for each in logits]
    if len({each.shape for each in found}) > 1:
        shapes = ", ".join(str(tuple(each.shape)) for each in found)
        raise UserError(f"networks that are averaged tell the same classes apart; these give {shapes}")
    log_probabilities = torch.stack(found)
    return torch.logsumexp(log_probabilities, dim=0) - math.log(len(log_probabilities))
