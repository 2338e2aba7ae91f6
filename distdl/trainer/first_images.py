"""A start that depends on data: before the first step the network sees the run's first images, as training does."""

import itertools
from collections.abc import Iterator

import torch

from distdl.comm import messages
from distdl.data.iterable import OwnIterable
from distdl.data.order import Rows
from distdl.errors import UserError
from distdl.trainer.setup import Run
from distdl.trainer.step import to_device

_METHOD = "start_from_images"


def start_from_them(run: Run) -> None:
    """Gives `model.init_images` images, (images, channels, height, width) fp32, to the network's method
    `start_from_images`: on rank 0, whose weights all the others are going to be given.

    Raises UserError for a network without that method, and for data that can be read but once.
    """
    model, where = run.engine.model, "model.init_images"
    if not hasattr(model, _METHOD):
        what = f"the start of '{run.config.model.name}' does not depend on images: it has no method {_METHOD}"
        raise UserError(what, where=where, fix="Leave it out.")
    if isinstance(run.train_loader.dataset, OwnIterable):
        raise UserError("an iterable can be read but once", where=where, fix="Name the shards by data.train.shards.")
    messages.on_rank0(lambda: getattr(model, _METHOD)(_first_images(run)))


def _first_images(run: Run) -> torch.Tensor:
    wanted = run.config.model.init_images
    assert wanted, "asked only where it is set"
    found: list[torch.Tensor] = []
    batches = run.train_loader.stream(_first_steps(run, wanted))
    for host in batches:
        is_there = host.tensors["valid"] > 0
        image_NCHW = to_device(host.tensors, run.train_loader, run.device, run.config.train)["image"]
        found.append(image_NCHW[is_there.to(image_NCHW.device)])
    return torch.cat(found)[:wanted]


def _first_steps(run: Run, n_images: int) -> Iterator[Rows]:
    """As many of the run's global batches as hold that many images."""
    n_steps = -(-n_images // run.config.train.global_batch)
    return itertools.islice(run.plan.steps(0, run.end, end=run.end), n_steps)
