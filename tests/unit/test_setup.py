"""What a config is checked against before a run: the data, the workers, the network."""

import threading

import pytest
import tiny
import torch

from distdl.comm.world import WorldInfo
from distdl.config.schema import TrainConfig
from distdl.errors import UserError
from distdl.trainer import loaders, setup
from distdl.trainer.state import TrainState


@pytest.fixture
def build(corpus, opened):
    def make(overrides=None, world=None, state=None):
        configured = tiny.config(corpus, overrides)
        return opened(setup.build(configured, world or WorldInfo(), torch.device("cpu"), state or TrainState()))

    return make


def test_a_label_that_the_network_has_no_output_for_is_found_when_it_is_read(build):
    run = build({"model.args": {"classes": 5}})

    with pytest.raises(UserError, match=r"label [5-9] of .* the network has 5 classes") as caught:
        list(run.host_batches())

    assert caught.value.where == "data.train"


def test_the_bound_of_labels_comes_from_the_last_layer_if_the_config_does_not_say(build):
    assert loaders.count_classes(build().engine.model, build().config) == tiny.CLASSES


def test_a_layer_with_sparse_gradients_is_refused(build):
    with pytest.raises(UserError, match="'words' makes sparse gradients"):
        build({"model.name": "tiny:Words"})


def test_every_worker_gets_at_least_one_row(build):
    build({"train.global_batch": 3}, WorldInfo(rank=2, world_size=3))

    with pytest.raises(UserError, match="a global batch of 3 can't be shared by 4 workers"):
        build({"train.global_batch": 3}, WorldInfo(world_size=4))


def test_a_best_metric_that_the_task_does_not_have_is_answered_with_those_it_has(build):
    with pytest.raises(UserError, match=r"no metric 'top-1' - did you mean top1\?") as caught:
        build({"checkpoint.best": "top-1"})

    assert caught.value.fix == "It has: loss, top1, top5."


def test_a_best_checkpoint_needs_something_to_evaluate_on(build):
    with pytest.raises(UserError, match="nothing to evaluate on"):
        build({"checkpoint.best": "loss", "data.eval": None})


def test_shards_that_are_not_there_are_named_with_the_key_that_names_them(build, tmp_path):
    with pytest.raises(UserError) as caught:
        build({"data.eval": {"dev": {"shards": str(tmp_path / "nowhere")}}})

    assert caught.value.where.startswith("data.eval.dev.shards: ") and "nowhere" in caught.value.where


def test_the_tail_of_an_epoch_is_carried_into_the_next_or_dropped(build):
    carried, dropped = build({"train.steps": None, "train.epochs": 2}), build(
        {"train.steps": None, "train.epochs": 2, "data.tail": "drop"}
    )  # fmt: skip

    assert (carried.end, carried.total_steps) == (40, 5)
    assert (dropped.end, dropped.total_steps) == (32, 4)
    valid = [int(batch.tensors["valid"].sum()) for batch in carried.host_batches()]
    assert valid == [8, 8, 8, 8, 8]


def test_the_last_batch_of_a_run_is_padded_by_rows_that_do_not_count(build):
    run = build({"train.steps": None, "train.epochs": 1})

    batches = list(run.host_batches())

    assert [len(batch.tensors["label"]) for batch in batches] == [8, 8, 8]
    assert [int(batch.tensors["valid"].sum()) for batch in batches] == [8, 8, 4]


def test_with_no_worker_of_its_own_the_training_thread_reads_the_same(build):
    threads, run = build({"data.workers": 2}), build({"data.workers": 0})

    n_threads = threading.active_count()
    alone = [batch.tensors["image"] for batch in run.host_batches()]
    assert threading.active_count() == n_threads
    for one, other in zip(threads.host_batches(), alone, strict=True):
        assert torch.equal(one.tensors["image"], other)


def test_dropping_the_tail_of_a_corpus_smaller_than_a_batch_leaves_nothing(build):
    with pytest.raises(UserError, match="an epoch of 20 samples has no full batch of 64"):
        build({"train.global_batch": 64, "data.tail": "drop"})


def test_a_run_of_no_step_is_refused(build):
    with pytest.raises(UserError, match="are not one step"):
        build({"train.steps": None, "train.epochs": 0.01})


def test_a_run_that_goes_on_inside_an_epoch_reads_what_is_left(build):
    whole = [batch.tensors["sample_id"].tolist() for batch in build().host_batches()]
    resumed = build(state=TrainState(step=2, position=16))

    assert [batch.tensors["sample_id"].tolist() for batch in resumed.host_batches()] == whole[2:]
    assert resumed.total_steps == 5
    assert resumed.epoch == 0.8


def test_every_worker_begins_with_the_same_weights(build):
    first, second = build(), build(world=WorldInfo(rank=1, world_size=2))

    for a, b in zip(first.engine.model.parameters(), second.engine.model.parameters()):
        assert torch.equal(a, b)
    assert not torch.equal(
        next(build({"train.seed": 1}).engine.model.parameters()), next(first.engine.model.parameters())
    )


def test_arguments_that_the_task_does_not_take_are_the_users_mistake(build):
    with pytest.raises(UserError, match="task 'classify' takes no argument 'smoothing'"):
        build({"task.args": {"smoothing": 0.1}})


def test_what_a_checkpoint_is_checked_against_does_not_depend_on_where_the_shards_lie(build, tmp_path):
    moved = tiny.write_corpus(tmp_path / "elsewhere", 20)
    other = tiny.write_corpus(tmp_path / "other", 21)

    here = build().description["data"]

    assert build({"data.train.shards": str(moved)}).description["data"] == here
    assert build({"data.train.shards": str(other)}).description["data"] != here


def test_a_device_that_is_not_there_is_the_users_mistake(monkeypatch):
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available: None)

    assert setup.pick_device("auto", WorldInfo()).type == "cpu"
    with pytest.raises(UserError, match="no CUDA device is usable here"):
        setup.pick_device("cuda", WorldInfo())


@pytest.mark.parametrize(
    ("given", "device", "warned"),
    [
        ({"CUDA_VISIBLE_DEVICES": "0,1"}, "auto", True),
        ({"SLURM_STEP_GPUS": "3"}, "auto", True),
        ({"CUDA_VISIBLE_DEVICES": "", "SLURM_STEP_GPUS": "3"}, "auto", False),
        ({"CUDA_VISIBLE_DEVICES": "-1"}, "auto", False),
        ({}, "auto", False),
        ({"CUDA_VISIBLE_DEVICES": "0"}, "cpu", False),
    ],
)
def test_gpus_that_are_given_and_not_seen_are_told_of(given, device, warned):
    config = TrainConfig(global_batch=1, epochs=1, device=device)

    found = setup.unused_gpus(config, torch.device("cpu"), given)

    assert (found is not None) == warned
    assert not found or "are given to this run, but torch" in found


def test_a_worker_without_a_device_of_its_own_is_refused(monkeypatch):
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available: torch.device("cuda"))
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 1)

    with pytest.raises(UserError, match="worker 1 has no device: this host has 1"):
        setup.pick_device("auto", WorldInfo(local_rank=1, world_size=2))


@pytest.mark.parametrize("n_devices, index", [(1, 0), (4, 1)])
def test_a_task_of_srun_takes_the_only_device_that_it_sees_else_that_of_its_place(monkeypatch, n_devices, index):
    taken = []
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available: torch.device("cuda"))
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: n_devices)
    monkeypatch.setattr(torch.accelerator, "set_device_index", taken.append)
    monkeypatch.setenv("SLURM_STEP_ID", "0")
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "4")

    assert setup.pick_device("auto", WorldInfo(local_rank=1, world_size=4)) == torch.device("cuda", index)
    assert taken == [index]


def test_batches_that_grow_shorten_the_run_and_a_resumed_one_knows_it(build):
    growth = {"train.steps": None, "train.epochs": 3, "train.batch_growth": {"epochs": [1, 2], "factor": 2}}

    whole, resumed = build(growth), build(growth, state=TrainState(step=3, position=24))

    assert [len(batch.tensors["valid"]) for batch in whole.host_batches()] == [8, 8, 8, 16, 32]
    assert whole.total_steps == resumed.total_steps == 5
    assert (whole.global_batch, resumed.global_batch) == (8, 16)


def test_a_task_without_label_smoothing_is_given_none(build):
    build({"task": {"name": "regress"}, "model.args": {"classes": 1}})

    with pytest.raises(UserError, match="task 'regress' has no label smoothing"):
        build({"task": {"name": "regress", "label_smoothing": 0.1}})
