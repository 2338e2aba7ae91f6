"""Every augmentation, mixtures and images that grow: the same bits for any number of workers and after a kill."""

import json

import pytest

pytestmark = pytest.mark.timeout(300)

RECIPE = {
    "model__name": "faulty:resnet20",
    "model__args": {"classes": 10, "channels": 1},
    "data__train__transforms": [
        {"random_resized_crop": {"size": 24, "scale": [0.5, 1.0]}},
        {"rotate": 10},
        {"homography": {"distortion": 0.2}},
        {"zoom": {"p": 0.5, "border": "edge"}},
        {"brightness": [0.8, 1.2]},
        {"colour_jitter": {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1}},
        {"rand_augment": {"n": 2, "magnitude": 9, "deviation": 1.5}},
        {"random_erasing": {"p": 0.25, "fill": "pixel"}},
        {"normalise": {"mean": [0.3], "std": [0.37]}},
    ],
    "train__global_batch": 48,
    "train__steps": 8,
    "train__mixup": 0.2,
    "train__cutmix": 1.0,
    "train__resolution": {"start": 16, "end": 24, "epochs": [0, 0.2], "multiple": 4},  # 30 steps are an epoch
    "train__eval_every": None,
    "train__threads": None,
    "dist__reduction": "tree",
    "checkpoint__every": 3,
}


def test_the_bits_are_the_same_on_1_2_and_3_workers_and_after_a_kill(place):
    config = place.config(**RECIPE)
    for n_workers, n_threads in ((1, 1), (2, 3), (3, 1)):
        name = f"on{n_workers}"
        run = place.run("train", config, f"data.workers={n_threads}", "--nproc", n_workers, "--name", name)
        assert run.code == 0, run.output
    fault = {"rank": 0, "where": "train", "nth": 4 * 4 + 1, "kill": "all", "once": str(place.path / "struck")}

    place.run("train", config, "--nproc", 2, "--name", "killed", "--resume", FAULT=json.dumps(fault))
    resumed = place.run("train", config, "--nproc", 1, "--name", "killed", "--resume")

    assert resumed.code == 0 and "resumed at step 3" in resumed.output, resumed.output
    assert len({place.hash(name) for name in ("on1", "on2", "on3", "killed")}) == 1


def test_without_it_the_run_would_be_another_one(place):
    hashes = set()
    for number, changed in enumerate(("train.cutmix=null", "train.resolution=null", "train.seed=1")):
        run = place.run("train", place.config(**RECIPE), changed, "train.steps=2", "--name", f"changed{number}")
        assert run.code == 0, run.output
        hashes.add(place.hash(f"changed{number}"))

    assert len(hashes) == 3
