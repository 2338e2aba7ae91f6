"""One step of one worker: however its rows are divided, the gradient is that of the mean over the rows that count."""

import dataclasses

import pytest
import tiny
import torch
from torch.nn import functional

from distdl.data.engine import HostBatch
from distdl.data.labels import IGNORED
from distdl.errors import UserError
from distdl.trainer import step


def train_step(run, host):
    return step.train_step(run, host, run.lr_now())


def totals(sums):
    """[loss sum, valid rows] over the micro-batches of a step."""
    return [sum(float(each) for each in column) for column in zip(*sums)]


@pytest.fixture
def build(corpus, opened):
    def make(**overrides):
        named = {name.replace("__", "."): value for name, value in overrides.items()}
        return opened(tiny.build(tiny.config(corpus, {"model.name": "tiny:Precise", **named})))

    return make


def batch(n_rows=8, masked=()):
    numbers = torch.Generator().manual_seed(0)
    tensors = {
        "image": torch.randint(0, 256, (8, 4, 4, 1), generator=numbers).to(torch.uint8)[:n_rows],
        "label": torch.tensor([IGNORED if row in masked else row for row in range(n_rows)]),
        "valid": torch.tensor([float(row not in masked) for row in range(n_rows)]),
        "sample_id": torch.arange(8)[:n_rows],
    }
    return HostBatch(tensors, n_valid=n_rows - len(masked), n_bad=0, wait_s=0.0)


def gradients(run):
    return {name: parameter.grad.clone() for name, parameter in run.engine.model.named_parameters()}


def assert_same(found, expected, relative=1e-6):
    assert found.keys() == expected.keys()
    for name in found:
        difference = (found[name] - expected[name]).norm() / expected[name].norm()
        assert difference < relative, f"{name} differs by {difference:.1e}"


def test_a_step_is_that_of_plain_pytorch(build):
    run = build(train__clip_norm=0.01, optim__weight_decay=0.1)
    plain = build().engine.model
    optimiser = torch.optim.SGD(
        [
            {"params": [p for p in plain.parameters() if p.dim() > 1], "weight_decay": 0.1},
            {"params": [p for p in plain.parameters() if p.dim() == 1]},
        ],
        lr=0.1,
        momentum=0.9,
    )

    for _ in range(3):
        sums = totals(train_step(run, batch()))
        optimiser.zero_grad()
        logits = plain(batch().tensors["image"].permute(0, 3, 1, 2) / 255)
        loss = functional.cross_entropy(logits.float(), batch().tensors["label"])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(plain.parameters(), 0.01)
        optimiser.step()

        assert sums == pytest.approx([8 * loss.item(), 8])

    assert_same(run.engine.model.state_dict(), plain.state_dict())


@pytest.mark.parametrize("micro_batch", [1, 3, 7, 100])
def test_micro_batches_that_do_not_divide_the_rows_give_the_gradient_of_all_rows(build, micro_batch):
    whole, divided = build(), build()
    divided.state.micro_batch = micro_batch

    expected = train_step(whole, batch())
    found = train_step(divided, batch())

    assert_same(gradients(divided), gradients(whole))
    assert totals(found) == pytest.approx(totals(expected))


@pytest.mark.parametrize("micro_batch", [None, 3])
def test_masked_rows_leave_the_gradient_of_the_batch_without_them(build, micro_batch):
    # Row 3 to 5 are a whole micro-batch of nothing.
    masked, without = build(), build(train__global_batch=5)
    masked.state.micro_batch = micro_batch
    rest = batch()
    rest.tensors = {name: tensor[[0, 1, 2, 6, 7]] for name, tensor in rest.tensors.items()}
    rest.n_valid = 5

    found = train_step(masked, batch(masked={3, 4, 5}))
    expected = train_step(without, rest)

    assert_same(gradients(masked), gradients(without))
    assert totals(found) == pytest.approx(totals(expected))


def test_a_batch_of_masked_rows_alone_is_no_error_and_has_no_gradient(build):
    run = build()

    sums = train_step(run, batch(masked=range(8)))

    assert totals(sums) == [0, 0]
    assert all(not gradient.any() for gradient in gradients(run).values())


def test_a_parameter_that_nothing_used_stays_as_it_is_and_does_not_decay(build):
    run = build(model__name="tiny:PartlyUsed", optim__weight_decay=0.1)
    before = run.engine.model.idle.weight.detach().clone()

    train_step(run, batch())

    torch.testing.assert_close(run.engine.model.idle.weight.detach(), before, rtol=0, atol=0)


def test_gradients_are_clipped_after_the_mean_was_formed(build):
    run = build(train__clip_value=0.001)

    train_step(run, batch())

    assert max(gradient.abs().max() for gradient in gradients(run).values()) <= 0.001 * (1 + 1e-6)


def test_the_rate_is_that_of_the_schedule_at_this_step(build):
    run = build(schedule={"name": "linear"})
    run.state.step, run.state.position = 2, 16

    train_step(run, batch())

    assert run.engine.optimiser.param_groups[0]["lr"] == pytest.approx(0.1 * 3 / 5)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_computes_in_half_and_keeps_weights_and_gradients_in_fp32(build, precision):
    run, exact = build(model__name="mlp", model__args={"inputs": 16}, train__precision=precision), build()
    seen = []
    run.engine.model.output.register_forward_hook(lambda module, inputs, outputs: seen.append(outputs.dtype))

    losses = [totals(train_step(run, batch()))[0] / 8 for _ in range(20)]

    assert set(seen) == {torch.bfloat16 if precision == "bf16" else torch.float16}
    assert {p.dtype for p in run.engine.model.parameters()} == {torch.float32}
    assert {gradient.dtype for gradient in gradients(run).values()} == {torch.float32}
    assert losses[-1] < losses[0] - 0.5
    assert exact.engine.update.scale is None and (run.engine.update.scale is not None) == (precision == "fp16")


def test_images_arrive_normalised_in_either_memory_order(build):
    seen = []
    normalise = [{"normalise": {"mean": [0.5], "std": [0.25]}}]
    for channels_last in (False, True):
        run = build(data__train={"shards": str(build().config.data.train.shards), "transforms": normalise},
                    train__channels_last=channels_last)  # fmt: skip
        run.engine.model.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].clone()))
        train_step(run, batch())

    expected = (batch().tensors["image"].permute(0, 3, 1, 2) / 255 - 0.5) / 0.25
    assert torch.equal(seen[0], seen[1])
    torch.testing.assert_close(seen[0], expected)


def test_dropout_draws_are_a_function_of_seed_step_and_part_of_the_batch(build):
    def draw(seed, number, part):
        run = build(train__seed=seed)
        run.state.step = number
        run.reduction = dataclasses.replace(run.reduction, parts=range(part, part + 1))
        train_step(run, batch())
        return torch.rand(1).item()

    assert draw(0, 1, 0) == draw(0, 1, 0)
    assert len({draw(0, 1, 0), draw(1, 1, 0), draw(0, 2, 0), draw(0, 1, 1)}) == 4


def test_the_average_of_the_weights_follows_each_step(build):
    run = build(train__ema=0.9)
    before = {name: value.clone() for name, value in run.ema.averages.items()}

    train_step(run, batch())

    for name, parameter in run.engine.model.named_parameters():
        torch.testing.assert_close(run.ema.averages[name], before[name] * 0.1 + parameter.detach() * 0.9)


def test_running_out_of_memory_names_the_shapes_the_samples_and_the_key_to_lower(build):
    run = build(model__name="tiny:TooLarge")

    with pytest.raises(UserError) as failure:
        train_step(run, batch())

    message = str(failure.value)
    assert "image 8x4x4x1 uint8" in message and "samples 0, 1, 2, 3, 4, 5, 6, 7)" in message
    assert "train.micro_batch=4" in message
