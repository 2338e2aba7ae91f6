"""Batch norm by groups of rows, and what converting a network leaves as it was. All workers' rows: tests/dist."""

import copy

import pytest
import tiny
import torch
from torch import nn

from distdl import models
from distdl.config.schema import GrowthConfig
from distdl.errors import UserError
from distdl.trainer import batch_norm


def two_of(kind, **options):
    """The same layer twice, with weights that are not the initial ones."""
    layer = kind(3, **options)
    for parameter in layer.parameters():
        nn.init.normal_(parameter, 1.0, 0.5)
    return layer, copy.deepcopy(layer)


def images(n_rows, *size):
    return torch.randn(n_rows, 3, *size, generator=torch.Generator().manual_seed(0)) * 2 + 3


def steps(layer, forward, batch):
    """Outputs, and gradients of input and weights, of a forward and backward whose rows weigh unlike."""
    batch = batch.clone(memory_format=torch.preserve_format).requires_grad_()
    outputs = forward(layer, batch)
    (outputs.float() * torch.arange(outputs.numel()).view_as(outputs)).sum().backward()
    return [outputs.detach(), batch.grad, *(parameter.grad for parameter in layer.parameters())]


# --- ghost ---


@pytest.mark.parametrize("kind, size", [(nn.BatchNorm1d, ()), (nn.BatchNorm2d, (4, 5)), (nn.BatchNorm3d, (2, 3, 2))])
@pytest.mark.parametrize("n_rows, groups", [(8, [4, 4]), (11, [4, 4, 3]), (9, [4, 5]), (3, [3])])
def test_ghost_batch_norm_is_a_loop_over_the_groups(kind, size, n_rows, groups):
    layer, ghost = two_of(kind)
    batch_norm.convert(ghost, "ghost", ghost_rows=4)

    expected = steps(
        layer, lambda norm, batch: torch.cat([norm(group) for group in batch.split(groups)]), images(n_rows, *size)
    )
    found = steps(ghost, lambda norm, batch: norm(batch), images(n_rows, *size))

    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("momentum", [0.3, None])
def test_ghost_running_statistics_move_once_towards_the_mean_over_the_rows_groups(momentum):
    _, ghost = two_of(nn.BatchNorm2d, momentum=momentum)
    batch_norm.convert(ghost, "ghost", ghost_rows=4)
    batches = [images(10, 2, 2), images(10, 2, 2) * 2]

    for batch in batches:
        ghost(batch)

    mean, variance = torch.zeros(3), torch.ones(3)
    for step, batch in enumerate(batches):
        groups = [group.transpose(0, 1).flatten(1) for group in batch.split(4)]
        weights = torch.tensor([4.0, 4.0, 2.0])[:, None] / 10
        move = momentum or 1 / (step + 1)
        mean += move * ((weights * torch.stack([group.mean(1) for group in groups])).sum(0) - mean)
        variance += move * ((weights * torch.stack([group.var(1) for group in groups])).sum(0) - variance)
    torch.testing.assert_close(ghost.running_mean, mean)
    torch.testing.assert_close(ghost.running_var, variance)
    assert ghost.num_batches_tracked == 2


def test_ghost_batch_norm_keeps_half_precision_and_channels_last():
    layer, ghost = two_of(nn.BatchNorm2d)
    batch_norm.convert(ghost, "ghost", ghost_rows=4)
    batch = images(8, 4, 4).to(torch.bfloat16, memory_format=torch.channels_last)

    expected = steps(layer, lambda norm, batch: torch.cat([norm(group) for group in batch.split(4)]), batch)
    found = steps(ghost, lambda norm, batch: norm(batch), batch)

    assert found[0].dtype == torch.bfloat16 and found[0].is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(found, expected)


# --- converting ---


@pytest.mark.parametrize("kind", ["sync", "ghost"])
def test_converting_keeps_every_name_and_every_tensor(kind):
    network = models.build("resnet20_cifar", {})
    before = dict(network.named_parameters()) | dict(network.named_buffers())
    names, blocks = list(network.state_dict()), models.blocks(network)

    batch_norm.convert(network, kind, ghost_rows=4)

    after = dict(network.named_parameters()) | dict(network.named_buffers())
    assert all(after[name] is before[name] for name in before.keys() | after.keys())
    assert list(network.state_dict()) == names and models.blocks(network) == blocks
    assert not [m for m in network.modules() if type(m) is nn.BatchNorm2d]


@pytest.mark.parametrize("kind", ["sync", "ghost"])
@pytest.mark.parametrize("tracked", [True, False])
def test_evaluation_is_that_of_torchs_batch_norm(kind, tracked):
    layer, converted = two_of(nn.BatchNorm2d, track_running_stats=tracked)
    batch_norm.convert(converted, kind, ghost_rows=4)

    assert torch.equal(converted.eval()(images(9, 2, 2)), layer.eval()(images(9, 2, 2)))


def test_sync_with_one_worker_has_the_bits_of_torchs_batch_norm():
    layer, sync = two_of(nn.BatchNorm2d)
    batch_norm.convert(sync, "sync", ghost_rows=4)

    assert torch.equal(sync(images(7, 2, 2)), layer(images(7, 2, 2)))
    assert torch.equal(sync.running_var, layer.running_var)


def test_local_leaves_the_network_alone():
    network = tiny.with_batch_norm()

    batch_norm.convert(network, "local", ghost_rows=4)

    assert type(network[1]) is nn.BatchNorm2d


@pytest.mark.parametrize("kind", ["sync", "ghost"])
def test_a_network_without_batch_norm_is_refused(kind):
    with pytest.raises(UserError, match=f"train.batch_norm: {kind}: this network has no batch norm"):
        batch_norm.convert(tiny.perceptron(), kind, ghost_rows=4)


# --- forwards that have to meet ---


@pytest.mark.parametrize(
    "global_batch, world_size, micro_batch",
    [(8, 1, 3), (8, 2, 4), (8, 2, 3), (7, 2, 4), (7, 2, 2), (7, 2, None), (8, 1, "auto")],
)
def test_workers_with_as_many_forwards_may_use_sync(corpus, global_batch, world_size, micro_batch):
    overrides = {"train.global_batch": global_batch, "train.micro_batch": micro_batch, "train.batch_norm": "sync"}

    batch_norm.check_sync(tiny.config(corpus, overrides), world_size)


@pytest.mark.parametrize(
    "overrides, complaint",
    [
        ({"train.micro_batch": 3}, r"2 workers would .* a global batch of 7, .*\n.*micro_batch=4"),  # shares of 3 and 4
        ({"train.micro_batch": 1}, r"a global batch of 7, .*\n.*micro_batch=2"),
        ({"train.micro_batch": 5, "train.batch_growth": GrowthConfig(epochs=[1, 2], factor=3)}, r"of 21, .*\n.*=6"),
        ({"train.micro_batch": "auto"}, "each worker finds out alone"),
    ],
)
def test_workers_with_unlike_numbers_of_forwards_are_refused(corpus, overrides, complaint):
    config = tiny.config(corpus, {"train.global_batch": 7, "train.batch_norm": "sync", **overrides})

    with pytest.raises(UserError, match=complaint):
        batch_norm.check_sync(config, world_size=2)


def test_only_sync_is_refused(corpus):
    batch_norm.check_sync(tiny.config(corpus, {"train.global_batch": 7, "train.micro_batch": 3}), world_size=2)
