"""A network whose start depends on data sees the run's first images."""

import pytest
import tiny
import torch

from distdl.comm.world import WorldInfo
from distdl.errors import UserError
from distdl.trainer import setup
from distdl.trainer.first_images import start_from_them
from distdl.trainer.state import TrainState
from distdl.trainer.step import to_device


@pytest.fixture
def build(corpus, opened):
    def make(**overrides):
        settings = {"train.global_batch": 16, **{key.replace("__", "."): value for key, value in overrides.items()}}
        return opened(setup.build(tiny.config(corpus, settings), WorldInfo(), torch.device("cpu"), TrainState()))

    return make


def test_it_sees_the_first_images_of_the_run_as_training_sees_them(build, monkeypatch):
    run = build(model__init_images=40)
    seen = []
    monkeypatch.setattr(run.engine.model, "start_from_images", seen.append, raising=False)

    start_from_them(run)

    batches = [to_device(host.tensors, run.train_loader, run.device, run.config.train) for host in run.host_batches()]
    first = torch.cat([batch["image"] for batch in batches])[:40]
    assert len(seen) == 1 and torch.equal(seen[0], first) and len(first) == 40


def test_a_network_that_can_not_start_from_images_is_named(build):
    with pytest.raises(UserError, match=r"'tiny:.*' does not depend on images") as refused:
        start_from_them(build(model__init_images=40))

    assert refused.value.where == "model.init_images"
