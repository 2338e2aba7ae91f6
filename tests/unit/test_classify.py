"""The task of classification: sums over the rows that count."""

import pytest
import torch
from torch.nn import functional

from distdl.data.engine import IGNORED
from distdl.tasks.classify import Classify


def batch(labels, valid=None):
    labels = torch.tensor(labels)
    valid = torch.ones(len(labels)) if valid is None else torch.tensor(valid)
    return {"label": torch.where(valid > 0, labels, IGNORED), "valid": valid}


@pytest.fixture
def logits_BC():
    return torch.randn(6, 10, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_the_loss_is_torchs_as_sum_and_count(logits_BC, label_smoothing):
    rows = batch([0, 1, 2, 3, 4, 5])

    loss, count = Classify(label_smoothing).loss(logits_BC, rows)

    expected = functional.cross_entropy(logits_BC, rows["label"], reduction="sum", label_smoothing=label_smoothing)
    torch.testing.assert_close(loss, expected)
    assert count == 6 and loss.shape == count.shape == ()


def test_masked_rows_count_for_nothing(logits_BC):
    task = Classify()
    some = batch([0, 1, 2, 3, 4, 5], valid=[1.0, 0, 1, 0, 0, 1])
    kept = torch.tensor([0, 2, 5])

    loss, count = task.loss(logits_BC, some)
    alone, _ = task.loss(logits_BC[kept], batch([0, 2, 5]))

    torch.testing.assert_close(loss, alone)
    assert count == 3
    everything_right = functional.one_hot(torch.arange(6), 10).float()
    assert task.metrics(everything_right, some) == {"top1": 3, "top5": 3}


def test_top1_and_top5_count_hits():
    ranked = torch.arange(10.0).flip(0).expand(3, 10)  # class 0 is the best, class 9 the worst

    hits = Classify().metrics(ranked, batch([0, 4, 5]))

    assert {name: float(value) for name, value in hits.items()} == {"top1": 1, "top5": 2}
    assert all(not value.is_floating_point() and value.shape == () for value in hits.values())


def test_with_fewer_than_five_classes_every_row_is_in_the_top5():
    hits = Classify().metrics(torch.tensor([[3.0, 2, 1], [3, 2, 1]]), batch([0, 2]))

    assert hits == {"top1": 1, "top5": 2}


def test_half_precision_outputs_are_summed_in_fp32(logits_BC):
    loss, _ = Classify().loss(logits_BC.bfloat16(), batch([0] * 6))

    assert loss.dtype == torch.float32
