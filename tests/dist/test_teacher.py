"""A teacher whose run folder rank 0 alone can see is the same on all workers."""

import pytest
import tiny
import torch

from distdl import models
from distdl.checkpoint import format
from distdl.run.open import open_run

pytestmark = pytest.mark.timeout(60)


def test_rank_0_sends_the_teacher_to_the_others(workers, tmp_path):
    corpus = tiny.write_corpus(tmp_path / "corpus", 20)
    config = tiny.config(corpus, {"model.name": "tiny:with_batch_norm"})
    run = open_run(tmp_path / "teacher", config, resume=False)
    network = models.build("tiny:with_batch_norm", {})
    tensors = {f"model/{name}": value for name, value in network.state_dict().items()}
    format.write(run.folder.checkpoints / "step-00000003", tensors, {}, run_id=run.folder.run_id(), step=3)
    run.lease.close()

    taught = workers(2).run("teacher", corpus=str(corpus), run=str(tmp_path / "teacher"))

    image = torch.arange(16.0).view(1, 1, 4, 4)
    assert [worker["outputs"] for worker in taught] == [network.eval()(image).tolist()] * 2
    assert [worker["step"] for worker in taught] == [3, 3]


def test_a_teacher_that_is_not_there_is_an_error_on_all(workers, tmp_path):
    corpus = tiny.write_corpus(tmp_path / "corpus", 20)

    taught = workers(2).run("teacher", corpus=str(corpus), run="nobody")

    assert ["no run 'nobody' here" in worker["error"] for worker in taught] == [True, True]
