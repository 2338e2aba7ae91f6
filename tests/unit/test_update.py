"""From summed gradients to new weights: a step whose gradient holds NaN or Inf leaves no trace."""

import copy
import math

import pytest
import tiny
import torch

from distdl.trainer.engines import Buffers
from distdl.trainer.update import LossScale, Skipped, Update

BAD = [math.nan, math.inf, -math.inf]


@pytest.fixture
def make(corpus):
    def build(**overrides):
        config = tiny.config(corpus, {name.replace("__", "."): value for name, value in overrides.items()})
        torch.manual_seed(0)
        model = tiny.with_batch_norm()
        optimiser = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        return model, optimiser, Update(config, model, optimiser)

    return build


def a_step(model, update, *, bad=None, rows=8):
    """One step on `rows` images; `bad` is put into one element of a gradient before the update."""
    images = torch.randn(rows, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    update.begin(rows)
    model.zero_grad()
    update.backward(model(images).square().sum())
    if bad is not None:
        model[0].weight.grad[1, 0, 2, 2] = bad
    update(0, 0.1, torch.tensor(float(rows)))


def test_each_gradient_is_clipped_by_itself(make):
    model, _, update = make(train__clip_layer=0.5)
    for parameter, norm in zip(model.parameters(), (0.1, 0.5, 2.0, 0.0), strict=False):
        parameter.grad = torch.zeros_like(parameter)
        parameter.grad.view(-1)[0] = norm
    unused = list(model.parameters())[4]
    unused.grad = None

    update.begin(1)
    update(0, 0.1, torch.tensor(1.0))

    norms = [parameter.grad.norm().item() for parameter in list(model.parameters())[:4]]
    assert norms == pytest.approx([0.1, 0.5, 0.5, 0.0])


@pytest.mark.parametrize("bad", BAD)
def test_a_step_with_nan_or_inf_anywhere_changes_neither_weights_nor_the_optimiser(make, bad):
    model, optimiser, update = make()
    a_step(model, update)
    weights, momentum = copy.deepcopy(list(model.parameters())), copy.deepcopy(optimiser.state_dict()["state"])

    a_step(model, update, bad=bad)

    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), weights))
    after = optimiser.state_dict()["state"]
    assert all(torch.equal(after[i]["momentum_buffer"], momentum[i]["momentum_buffer"]) for i in momentum)


def test_steps_left_out_are_counted_in_all_and_in_a_row(make):
    model, _, update = make()

    for bad in (None, math.nan, math.nan, None, math.inf):
        a_step(model, update, bad=bad)

    assert update.skipped.totals() == (3, 1)


def test_what_the_device_counts_is_what_the_host_would_count():
    skipped, by_host = Skipped(torch.device("cpu")), Skipped(torch.device("cpu"))
    skipped.set(7, 2)
    by_host.set(7, 2)

    for found in (1, 1, 0, 1):
        skipped.now.fill_(found)
        skipped.count(None)
        by_host.count(bool(found))

    assert skipped.totals() == by_host.totals() == (10, 1)


def test_a_step_left_out_gives_batch_norm_its_statistics_back():
    model = tiny.with_batch_norm()
    buffers, skipped = Buffers(model), torch.ones(())
    before = copy.deepcopy(model.state_dict())

    buffers.begin()
    model(torch.full((8, 1, 4, 4), math.nan))
    buffers.undo(skipped)

    assert torch.equal(model[1].running_mean, before["1.running_mean"])
    assert torch.equal(model[1].running_var, before["1.running_var"])


class Remembers(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x):
        self.seen = 0.5 * self.seen + x.mean()  # another tensor from here on
        return x


def test_a_buffer_that_forward_replaces_is_the_mean_over_the_parts():
    model = Remembers()
    buffers, not_skipped = Buffers(model), torch.zeros(())
    changes = []

    for _ in range(2):
        buffers.begin()
        changes.clear()
        for part in (1.0, 3.0):
            buffers.reset()
            model(torch.full((4,), part))
            changes.append(buffers.change())
        buffers.set(sum(changes), 2, not_skipped)

    assert model.seen == 0.5 * 2 + 2


def test_the_gradient_is_the_mean_over_the_rows_that_count(make):
    model, _, update = make()
    images = torch.randn(6, 1, 4, 4)
    update.begin(8)  # two rows of the batch are masked

    update.backward(model(images).square().sum())
    update(0, 0.1, torch.tensor(6.0))

    found = [p.grad.clone() for p in model.parameters()]
    model, _, _ = make()
    (model(images).square().sum() / 6).backward()
    for gradient, parameter in zip(found, model.parameters()):
        torch.testing.assert_close(gradient, parameter.grad)


@pytest.mark.parametrize("n_rows", [[8, 8, 16, 8]])
def test_the_mean_follows_a_batch_that_grows(make, n_rows):
    model, _, update = make()
    for rows in n_rows:
        a_step(model, update, rows=rows)
    images = torch.randn(8, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    parameter = copy.deepcopy(model)
    (parameter(images).square().sum() / 8).backward()

    update.begin(8)
    model.zero_grad()
    update.backward(model(images).square().sum())

    torch.testing.assert_close(model[0].weight.grad, parameter[0].weight.grad)


def test_the_loss_scale_moves_as_torchs_grad_scaler_does():
    ours, theirs = LossScale(torch.device("cpu")), torch.amp.GradScaler("cpu", growth_interval=2000)
    weight = torch.nn.Parameter(torch.ones(1))
    optimiser = torch.optim.SGD([weight], lr=0.0)
    scales = []

    for step in range(4010):
        found = step in (3, 4, 2500)
        weight.grad = torch.tensor([math.inf if found else 1.0])
        theirs.scale(torch.ones(1))
        theirs.step(optimiser)
        theirs.update()
        ours.update(torch.tensor(float(found)))
        scales.append((ours.value.item(), theirs.get_scale()))

    assert all(mine == reference for mine, reference in scales)
    assert len({mine for mine, _ in scales}) == 3


def test_the_loss_scale_goes_on_from_where_it_was():
    scale = LossScale(torch.device("cpu"))
    for _ in range(1999):
        scale.update(torch.zeros(()))
    again = LossScale(torch.device("cpu"))
    again.load(scale.state())

    again.update(torch.zeros(()))

    assert again.value.item() == 2 * scale.value.item()


def test_momentum_that_begins_after_a_step_left_out_does_not_hold_what_was_in_memory(make):
    # On a GPU the optimiser's kernel itself leaves out a bad step. A fused SGD takes its memory before.
    model, _, update = make()
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, fused=True)
    update._optimiser, update._device_decides = optimiser, True
    optimiser.found_inf = update.skipped.now

    for bad in (math.nan, None, math.inf, None):
        a_step(model, update, bad=bad)

    gradients = [p.grad for p in model.parameters()]
    momenta = [optimiser.state[p]["momentum_buffer"] for p in model.parameters()]
    assert update.skipped.totals() == (2, 0)
    for gradient, momentum in zip(gradients, momenta):
        assert momentum.isfinite().all() and momentum.abs().max() < 10 * gradient.abs().max() + 10
