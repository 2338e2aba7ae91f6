"""distdl/tasks/ctc.py: the loss, its gradient, what is infeasible, error rates."""

import itertools

import pytest
import torch

from distdl.data.labels import LabelSpec
from distdl.errors import UserError
from distdl.tasks.ctc import Ctc

CHARACTERS = {"characters": "ab "}


def labels_of(task, texts):
    spec = task.label(None)
    rows = [spec.parse(text.encode()) for text in texts]
    return torch.tensor([[len(row), *row] + [0] * (8 - len(row)) for row in rows])


def batch_of(task, texts, valid=None):
    return {"label": labels_of(task, texts), "valid": torch.tensor(valid or [1.0] * len(texts))}


def by_enumeration(log_probs_TC, units):
    """-ln of the sum over all paths that spell the units (Graves et al. 2006, equation 3)."""
    n_frames, n_classes = log_probs_TC.shape
    paths = []
    for path in itertools.product(range(n_classes), repeat=n_frames):
        spelled = [unit for unit, _ in itertools.groupby(path) if unit]
        if spelled == units:
            paths.append(sum(log_probs_TC[t, c] for t, c in enumerate(path)))
    return -torch.logsumexp(torch.stack(paths), 0)


def test_loss_and_gradient_are_those_of_all_paths_added_up_in_fp64():
    task, random = Ctc(CHARACTERS), torch.Generator().manual_seed(0)
    logits = torch.randn(2, 5, 4, generator=random, dtype=torch.float64, requires_grad=True)
    frames = torch.tensor([5, 4])

    loss, count = task.loss((logits, frames), batch_of(task, ["aab", "ba"]))
    expected = sum(
        by_enumeration(logits[row, : frames[row]].log_softmax(1), units)
        for row, units in enumerate([[1, 1, 2], [2, 1]])
    )
    (gradient,) = torch.autograd.grad(loss, logits)
    (expected_gradient,) = torch.autograd.grad(expected, logits)

    assert count == 2
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)  # the task computes in fp32
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-4, atol=1e-6)


def test_gradient_is_right_by_finite_differences():
    logits = torch.randn(2, 6, 4, dtype=torch.float64, requires_grad=True)

    def loss(values):
        return torch.nn.functional.ctc_loss(
            values.log_softmax(2).transpose(0, 1), torch.tensor([[1, 2], [3, 3]]), (6, 5), (2, 2), reduction="sum"
        )

    assert torch.autograd.gradcheck(loss, logits)


def test_a_transcript_longer_than_its_frames_adds_nothing_and_is_counted():
    task = Ctc(CHARACTERS)
    logits, frames = torch.zeros(2, 3, 4, requires_grad=True), torch.tensor([3, 3])
    batch = batch_of(task, ["aa", "abab"])  # "aa" takes 3 frames, a blank between

    loss, _ = task.loss((logits, frames), batch)
    loss.backward()
    sums = task.metrics((logits, frames), batch)

    assert torch.isfinite(loss) and loss > 0
    assert logits.grad[1].abs().max() == 0 and logits.grad[0].abs().max() > 0
    assert sums["infeasible"] == 1


def test_rows_that_do_not_count_have_no_share():
    task = Ctc(CHARACTERS)
    logits, frames = torch.randn(2, 6, 4), torch.tensor([6, 6])

    both, count = task.loss((logits, frames), batch_of(task, ["ab", "a"], valid=[1.0, 0.0]))
    alone, _ = task.loss((logits[:1], frames[:1]), batch_of(task, ["ab"]))
    sums = task.metrics((logits, frames), batch_of(task, ["ab", "a"], valid=[0.0, 1.0]))

    assert count == 1
    assert both == alone
    assert sums["characters"] == 1


def test_error_rates_are_of_all_references_together():
    task = Ctc(CHARACTERS)
    spelled = torch.tensor([[1, 0, 1, 3, 2], [2, 2, 0, 0, 0]])  # "aa b", "b"
    logits = torch.nn.functional.one_hot(spelled, 4) * 20.0
    batch = batch_of(task, ["aa b", "a b"])

    sums = task.metrics((logits, torch.tensor([5, 5])), batch)
    result = task.finish({name: float(value) / 2 for name, value in sums.items()}, 2, {})

    assert result == {"wer": 1 / 4, "cer": 2 / 7, "infeasible": 0}


def test_nothing_was_said_and_nothing_heard():
    task = Ctc(CHARACTERS)
    batch = batch_of(task, [""])

    sums = task.metrics((torch.zeros(1, 4, 4), torch.tensor([0])), batch)

    assert task.finish({name: float(value) for name, value in sums.items()}, 1, {})["wer"] == 0


def test_a_network_that_has_diverged_does_not_stop_the_evaluation():
    task = Ctc(CHARACTERS)
    logits = torch.full((1, 4, 4), torch.nan)

    assert task.metrics((logits, torch.tensor([4])), batch_of(task, ["ab"]))["word_errors"] == 1


def test_the_label_is_a_sequence_and_its_mistakes_are_named():
    spec = Ctc(CHARACTERS).label(4)

    assert isinstance(spec, LabelSpec) and spec.most_per_s
    assert spec.parse(b"ab a\n") == [1, 2, 3, 1]
    with pytest.raises(ValueError, match="'c' of 'abc'"):
        spec.parse(b"abc")
    with pytest.raises(ValueError, match="UTF-8"):
        spec.parse(b"\xff")


def test_a_network_with_other_classes_is_refused():
    with pytest.raises(UserError, match="29 classes, the vocabulary 4") as caught:
        Ctc(CHARACTERS).label(29)

    assert caught.value.where == "model.args.classes"


def test_how_to_decode_is_checked():
    with pytest.raises(UserError, match="unknown key 'bean' of the beam decoder - did you mean"):
        Ctc(CHARACTERS, decode={"bean": 3})
