"""distdl from Python, without a run: configs that are mappings, overrides, batches in this process, mistakes."""

import numpy as np
import pytest
import tiny
import torch

import distdl
from distdl import api


@pytest.fixture
def config(corpus, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return {
        "model": {"name": "tiny:perceptron"},
        "data": {"train": {"shards": str(corpus)}, "eval": {"shards": str(corpus)}, "workers": 1},
        "train": {"global_batch": 8, "epochs": 1, "device": "cpu", "eval_batch": 8},
        "optim": {"lr": 0.1},
    }


def ids(batches):
    return [batch["sample_id"].tolist() for batch in batches]


def test_what_is_offered_is_there_and_nothing_else():
    assert all(hasattr(distdl, name) for name in distdl.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'trian'"):
        distdl.trian  # noqa: B018


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"optim__lr": 0.1}, ["optim.lr=0.1"]),
        ({"overrides": {"optim.lr": 1e-5}}, ["optim.lr=1.0e-05"]),
        ({"optim": {"lr": 0.1, "betas": (0.9, 0.99)}}, ["optim={lr: 0.1, betas: [0.9, 0.99]}"]),
        ({"train__early_stop": None}, ["train.early_stop=null"]),
        ({"track__wandb__tags": ["off", "a b"]}, ["track.wandb.tags=['off', a b]"]),
        ({"overrides": {"optim.lr": 1}, "optim__lr": 2}, ["optim.lr=2"]),
    ],
)
def test_overrides_become_words_of_the_command_line(monkeypatch, config, given, words):
    commands = []
    monkeypatch.setattr(api, "_load", lambda *_: None)
    monkeypatch.setattr(api, "_run", lambda command: commands.append(command) or (0, []))

    distdl.train(config, name="x", **given)

    assert commands[0][5:-2] == words and commands[0][-2:] == ["--name", "x"]


def test_a_mistake_in_a_mapping_is_told_before_anything_is_started(config):
    config["optim"]["lr"] = -1

    with pytest.raises(distdl.UserError) as caught:
        distdl.train(config, name="x", train__precison="bf16")

    assert str(caught.value).splitlines() == [
        "config:4: optim.lr: should be greater than 0 (got -1)",
        "command line 'train.precison=bf16': unknown key 'train.precison' - did you mean train.precision?",
    ]


def test_a_mapping_needs_a_name_and_plain_values(config):
    with pytest.raises(distdl.UserError, match="has no name"):
        distdl.train(config)
    with pytest.raises(distdl.UserError, match=r"optim.lr: tensor.* can't be written into a config"):
        distdl.train(config, name="x", optim__lr=torch.tensor(0.1))


def test_batches_are_those_of_the_run_as_the_network_sees_them(config, corpus, opened):
    config["data"]["train"]["transforms"] = [{"normalise": {"mean": [0.5], "std": [0.25]}}]
    run = opened(tiny.build(distdl.api.Config.model_validate(config)))

    batches = list(distdl.batches(config))

    expected = list(run.host_batches())
    assert ids(batches) == [host.tensors["sample_id"].tolist() for host in expected]
    for batch, host in zip(batches, expected):
        pixels = host.tensors["image"].numpy().transpose(0, 3, 1, 2)
        np.testing.assert_allclose(batch["image"].numpy(), (pixels / 255 - 0.5) / 0.25, rtol=1e-5, atol=1e-5)
        assert batch["label"].tolist() == host.tensors["label"].tolist()
    assert sum(batch["valid"].sum().item() for batch in batches) == 20


def test_the_workers_shares_are_the_whole_batch(config):
    shares = [ids(distdl.batches(config, rank=rank, world_size=3, epochs=2)) for rank in range(3)]

    assert [[*first, *second, *third] for first, second, third in zip(*shares)] == ids(distdl.batches(config, epochs=2))


def test_an_evaluation_split_comes_whole_and_in_its_own_order(config):
    batches = ids(distdl.batches(config, split="eval"))

    assert [sample for batch in batches for sample in batch if sample >= 0] == list(range(20))
    with pytest.raises(distdl.UserError, match="no split 'evla' - did you mean eval"):
        next(distdl.batches(config, split="evla"))


def test_looking_at_batches_leaves_the_callers_random_numbers_alone(config):
    before = torch.random.get_rng_state()

    list(distdl.batches(config))

    assert torch.equal(torch.random.get_rng_state(), before)
