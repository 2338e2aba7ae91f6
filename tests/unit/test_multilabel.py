"""Several classes at once: the loss as torch's, mAP and f1 as scikit-learn's."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional

from distdl.errors import UserError
from distdl.tasks.multilabel import Multilabel, average_precision

metrics = pytest.importorskip("sklearn.metrics")

N, CLASSES = 40, 6


@pytest.fixture
def outputs_BC():
    return torch.randn(N, CLASSES, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def batch():
    label = (torch.rand(N, CLASSES, generator=torch.Generator().manual_seed(1)) < 0.3).float()
    label[:, 2] = 0  # a class without a positive
    return {"label": label, "valid": torch.ones(N)}


def finished(task, outputs, batch):
    counts = batch["valid"] > 0
    means = {name: float(total) / int(counts.sum()) for name, total in task.metrics(outputs, batch).items()}
    rows = {name: tensor[counts] for name, tensor in task.rows(outputs, batch).items()}
    return task.finish(means, int(counts.sum()), rows)


def test_the_loss_is_torchs_mean_over_classes_summed_over_rows(outputs_BC, batch):
    loss, count = Multilabel().loss(outputs_BC, batch)

    torch.testing.assert_close(loss / count, functional.binary_cross_entropy_with_logits(outputs_BC, batch["label"]))
    assert count == N and loss.shape == ()


def test_masked_rows_count_for_nothing(outputs_BC, batch):
    kept = torch.arange(N) % 3 > 0
    some = {"label": batch["label"] * kept[:, None], "valid": kept.float()}
    alone = {"label": batch["label"][kept], "valid": torch.ones(int(kept.sum()))}
    task = Multilabel()

    torch.testing.assert_close(task.loss(outputs_BC, some), task.loss(outputs_BC[kept], alone))
    assert task.metrics(outputs_BC, some) == task.metrics(outputs_BC[kept], alone)


def test_map_and_f1_are_those_of_scikit_learn(outputs_BC, batch):
    label, score = batch["label"].numpy(), outputs_BC.numpy()
    there = [c for c in range(CLASSES) if label[:, c].any()]

    found = finished(Multilabel(), outputs_BC, batch)

    assert found["mAP"] == pytest.approx(metrics.average_precision_score(label[:, there], score[:, there]))
    assert found["f1"] == pytest.approx(metrics.f1_score(label, score > 0, average="micro"))


def test_rows_of_equal_score_pass_a_threshold_together():
    score, label = np.array([0.5, 0.5, 0.5, 0.2, 0.2], np.float32), np.array([1, 0, 0, 1, 0], np.float32)

    for order in ([0, 1, 2, 3, 4], [4, 2, 1, 0, 3]):
        expected = metrics.average_precision_score(label, score)
        assert average_precision(score[order], label[order]) == pytest.approx(expected)


def test_without_a_positive_there_is_no_map(outputs_BC, batch):
    batch["label"].zero_()

    found = finished(Multilabel(), outputs_BC - 100, batch)

    assert math.isnan(found["mAP"]) and found["f1"] == 0


def test_the_number_of_classes_is_the_networks_or_else_given():
    assert Multilabel().label(7).shape == (7,)
    assert Multilabel(classes=3).label(None).shape == (3,)
    with pytest.raises(UserError, match=r"number of classes is not known[\s\S]*task.args.classes"):
        Multilabel().label(None)
