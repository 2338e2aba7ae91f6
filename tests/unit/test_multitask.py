"""Several questions about one picture: the heads' losses add up, and each head has its accuracy."""

import pytest
import torch
from torch.nn import functional

from distdl.data.labels import IGNORED
from distdl.errors import UserError
from distdl.tasks.multitask import Multitask

HEADS = {"colour": 3, "make": 5}
LOGITS = torch.randn(6, 8, generator=torch.Generator().manual_seed(0))
LABEL = torch.tensor([[0, 4], [2, 1], [1, 1], [2, 0], [0, 3], [1, 2]])
BATCH = {"label": LABEL, "valid": torch.ones(6)}


def test_the_loss_is_the_weighted_sum_of_the_heads_cross_entropies() -> None:
    colour = functional.cross_entropy(LOGITS[:, :3], LABEL[:, 0])
    make = functional.cross_entropy(LOGITS[:, 3:], LABEL[:, 1])

    loss, count = Multitask(HEADS, weights={"make": 0.25}).loss(LOGITS, BATCH)

    torch.testing.assert_close(loss / count, colour + 0.25 * make)


def test_label_smoothing_is_over_the_classes_of_each_head() -> None:
    loss, count = Multitask(HEADS, label_smoothing=0.1).loss(LOGITS, BATCH)

    colour = functional.cross_entropy(LOGITS[:, :3], LABEL[:, 0], label_smoothing=0.1)
    make = functional.cross_entropy(LOGITS[:, 3:], LABEL[:, 1], label_smoothing=0.1)
    torch.testing.assert_close(loss / count, colour + make)


def test_each_head_has_its_accuracy_and_the_mean_is_one_too() -> None:
    outputs = torch.zeros(6, 8)
    outputs[torch.arange(6), LABEL[:, 0]] = 1  # every colour is right
    outputs[:3, 3 + 1] = 1  # the make is said to be 1 thrice, twice rightly, and else 0, once rightly
    task = Multitask(HEADS)

    sums = {name: float(value) for name, value in task.metrics(outputs, BATCH).items()}

    assert sums == {"accuracy": 4.5, "top1_colour": 6, "top1_make": 3}
    assert tuple(sums) == task.metric_names


def test_masked_rows_count_for_nothing() -> None:
    task, masked = Multitask(HEADS), {"label": LABEL.clone(), "valid": torch.ones(6)}
    masked["label"][4:], masked["valid"][4:] = IGNORED, 0
    alone = {"label": LABEL[:4], "valid": torch.ones(4)}

    torch.testing.assert_close(task.loss(LOGITS, masked), task.loss(LOGITS[:4], alone))
    assert task.metrics(LOGITS, masked) == task.metrics(LOGITS[:4], alone)


def test_half_precision_is_summed_in_single() -> None:
    assert Multitask(HEADS).loss(LOGITS.bfloat16(), BATCH)[0].dtype == torch.float32


@pytest.mark.parametrize("given", [b"2 4", b"[2, 4]", (2, 4), torch.tensor([2, 4])])
def test_a_label_is_a_class_number_for_each_head(given: object) -> None:
    spec = Multitask(HEADS).label(8)

    assert spec.parse(given) == [2, 4]
    assert (spec.shape, spec.dtype, spec.ignored) == ((2,), "int64", IGNORED)


@pytest.mark.parametrize("given, said", [(b"2", "has 1 numbers: the task has 2 heads"), (b"3 0", r"has 3 classes")])
def test_a_label_that_does_not_fit_the_heads_is_refused(given: bytes, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Multitask(HEADS).label(8).parse(given)


def test_what_does_not_fit_together_is_refused_by_its_key() -> None:
    with pytest.raises(UserError, match=r"gives 9 values .* 8 classes\n.*model.args.classes=8"):
        Multitask(HEADS).loss(torch.zeros(6, 9), BATCH)
    with pytest.raises(UserError, match=r"task\.args\.weights: there is no head 'mak'"):
        Multitask(HEADS, weights={"mak": 1})
    for weights in (3, [1, 2]):
        with pytest.raises(UserError, match=r"task\.args\.weights: .* is no mapping"):
            Multitask(HEADS, weights=weights)  # type: ignore[arg-type]
    for heads in ({}, {"colour": 0}, {"colour": True}, 7):
        with pytest.raises(UserError, match=r"task\.args\.heads"):
            Multitask(heads)  # type: ignore[arg-type]
