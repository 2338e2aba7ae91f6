"""Regression: losses as torch's, r2 as scikit-learn's, from sums that add up over any batches."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional

from distdl.errors import UserError
from distdl.tasks.regress import Regress

metrics = pytest.importorskip("sklearn.metrics")

N = 50


@pytest.fixture
def label_BK():
    return torch.randn(N, 2, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 30]) + 100


@pytest.fixture
def outputs_BK(label_BK):
    return label_BK + torch.randn(N, 2, generator=torch.Generator().manual_seed(1))


def batch(label_BK, valid=None):
    return {"label": label_BK, "valid": torch.ones(len(label_BK)) if valid is None else valid}


def r2(task, *batches):
    """Over several batches, as (outputs, batch)."""
    sums = [task.metrics(outputs, rows) for outputs, rows in batches]
    count = sum(int(rows["valid"].sum()) for _, rows in batches)
    means = {name: (sum(each[name] for each in sums) / count).tolist() for name in sums[0]}
    return task.finish(means, count, {})["r2"]


@pytest.mark.parametrize(
    "name, expected", [("mse", functional.mse_loss), ("l1", functional.l1_loss), ("huber", functional.huber_loss)]
)
def test_the_loss_is_torchs_mean_over_values_summed_over_rows(label_BK, outputs_BK, name, expected):
    loss, count = Regress(loss=name).loss(outputs_BK, batch(label_BK))

    torch.testing.assert_close(loss / count, expected(outputs_BK, label_BK))
    assert count == N and loss.shape == ()


def test_masked_rows_count_for_nothing(label_BK, outputs_BK):
    kept = torch.arange(N) % 3 > 0
    some = batch(label_BK * kept[:, None], kept.float())
    alone = batch(label_BK[kept])
    task = Regress()

    torch.testing.assert_close(task.loss(outputs_BK, some), task.loss(outputs_BK[kept], alone))
    for total, expected in zip(task.metrics(outputs_BK, some).values(), task.metrics(outputs_BK[kept], alone).values()):
        torch.testing.assert_close(total, expected)


def test_mae_and_r2_are_those_of_scikit_learn_for_any_batches(label_BK, outputs_BK):
    parts = [(outputs_BK[part], batch(label_BK[part])) for part in (slice(0, 13), slice(13, 14), slice(14, N))]
    task = Regress()

    found = r2(task, *parts)
    mae = sum(float(task.metrics(*part)["mae"]) for part in parts) / N

    truth, said = label_BK.numpy().astype(np.float64), outputs_BK.numpy().astype(np.float64)
    assert found == pytest.approx(metrics.r2_score(truth, said), rel=1e-9)
    assert mae == pytest.approx(metrics.mean_absolute_error(truth, said), rel=1e-9)


def test_without_a_variance_there_is_no_r2():
    assert math.isnan(r2(Regress(), (torch.zeros(3, 1), batch(torch.ones(3, 1)))))


def test_outputs_without_a_last_dimension_are_not_spread_over_the_rows():
    label = torch.tensor([[1.0], [2.0], [3.0]])

    loss, _ = Regress().loss(label.flatten(), batch(label))

    assert loss == 0


def test_an_unknown_loss_is_answered_with_the_nearest_one():
    with pytest.raises(UserError, match="unknown loss 'hubert' - did you mean huber"):
        Regress(loss="hubert")


def test_the_number_of_values_is_the_networks_or_else_given():
    assert Regress().label(2).shape == (2,)
    assert Regress(values=3).label(2).shape == (3,)
    with pytest.raises(UserError, match="number of values is not known"):
        Regress().label(None)
