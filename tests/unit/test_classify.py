"""The task of classification: sums over the rows that count."""

import pytest
import torch
from torch.nn import functional

from distdl.data.labels import IGNORED
from distdl.errors import UserError
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


# --- class weights and the focal loss ---


def cross_entropy_by_hand(logits_BC, labels):
    log_p_BC = logits_BC.double().log_softmax(1)
    return -log_p_BC[torch.arange(len(labels)), torch.tensor(labels)]


@pytest.mark.parametrize(
    "given", [[1.0] * 5 + [3.0] * 5, {str(i): 3 for i in range(5, 10)}, dict.fromkeys(range(5, 10), 3)]
)
def test_class_weights_of_mean_1_weigh_the_rows_losses(logits_BC, given):
    labels = [0, 1, 2, 7, 8, 9]

    loss, count = Classify(class_weights=given).loss(logits_BC, batch(labels, valid=[1.0, 1, 0, 1, 1, 1]))

    by_row = cross_entropy_by_hand(logits_BC, labels)
    assert float(loss) == pytest.approx(float(0.5 * by_row[:2].sum() + 1.5 * by_row[3:].sum()))
    assert count == 5


@pytest.mark.parametrize("gamma", [0.5, 2.0])
@pytest.mark.parametrize("class_weights", [None, list(range(1, 11))])
def test_the_focal_loss_is_that_of_the_paper(logits_BC, gamma, class_weights):
    labels = [0, 1, 2, 7, 8, 9]

    loss, _ = Classify(focal_gamma=gamma, class_weights=class_weights).loss(logits_BC, batch(labels, [1.0] * 5 + [0]))

    by_row = cross_entropy_by_hand(logits_BC, labels)[:5]
    alpha = torch.tensor(class_weights or [5.5] * 10).double()[labels[:5]] / 5.5
    p_t = (-by_row).exp()
    assert float(loss) == pytest.approx(float((alpha * (1 - p_t) ** gamma * by_row).sum()))  # equation 5


def test_the_gradient_of_the_focal_loss_is_finite_where_there_is_no_doubt():
    logits = torch.tensor([[200.0, 0.0], [0.0, 200.0]], requires_grad=True)

    loss, _ = Classify(focal_gamma=0.5).loss(logits, batch([0, 0]))
    loss.backward()

    assert logits.grad[0].tolist() == [0, 0] and logits.grad.isfinite().all()


def test_weights_that_an_evaluation_made_serve_the_training_after_it(logits_BC):
    task, rows = Classify(class_weights={0: 2.0}), batch([0, 1, 2, 3, 4, 5])
    with torch.inference_mode():
        task.loss(logits_BC, rows)

    loss, _ = task.loss(logits_BC.requires_grad_(), rows)
    loss.backward()

    assert logits_BC.grad.isfinite().all()


@pytest.mark.parametrize("wrong", [[1.0, 2.0], {10: 2.0}, {"cat": 2.0}, [-1.0] * 10, [0.0] * 10, ["a"] * 10])
def test_unfit_class_weights_are_the_users_mistake(logits_BC, wrong):
    with pytest.raises(UserError, match="these are not weights of 10 classes"):
        Classify(class_weights=wrong).loss(logits_BC, batch([0] * 6))


def test_the_focal_loss_takes_no_smoothed_labels():
    with pytest.raises(UserError, match="not defined for smoothed labels"):
        Classify(label_smoothing=0.1, focal_gamma=2)


def test_auxiliary_heads_losses_are_added_by_their_weight(logits_BC):
    rows = batch([0, 1, 2, 3, 4, 5], [1, 1, 1, 1, 1, 0])
    task = Classify(auxiliary_weight=0.4)
    main, first, second = logits_BC, logits_BC.flip(0), -logits_BC

    loss, count = task.loss(torch.stack([main, first, second], dim=1), rows)

    own, *heads = (task.loss(each, rows)[0] for each in (main, first, second))
    torch.testing.assert_close(loss, own + 0.4 * (heads[0] + heads[1]))
    assert count == 5
