"""Real corpora from their original files to a trained network."""

import json

import pytest
from place import mnist_config

pytestmark = [pytest.mark.timeout(240), pytest.mark.needs("data")]


def test_mnist_from_its_idx_files(place, real_data):
    config = mnist_config(
        place,
        real_data,
        train={"global_batch": 128, "epochs": 1, "log_every": 50},
        checkpoint={"best": "top1"},
    )

    result = place.run("train", config, "--nproc", 2, deadline=200)

    assert result.code == 0, result.output
    (evaluated,) = place.rows("run", "eval")
    assert evaluated["count"] == 10_000
    assert evaluated["top1"] > 0.97


def test_jpeg_folders_of_one_size(place, real_data):
    assert place.run("data", "pack", "imagefolder", real_data / "cifar10-jpg", "cifar10").code == 0
    normalise = {"normalise": {"mean": [0.491, 0.482, 0.447], "std": [0.247, 0.243, 0.262]}}
    config = place.config(
        model={"name": "resnet20_cifar", "args": {"classes": 10}},
        data__train={
            "shards": "cifar10/train",
            "transforms": [{"random_crop": {"size": 32, "padding": 4}}, "flip", normalise],
        },
        data__eval={"shards": "cifar10/test", "transforms": [normalise]},
        train={"global_batch": 64, "steps": 30, "log_every": 10, "eval_every": None},
    )
    assert place.run("data", "verify", "cifar10/test").code == 0

    result = place.run("train", config, "--nproc", 2, deadline=200)

    assert result.code == 0, result.output
    first, *_, last = [row["loss"] for row in place.rows("run")]
    assert last < first
    assert place.rows("run", "eval")[-1]["count"] == 10_000


def test_photographs_of_all_sizes(place, real_data):
    assert place.run("data", "pack", "imagefolder", real_data / "hymenoptera", "insects").code == 0
    normalise = {"normalise": {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}}
    config = place.config(
        model={"name": "resnet18", "args": {"classes": 2}},
        data__train={"shards": "insects/train", "transforms": [{"random_resized_crop": 64}, "flip", normalise]},
        data__eval={"shards": "insects/val", "transforms": [{"resize": 72}, {"center_crop": 64}, normalise]},
        train={"global_batch": 20, "epochs": 1, "log_every": 1, "eval_batch": 20},
        checkpoint={},
    )

    result = place.run("train", config, "--nproc", 2, deadline=200)

    assert result.code == 0, result.output
    assert place.rows("run", "eval")[-1]["count"] == 40
    final = json.loads((place.path / "runs/run/final.json").read_text())
    assert final["samples"] == 100 and final["bad_samples"] == 0


def test_a_folder_of_photographs_as_it_lies(place, real_data):
    normalise = {"normalise": {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}}
    source = real_data / "hymenoptera"
    config = place.config(
        model={"name": "resnet18", "args": {"classes": 2}},
        data__train={"folder": str(source / "train"), "transforms": [{"random_resized_crop": 64}, "flip", normalise]},
        data__eval={"folder": str(source / "val"), "transforms": [{"resize": 72}, {"center_crop": 64}, normalise]},
        data__sampling="balanced",
        train={"global_batch": 20, "steps": 6, "log_every": 1, "eval_batch": 20, "stop_after": None},
        checkpoint={"every": 3},
    )
    cache = {"XDG_CACHE_HOME": str(place.path / "cache")}
    whole = place.run("train", config, "--name", "whole", "--nproc", 2, deadline=200, **cache)
    assert whole.code == 0, whole.output
    assert place.rows("whole", "eval")[-1]["count"] == 40

    assert place.run("train", config, "--name", "parts", "--nproc", 2, "train.steps=3", deadline=200, **cache).code == 0
    resumed = place.run("train", config, "--name", "parts", "--nproc", 2, "--resume", deadline=200, **cache)

    assert resumed.code == 0, resumed.output
    assert place.hash("parts") == place.hash("whole")
