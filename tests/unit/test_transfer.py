"""Batches on their way to the device."""

import pytest
import tiny
import torch

from distdl.comm.world import WorldInfo
from distdl.trainer import setup, transfer
from distdl.trainer.state import TrainState


def build(folder, device):
    settings = {"train.steps": 60, "train.global_batch": 32, "data.prefetch": 1}
    corpus = tiny.write_corpus(folder / str(device), 50)
    return setup.build(tiny.config(corpus, settings), WorldInfo(), device, TrainState())


def test_for_a_cpu_they_stay_where_they_are(tmp_path):
    run = build(tmp_path, torch.device("cpu"))

    batches = list(transfer.on_device(run.host_batches(), run.device))

    assert len(batches) == 60
    assert all(not tensor.is_cuda for batch in batches for tensor in batch.tensors.values())


@pytest.mark.needs("gpu")
def test_a_slot_is_not_filled_again_before_its_copy_is_complete(tmp_path):
    expected = [batch.tensors["image"].clone() for batch in build(tmp_path, torch.device("cpu")).host_batches()]
    run = build(tmp_path, torch.device("cuda", 0))

    found = []
    for batch in transfer.on_device(run.host_batches(), run.device):
        torch.cuda._sleep(1_000_000)  # the computing lags behind
        assert batch.tensors["image"].is_cuda and not batch.tensors["sample_id"].is_cuda
        found.append(batch.tensors["image"].clone())

    assert len(found) == 60
    assert all(torch.equal(one.cpu(), other) for one, other in zip(found, expected, strict=True))
