"""Rows' own frames: batch norm over them alone, and recurrences that stop where a row does."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from distdl.errors import UserError
from distdl.models.frames import FrameNorm, OwnFrames, Recurrence, clipped_relu, halved
from distdl.trainer import batch_norm

LENGTHS = st.lists(st.integers(0, 6), min_size=1, max_size=5)


def batch(lengths: list[int], *channels: int, padding: float = float("nan")) -> tuple[torch.Tensor, OwnFrames]:
    """Values around 2, in fp64, with `padding` behind each row's own."""
    n_frames = max(1, *lengths) + 2
    values = torch.randn(len(lengths), n_frames, *channels, generator=torch.Generator().manual_seed(1)).double() + 2
    for row, length in enumerate(lengths):
        values[row, length:] = padding
    return values, OwnFrames(torch.tensor(lengths), n_frames)


def own_rows(values: torch.Tensor, lengths: list[int]) -> torch.Tensor:
    return torch.cat([row[:length] for row, length in zip(values, lengths)])


# --- masks ---


@given(lengths=LENGTHS)
def test_what_is_behind_a_rows_own_frames_is_zero_and_does_not_count_in_its_mean(lengths: list[int]) -> None:
    values_BTC, own = batch(lengths, 3)

    zeroed, mean_BC = own.zeroed(values_BTC), own.mean(values_BTC)

    for row, length in enumerate(lengths):
        assert torch.equal(zeroed[row, :length], values_BTC[row, :length]) and not zeroed[row, length:].any()
        expected = values_BTC[row, :length].mean(0) if length else torch.zeros(3).double()
        torch.testing.assert_close(mean_BC[row], expected)


@pytest.mark.parametrize("stride", [1, 2, 3])
def test_a_strided_convolution_leaves_as_many_frames_as_told(stride: int) -> None:
    frames = {n: functional.conv1d(torch.zeros(1, 1, n), torch.zeros(1, 1, 5), None, stride, 2) for n in range(1, 12)}

    told = halved(torch.arange(12), stride).tolist()

    assert told == [0, *(values.shape[2] for values in frames.values())]


def test_relu_is_clipped_at_20() -> None:
    assert clipped_relu(torch.tensor([-3.0, 4.0, 30.0])).tolist() == [0, 4, 20]


# --- batch norm ---


@settings(max_examples=40, deadline=None)
@given(lengths=LENGTHS.filter(lambda lengths: sum(lengths) > 1), height=st.sampled_from([(), (2,)]))
def test_training_normalises_as_torch_does_what_is_left_without_the_padding(lengths: list[int], height: Any) -> None:
    values_BTX, own = batch(lengths, 3, *height)
    norm, theirs = FrameNorm(3).double(), nn.BatchNorm1d(3).double()

    normal_BTX = norm(values_BTX, own)

    torch.testing.assert_close(own_rows(normal_BTX, lengths), theirs(own_rows(values_BTX, lengths)))
    torch.testing.assert_close(norm.norm.running_mean, theirs.running_mean)
    torch.testing.assert_close(norm.norm.running_var, theirs.running_var)
    assert all(not row[length:].any() for row, length in zip(normal_BTX, lengths))


def test_evaluation_uses_the_running_statistics() -> None:
    norm = FrameNorm(3).double()
    norm.norm.running_mean.fill_(2)
    norm.norm.running_var.fill_(4 - norm.norm.eps)
    values_BTC, own = batch([3, 0, 2], 3)

    normal_BTC = norm.eval()(values_BTC, own)

    torch.testing.assert_close(own_rows(normal_BTC, [3, 0, 2]), (own_rows(values_BTC, [3, 0, 2]) - 2) / 2)


@pytest.mark.parametrize("lengths", [[0], [0, 0], [1], [0, 1]])
@pytest.mark.parametrize("training", [True, False])
def test_none_or_one_frame_moves_no_statistics_and_has_finite_gradients(lengths: list[int], training: bool) -> None:
    norm = FrameNorm(3).double().train(training)
    values_BTC, own = batch(lengths, 3, padding=5)
    values_BTC.requires_grad_()

    normal_BTC = norm(values_BTC, own)
    normal_BTC.square().sum().backward()

    torch.testing.assert_close(own_rows(normal_BTC, lengths), own_rows(values_BTC, lengths), rtol=1e-4, atol=1e-4)
    assert not norm.norm.running_mean.any() and norm.norm.num_batches_tracked == 0
    assert values_BTC.grad is not None and values_BTC.grad.isfinite().all()
    assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in norm.parameters())


def test_it_keeps_the_type_of_bf16_and_counts_in_fp32() -> None:
    values_BTC, own = batch([3, 2], 3, padding=0)

    normal_BTC = FrameNorm(3)(values_BTC.bfloat16(), own)

    assert normal_BTC.dtype == torch.bfloat16
    torch.testing.assert_close(
        normal_BTC.double(), FrameNorm(3).double()(values_BTC.bfloat16().double(), own), rtol=0.01, atol=0.01
    )


def test_the_trainer_can_synchronise_and_freeze_it() -> None:
    synchronous, frozen = FrameNorm(3), FrameNorm(3).requires_grad_(False)

    batch_norm.convert(synchronous, "sync", ghost_rows=2)
    batch_norm.freeze_statistics(frozen)

    assert isinstance(synchronous.norm, batch_norm.SyncBatchNorm)
    assert isinstance(frozen.norm, batch_norm.FrozenBatchNorm)


def test_on_the_meta_device_it_has_shapes() -> None:
    values_BTC = torch.empty(2, 4, 3, device="meta")
    own = OwnFrames(torch.empty(2, dtype=torch.int64, device="meta"), 4)

    assert FrameNorm(3).to("meta").eval()(values_BTC, own).shape == (2, 4, 3)
    assert Recurrence(3, 5, "gru").to("meta")(values_BTC, own).shape == (2, 4, 5)


# --- recurrences ---


@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm"])
@pytest.mark.parametrize("both_ways", [True, False])
def test_a_recurrence_runs_over_each_rows_own_frames_and_adds_both_directions(cell: str, both_ways: bool) -> None:
    lengths = [5, 0, 1, 3]
    recurrence = Recurrence(3, 4, cell, both_ways=both_ways).double()
    values_BTC, own = batch(lengths, 3, padding=7)

    out_BTX = recurrence(values_BTC, own)

    for row, length in enumerate(lengths):
        assert not out_BTX[row, length:].any()
        if length:
            alone = recurrence.cell(values_BTC[row : row + 1, :length])[0][0]
            torch.testing.assert_close(out_BTX[row, :length], alone[:, :4] + alone[:, 4:] if both_ways else alone)


def test_a_plain_recurrence_starts_as_a_rotation() -> None:
    weight = Recurrence(3, 4, "rnn").get_parameter("cell.weight_hh_l0_reverse")

    torch.testing.assert_close(weight @ weight.T, torch.eye(4))


def test_an_unknown_cell_is_answered_with_the_known() -> None:
    with pytest.raises(UserError, match=r"model\.args\.cell: 'sru' is no recurrence\n.*rnn, gru, lstm"):
        Recurrence(3, 4, "sru")
