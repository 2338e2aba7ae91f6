"""Face recognition: an Inception-ResNet-v1 that maps a face to a point of the unit sphere, near to those of the same
person's other pictures (Schroff, Kalenichenko and Philbin 2015, "FaceNet: a unified embedding for face recognition and
clustering"; the network that its weights in circulation are for is David Sandberg's, of 2017).

Training asks which of the known persons it is, by logits like any classifier's. With `append_embedding`, the outputs in
training are the logits and then the embedding, to which the task `metric` (distdl/tasks/metric.py) adds the triplet
loss. Names are facenet-pytorch's, so that published weights load as they are.
"""

import torch
import torch.nn.functional as F
from torch import nn

from distdl.models.inception_parts import check_side
from distdl.models.inception_resnet import FEATURES_V1, branched, start_as_the_authors, trunk_v1
from distdl.models.layers import check_channels, check_probabilities, check_sizes, drop_units


def facenet(
    *,
    classes: int = 8631,
    channels: int = 3,
    embedding: int = 512,
    append_embedding: bool = False,
    dropout: float = 0.6,
) -> nn.Module:
    """FaceNet on an Inception-ResNet-v1 for faces of 160x160: 27,910,327 parameters with the 8,631 persons of VGGFace2.
    `embedding`: its length, in the paper 128; `dropout`: in front of it."""
    check_sizes(classes=classes, channels=channels, embedding=embedding)
    check_probabilities(dropout=dropout)
    return FaceNet(classes, channels, embedding, append_embedding, dropout)


class FaceNet(nn.Module):
    def __init__(self, classes: int, channels: int, embedding: int, append_embedding: bool, dropout: float) -> None:
        super().__init__()
        self.channels = channels
        self.append_embedding = append_embedding
        self.dropout = dropout
        trunk = trunk_v1(channels, last_block=True)
        self.trunk = tuple(trunk)
        for name, module in trunk.items():
            self.add_module(name, module)
        self.last_linear = nn.Linear(FEATURES_V1, embedding, bias=False)
        self.last_bn = nn.BatchNorm1d(embedding, eps=0.001)
        self.logits = nn.Linear(embedding, classes)
        start_as_the_authors(self)

    def forward(self, images_NCHW: torch.Tensor) -> torch.Tensor:
        """(batch, channels, height, width), any size from 75 on -> logits (batch, classes); in training, and asked to
        append it, (batch, classes + embedding)."""
        points = self._points(images_NCHW)
        logits: torch.Tensor = self.logits(points)
        if self.append_embedding and self.training:
            return torch.cat([logits, F.normalize(points)], 1)
        return logits

    def embedding(self, images_NCHW: torch.Tensor) -> torch.Tensor:
        """(batch, channels, height, width) -> (batch, embedding), of unit length. Two faces are taken for the same
        person's if their squared distance is below a threshold (section 4), to be found on faces of one's own."""
        return F.normalize(self._points(images_NCHW))

    def _points(self, images_NCHW: torch.Tensor) -> torch.Tensor:
        check_channels(images_NCHW, self.channels)
        check_side(images_NCHW, 75, "FaceNet")
        maps = images_NCHW
        for name in self.trunk:
            maps = self.get_submodule(name)(maps)
        features = drop_units(maps.mean((2, 3)), self.dropout, self.training)
        points: torch.Tensor = self.last_bn(self.last_linear(features))
        return points

    def blocks(self) -> list[str]:
        """What has branches. The first and last layers are left to the root."""
        return branched(self)
