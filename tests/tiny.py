"""The smallest things that a run can be made of: a corpus of 4x4 images, networks for them, a config, a Run.

Networks are named in a config as `tiny:perceptron` and so on; `overrides` are written as on the command line, but with
values: `{"train.global_batch": 7}`.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from distdl.comm import collectives
from distdl.comm.world import WorldInfo
from distdl.config.schema import Config
from distdl.data.corpus.shards import write_shards
from distdl.trainer import setup
from distdl.trainer.setup import Run
from distdl.trainer.state import TrainState

CLASSES = 10
PIXELS = 16


# --- data ---


def write_corpus(folder: Path, n_samples: int, *, bad: Iterable[int] = ()) -> Path:
    """Noise images with label id % 10, seven to a shard; the images of the samples `bad` can't be read."""
    images = np.random.default_rng(0).integers(0, 256, (n_samples, 4, 4, 1), dtype=np.uint8)
    samples = [
        {
            "__key__": f"{i:05}",
            "png": b"unreadable" if i in set(bad) else cv2.imencode(".png", image)[1].tobytes(),
            "cls": i % CLASSES,
        }
        for i, image in enumerate(images)
    ]
    write_shards(samples, folder, classes=None, kind="tiny", shard_samples=7)
    return folder


# --- networks ---


def perceptron(*, classes: int = CLASSES) -> nn.Sequential:
    return nn.Sequential(nn.Flatten(), nn.Linear(PIXELS, 8), nn.ReLU(), nn.Linear(8, classes))


def with_batch_norm(*, classes: int = CLASSES) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(PIXELS // 4 * 3, classes)
    )


def pooled(*, classes: int = CLASSES) -> nn.Module:
    """For images of any size from 2x2 on."""
    layers = [nn.Conv2d(1, 3, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(3, classes))


class Precise(nn.Module):
    """A perceptron in fp64: what is left of a difference is not rounding."""

    def __init__(self, *, classes: int = CLASSES) -> None:
        super().__init__()
        self.layers = perceptron(classes=classes).double()

    def forward(self, image: Tensor) -> Tensor:
        return self.layers(image.double())


class PartlyUsed(nn.Module):
    """`idle` gets no gradient in any step, `now_and_then` only from a batch whose first image is a dark one."""

    def __init__(self, *, classes: int = CLASSES) -> None:
        super().__init__()
        self.always = nn.Linear(PIXELS, classes)
        self.now_and_then = nn.Linear(PIXELS, classes)
        self.idle = nn.Linear(PIXELS, classes)

    def forward(self, image: Tensor) -> Tensor:
        values = image.flatten(1)
        extra = self.now_and_then(values) if values[0].mean() < 0.5 else 0
        return self.always(values) + extra


class Stateful(nn.Module):
    """Batch norm, dropout, and a weight that only some batches use."""

    def __init__(self, *, classes: int = CLASSES) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(1, 5, 3), nn.BatchNorm2d(5), nn.ReLU(), nn.Dropout(0.3), nn.Flatten())
        self.output = PartlyUsed(classes=classes)
        self.output.always = nn.Linear(PIXELS // 4 * 5, classes)
        self.output.now_and_then = nn.Linear(PIXELS // 4 * 5, classes)

    def forward(self, image: Tensor) -> Tensor:
        return self.output(self.features(image))


class Recomputed(nn.Module):
    """Its features, batch norm among them, are computed again in backward."""

    def __init__(self, *, classes: int = CLASSES) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(1, 5, 3), nn.BatchNorm2d(5), nn.ReLU(), nn.Flatten())
        self.output = nn.Linear(PIXELS // 4 * 5, classes)

    def forward(self, image: Tensor) -> Tensor:
        return self.output(checkpoint(self.features, image, use_reentrant=False))


class SometimesFirst(nn.Module):
    """With batch norm, and a weight, registered last, that only a batch whose first image is a dark one uses."""

    def __init__(self, *, classes: int = CLASSES) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(1, 5, 3), nn.BatchNorm2d(5), nn.ReLU(), nn.Flatten())
        self.output = nn.Linear(PIXELS // 4 * 5, classes)
        self.sometimes = nn.Linear(PIXELS, classes)

    def forward(self, image: Tensor) -> Tensor:
        values = image.flatten(1)
        return self.output(self.features(image)) + (self.sometimes(values) if values[0].mean() < 0.5 else 0)


class Words(nn.Module):
    """Its gradients are sparse."""

    def __init__(self, *, classes: int = CLASSES) -> None:
        super().__init__()
        self.words = nn.Embedding(256, classes, sparse=True)

    def forward(self, image: Tensor) -> Tensor:
        return self.words(image.flatten(1).long().clamp(0, 255)).sum(1)


class Tied(nn.Module):
    """The same matrix on the way in and on the way out."""

    def __init__(self, *, classes: int = CLASSES) -> None:
        super().__init__()
        self.first = nn.Linear(PIXELS, PIXELS)
        self.second = nn.Linear(PIXELS, PIXELS)
        self.second.weight = self.first.weight
        self.output = nn.Linear(PIXELS, classes)

    def forward(self, image: Tensor) -> Tensor:
        return self.output(self.second(self.first(image.flatten(1)).relu()))


def frozen(*, classes: int = CLASSES) -> nn.Module:
    """Only the last layer is trained."""
    network = perceptron(classes=classes)
    for parameter in network[1].parameters():
        parameter.requires_grad_(False)
    return network


class WithConstant(nn.Module):
    """Has buffers that nothing changes."""

    constant: Tensor
    mask: Tensor

    def __init__(self, *, classes: int = CLASSES) -> None:
        super().__init__()
        self.output = nn.Linear(PIXELS, classes)
        self.register_buffer("constant", torch.linspace(1, 2, PIXELS))
        self.register_buffer("mask", torch.tensor(float("-inf")))

    def forward(self, image: Tensor) -> Tensor:
        return self.output(image.flatten(1) * self.constant)


class TooLarge(nn.Module):
    """Runs out of memory with more than `most_rows` rows, as a device would; a list gives a number for each rank."""

    def __init__(self, *, classes: int = CLASSES, most_rows: int | list[int] = 3) -> None:
        super().__init__()
        self.layers = with_batch_norm(classes=classes)
        self.most_rows = most_rows if isinstance(most_rows, int) else most_rows[collectives.rank()]

    def forward(self, image: Tensor) -> Tensor:
        outputs = self.layers(image)
        if len(image) > self.most_rows:
            raise torch.OutOfMemoryError("tried to allocate 100 GiB")
        return outputs


# --- runs ---


def config(corpus: Path, overrides: Mapping[str, Any] | None = None) -> Config:
    values: dict[str, Any] = {
        "model": {"name": "tiny:perceptron"},
        "data": {"train": {"shards": str(corpus)}, "workers": 1, "lanes": 8},
        "train": {"global_batch": 8, "steps": 5, "device": "cpu", "eval_batch": 8},
        "optim": {"lr": 0.1},
    }
    for name, value in (overrides or {}).items():
        *sections, key = name.split(".")
        inside = values
        for section in sections:
            inside = inside.setdefault(section, {})
        inside[key] = value
    return Config.model_validate(values)


def build(configured: Config, *, per_node: int | None = None) -> Run:
    """A run of this process as one of the workers that have joined, or alone; as if `per_node` of them were a node."""
    rank, world_size = collectives.rank(), collectives.world_size()
    per_node = per_node or world_size
    world = WorldInfo(rank=rank, world_size=world_size, local_rank=rank % per_node, local_world_size=per_node)
    return setup.build(configured, world, torch.device("cpu"), TrainState())
