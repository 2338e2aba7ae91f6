"""The commands that look at configs, networks, shards and runs."""

import json
import subprocess

import cv2
import numpy as np
import pytest

pytestmark = pytest.mark.timeout(120)


def test_what_a_run_leaves_behind_and_what_is_said_of_it(place):
    result = place.run("train", place.config(train__steps=20, train__log_every=5), "--nproc", 2)
    assert result.code == 0, result.output
    folder = place.path / "runs" / "run"

    there = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert {"config.yaml", "environment.json", "metrics.jsonl", "final.json", "run.json"} <= there
    assert {"logs/rank-0.log", "logs/rank-1.log", "checkpoints/step-00000020/manifest.json"} <= there
    assert "step 20/20" in (folder / "logs/rank-0.log").read_text()
    assert "run folder" in result.output and "next:" in result.last_line

    environment = json.loads((folder / "environment.json").read_text())
    assert [worker["device"] for worker in environment["workers"]] == ["cpu", "cpu"]

    (row,) = json.loads(place.run("runs", "--json").output)
    assert (row["run"], row["state"], row["step"]) == ("run", "done", 20)
    assert "done" in place.run("runs").output

    (evaluated,) = json.loads(place.run("eval", "run").output)
    logged = place.rows("run", "eval")[-1]
    assert {name: evaluated[name] for name in ("loss", "top1", "count")} == {
        name: logged[name] for name in ("loss", "top1", "count")
    }
    weights = folder / "checkpoints/step-00000020/model.safetensors"
    (by_weights,) = json.loads(place.run("eval", folder / "config.yaml", "--weights", weights).output)
    assert by_weights["loss"] == evaluated["loss"]

    for run in ("run", "runs/run"):
        assert place.run("hash", run).output == f"{place.hash('run')}  {run}@20\n"
    assert place.run("hash", "nowhere").code == 2

    train = place.rows("run")[-1]
    assert {"step", "epoch", "samples", "time_s", "loss", "lr", "samples_per_s", "data_wait_s", "step_s"} <= set(train)
    assert {"step", "epoch", "samples", "time_s", "set", "loss", "top1", "top5", "count"} <= set(logged)
    assert (train["step"], train["samples"], train["epoch"]) == (20, 1000, pytest.approx(1000 / 1442))
    assert [row["step"] for row in place.rows("run")] == [5, 10, 15, 20]


def test_several_evaluation_sets_by_name(place):
    split = {"shards": "digits/test", "transforms": [{"resize": 32}]}
    config = place.config(data__eval={"dev": split, "test": split}, train__steps=2)

    assert place.run("train", config).code == 0

    assert [row["set"] for row in place.rows("run", "eval")] == ["dev", "test"]


def test_quiet_and_verbose(place):
    config = place.config(train__steps=4)

    quiet = place.run("train", config, "-q", "--name", "quiet")
    verbose = place.run("train", config, "-v", "--name", "verbose")

    assert "loss" in quiet.output and " lr " not in quiet.output
    assert " epoch " in verbose.output


def test_check_tries_everything_and_leaves_nothing(place):
    result = place.run("train", place.config(), "--check", "--nproc", 2)

    assert result.code == 0 and "check passed" in result.output
    assert not (place.path / "runs").exists()


def test_config_show(place):
    config = place.config()

    whole, diff = place.run("config", "show", config), place.run("config", "show", config, "--diff", "optim.lr=0.1")

    assert "# samples per optimiser step, over all workers" in whole.output
    assert "command line 'optim.lr=0.1'" in diff.output and "run.yaml:" in diff.output
    assert "momentum" not in diff.output


def test_zoo(place):
    table = place.run("zoo")
    network = json.loads(place.run("zoo", "lenet5", "--json").output)

    assert "resnet50" in table.output and "25,557,032" in table.output
    assert network["parameters"] == 61_706


def test_a_plain_tar_made_by_tar_trains_without_being_indexed_first(place):
    loose = place.path / "loose"
    loose.mkdir()
    for i in range(60):
        (loose / f"{i:03}.png").write_bytes(cv2.imencode(".png", np.full((32, 32), i, np.uint8))[1].tobytes())
        (loose / f"{i:03}.cls").write_text(str(i % 10))
    (place.path / "plain").mkdir()
    files = sorted(path.name for path in loose.iterdir())
    subprocess.run(["tar", "-cf", place.path / "plain" / "a.tar", "-C", loose, *files], check=True)
    split = {"shards": "plain", "transforms": [{"normalise": {"mean": [0.5], "std": [0.2]}}]}

    result = place.run("train", place.config(data__train=split, data__eval=split, train__steps=3), "--nproc", 2)

    assert result.code == 0, result.output
    assert place.rows("run", "eval")[-1]["count"] == 60
    assert (place.path / "plain" / "a.tar.ddx").exists()
    assert "60 samples" in place.run("data", "show", "plain").output


def test_wandb_offline_keeps_its_run_after_a_resume(place):
    pytest.importorskip("wandb")
    offline = {"mode": "offline", "project": "test"}
    assert place.run("train", place.config(train__steps=4, track__wandb=offline)).code == 0

    resumed = place.run("train", place.config(train__steps=8, track__wandb=offline), "--resume")

    assert resumed.code == 0, resumed.output
    run_id = json.loads((place.path / "runs/run/run.json").read_text())["run_id"]
    written = [path.name for path in (place.path / "runs/run").rglob("*.wandb")]
    assert written and all(run_id in name for name in written)
