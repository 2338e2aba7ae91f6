"""The copy that is written while training goes on."""

import pytest
import torch

from distdl.checkpoint.snapshot import Snapshot


def state(value=1.0):
    weight = torch.full((4, 3, 2, 2), value).to(memory_format=torch.channels_last)
    return {
        "model/weight": weight,
        "model/tied": weight,
        "model/columns": torch.arange(12.0).reshape(3, 4).t()[1:],
        "model/count": torch.tensor(7),
        "model/nothing": torch.empty(0, 3),
        "ema/half": torch.full((5,), value, dtype=torch.bfloat16),
        "ema/flag": torch.tensor([True, False, True]),
    }


def test_values_and_dtypes_are_copied_in_their_order_in_memory():
    tensors = state()
    tensors["model/weight"].copy_(torch.rand(4, 3, 2, 2))

    copies = Snapshot().take(tensors)

    for name, tensor in tensors.items():
        assert torch.equal(copies[name], tensor) and copies[name].dtype == tensor.dtype
    assert copies["model/weight"].is_contiguous(memory_format=torch.channels_last)


def test_names_that_share_memory_share_it_in_the_copy():
    copies = Snapshot().take(state())

    assert copies["model/tied"] is copies["model/weight"]
    assert len({copy.data_ptr() for copy in copies.values() if copy.numel()}) == len(copies) - 2


def test_what_training_changes_afterwards_is_not_in_the_copy():
    tensors = state(1.0)
    copies = Snapshot().take(tensors)

    tensors["model/weight"].fill_(2.0)

    assert copies["model/weight"].eq(1.0).all()


def test_the_next_copy_goes_to_the_same_memory():
    snapshot = Snapshot()
    first = {name: copy.data_ptr() for name, copy in snapshot.take(state(1.0)).items()}

    again = snapshot.take(state(2.0))

    assert {name: copy.data_ptr() for name, copy in again.items()} == first
    assert again["ema/half"].eq(2.0).all()


@pytest.mark.parametrize("change", [{"optim/momentum": torch.ones(3)}, {"model/count": torch.tensor(7.0)}])
def test_a_state_of_another_layout_is_copied_all_the_same(change):
    snapshot = Snapshot()
    snapshot.take(state())

    copies = snapshot.take(state() | change)

    (name,) = change
    assert torch.equal(copies[name], change[name]) and copies[name].dtype == change[name].dtype


@pytest.mark.needs("gpu")
def test_a_copy_from_the_device_is_not_touched_by_what_is_queued_after_it():
    tensors = {name: tensor.cuda() for name, tensor in state(1.0).items()} | {"big": torch.ones(2**26, device="cuda")}
    snapshot = Snapshot()
    for value in (2.0, 3.0):
        tensors["big"].fill_(value)
        copies = snapshot.take(tensors)
        tensors["big"].fill_(-1.0)
        snapshot.wait()
        assert copies["big"].is_pinned() and copies["big"].eq(value).all()
