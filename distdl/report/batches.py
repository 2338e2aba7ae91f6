"""The first training batch as the network sees it, in epoch 0 and again in epoch 1: what the transforms make of it.

Augmentation is keyed by (seed, epoch, sample), so these are the very images of the run, up to normalisation.
"""

from contextlib import closing
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from distdl import registry
from distdl.comm.world import WorldInfo
from distdl.data.engine import HostBatch, Loader
from distdl.data.order import Rows
from distdl.data.pictures import colour
from distdl.data.pictures.augment import augmented
from distdl.data.pictures.image import Pixels
from distdl.trainer.loaders import LoaderFactory, build_plan, open_dataset
from distdl.trainer.trained import Trained

N_SAMPLES = 12


@dataclass(frozen=True, slots=True)
class Seen:
    sample_id: int
    images: list[Pixels]  # in epoch 0, in epoch 1


def first_batch(trained: Trained) -> list[Seen]:
    """The first samples of the run's first batch. Raises UserError where the data can't be had."""
    config, split = trained.config, trained.config.data.train
    with registry.using(trained.own_code):
        dataset = open_dataset(split, "data.train", config.data)
        plan = build_plan(config, dataset)
        make = LoaderFactory(config, WorldInfo(), trained.device, trained.model, trained.task)
        loader = make(split, "data.train", dataset, plan)
    batch = plan.step_rows(0, config.train.global_batch)
    few = slice(N_SAMPLES)
    epochs = [
        Rows(batch.sample_id[few], epoch + batch.epoch[few], batch.offset[few], batch.valid[few]) for epoch in (0, 1)
    ]
    with closing(loader):
        first, second = (_augmented(each, loader) for each in loader.stream(epochs))
    return [Seen(int(sample), [one, other]) for sample, one, other in zip(batch.sample_id, first, second)]


def _augmented(host: HostBatch, loader: Loader) -> npt.NDArray[np.uint8]:
    """Pixels (rows, height, width, channels) after the transforms that run on the device, too."""
    image_NHWC = host.tensors["image"]
    if loader.on_device:
        image_NCHW = image_NHWC.permute(0, 3, 1, 2).float()
        image_NCHW = augmented(image_NCHW, loader.on_device, host.tensors["augment_key"], loader.normalise)
        image_NHWC = colour.whole(image_NCHW).permute(0, 2, 3, 1).byte()
    return image_NHWC.numpy()
