"""The mean of a run's checkpoints: which are taken, what it holds, and what becomes of batch norm."""

import numpy as np
import pytest
import safetensors
import safetensors.torch
import tiny
import torch
from torch import nn

from distdl.checkpoint.save import Checkpoints
from distdl.config import dump
from distdl.config.schema import KeepConfig
from distdl.errors import UserError
from distdl.inference.evaluate import evaluate_runs
from distdl.run import trust
from distdl.run.folder import create_or_reopen
from distdl.trainer.average import average
from distdl.trainer.state import capture
from distdl.trainer.step import train_step


@pytest.fixture
def trained(corpus, opened, tmp_path, monkeypatch):
    """Trains five steps, a checkpoint after each; returns the run folder and the weights after each step."""
    monkeypatch.setenv(trust.VARIABLE, "1")  # the networks of these tests are code outside distdl

    def make(model="tiny:with_batch_norm", **overrides):
        named = {name.replace("__", "."): value for name, value in overrides.items()}
        named |= {"model.name": model, "data.eval": {"shards": str(corpus)}}
        run = opened(tiny.build(tiny.config(corpus, named)))
        folder = create_or_reopen(tmp_path / "run", resume=False)
        folder.config.write_text(dump(run.config))
        checkpoints = Checkpoints(
            folder,
            keep=KeepConfig(last=9),
            epoch_length=20,
            warn=lambda topic, message: pytest.fail(message),
            still_ours=lambda: True,
        )
        history = {}
        for batch in run.host_batches():
            train_step(run, batch, 0.1)
            run.state.advance(8)
            checkpoints.save(
                lambda: capture(run.state, run.engine, run.ema, {}), run.state.step, best_steps=(), wait=True
            )
            history[run.state.step] = {name: v.clone() for name, v in run.engine.model.state_dict().items()}
        return folder, history

    return make


def mean_of(history, name, steps):
    """numpy's, in fp64."""
    return np.mean([history[step][name].double().numpy() for step in steps], axis=0).astype(np.float32)


def damage(folder, step):
    (folder.checkpoints / f"step-{step:08}" / "model.safetensors").write_bytes(b"")


def test_the_weights_are_the_mean_of_the_last_checkpoints_and_are_evaluated(trained):
    folder, history = trained()

    rows = average(str(folder.path), last=3)

    path = folder.path / "averaged-last-3.safetensors"
    weights = safetensors.torch.load_file(path)
    assert weights.keys() == history[5].keys()
    for name in ("0.weight", "1.bias", "4.weight"):
        np.testing.assert_array_equal(weights[name].numpy(), mean_of(history, name, [3, 4, 5]))
    with safetensors.safe_open(path, "pt") as file:
        assert file.metadata() == {"format": "pt", "run_id": folder.run_id(), "steps": "3,4,5"}
    (row,) = rows
    assert (row["run"], row["steps"], row["weights"], row["count"]) == ("run", [3, 4, 5], str(path), 20)


def test_distdl_eval_finds_the_same_for_the_file(trained):
    folder, _ = trained()
    (row,) = average(str(folder.path), last=2)

    (again,) = evaluate_runs(
        [str(folder.path)], None, (), pytest.fail, str(folder.path / "averaged-last-2.safetensors")
    )

    assert (again["loss"], again["top1"]) == (row["loss"], row["top1"])


def test_batch_norm_has_the_statistics_of_the_mean_weights_on_the_training_data(trained, corpus):
    folder, _ = trained()

    average(str(folder.path), last=3, bn_samples=None)

    weights = safetensors.torch.load_file(folder.path / "averaged-last-3.safetensors")
    run = tiny.build(tiny.config(corpus))
    seen_NCHW = []
    for batch, _ in zip(run.host_batches(), range(3)):  # 3 batches of 8 are an epoch of 20
        seen_NCHW.append(batch.tensors["image"].permute(0, 3, 1, 2) / 255)
    run.close()
    outputs = [nn.functional.conv2d(images, weights["0.weight"], weights["0.bias"]) for images in seen_NCHW]
    means = torch.stack([each.mean((0, 2, 3)) for each in outputs]).mean(0)
    variances = torch.stack([each.transpose(0, 1).flatten(1).var(1) for each in outputs]).mean(0)
    torch.testing.assert_close(weights["1.running_mean"], means)
    torch.testing.assert_close(weights["1.running_var"], variances)
    assert weights["1.num_batches_tracked"] == 3


@pytest.mark.parametrize("bn_samples, n_forwards", [(1, 2), (8, 2), (9, 4), (10**6, 6)])
def test_the_statistics_take_whole_batches_in_forwards_of_at_most_eval_batch_rows(trained, bn_samples, n_forwards):
    folder, _ = trained(train__eval_batch=5)

    average(str(folder.path), last=2, bn_samples=bn_samples)

    weights = safetensors.torch.load_file(folder.path / "averaged-last-2.safetensors")
    assert weights["1.num_batches_tracked"] == n_forwards


def test_steps_can_be_chosen_and_the_file_named(trained, tmp_path):
    folder, history = trained(model="tiny:perceptron")

    average(str(folder.path), steps=[4, 1], out=tmp_path / "mine.safetensors")

    weights = safetensors.torch.load_file(tmp_path / "mine.safetensors")
    np.testing.assert_array_equal(weights["1.weight"].numpy(), mean_of(history, "1.weight", [1, 4]))


def test_the_trained_weights_are_averaged_also_where_the_run_keeps_averages(trained):
    folder, history = trained(model="tiny:perceptron", train__ema=0.9)

    average(str(folder.path), last=2)

    weights = safetensors.torch.load_file(folder.path / "averaged-last-2.safetensors")
    np.testing.assert_array_equal(weights["1.weight"].numpy(), mean_of(history, "1.weight", [4, 5]))


def test_tied_weights_are_averaged_and_evaluated(trained):
    folder, history = trained(model="tiny:Tied")

    average(str(folder.path), last=2)

    weights = safetensors.torch.load_file(folder.path / "averaged-last-2.safetensors")
    for name in ("first.weight", "second.weight"):
        np.testing.assert_array_equal(weights[name].numpy(), mean_of(history, "first.weight", [4, 5]))


def test_a_damaged_checkpoint_is_passed_over_for_an_older_one(trained):
    folder, _ = trained()
    damage(folder, 4)
    warnings = []

    (row,) = average(str(folder.path), last=3, warn=warnings.append)

    assert row["steps"] == [2, 3, 5]
    assert len(warnings) == 1 and "step-00000004" in warnings[0]


@pytest.mark.parametrize(
    "wanted, answer",
    [
        ({"last": 6}, "this run has 5 whole checkpoints, not 6"),
        ({"last": 0}, "how many checkpoints"),
        ({}, "how many checkpoints"),
        ({"steps": [5, 7]}, "no checkpoint of step 7"),
        ({"last": 2, "out": "missing/x.safetensors"}, "can't write the weights: No such file"),
    ],
)
def test_what_cannot_be_done_is_said(trained, tmp_path, wanted, answer):
    folder, _ = trained(model="tiny:perceptron")
    if "out" in wanted:
        wanted = wanted | {"out": tmp_path / wanted["out"]}

    with pytest.raises(UserError, match=answer):
        average(str(folder.path), **wanted)
