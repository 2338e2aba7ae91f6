"""What a user can get wrong on the command line: exit code 2, and last lines that say what, where and what to do."""

import json
import os
import random
import shutil
import subprocess
import sys
import tarfile

import pytest

pytestmark = pytest.mark.timeout(120)


def refused(result, *words):
    assert result.code == 2, result.output
    assert "Traceback" not in result.output
    for word in words:
        assert word in result.output, result.output


def test_all_mistakes_of_a_config_at_once(place):
    config = place.path / "bad.yaml"
    config.write_text(
        "modle: {name: lenet5}\n"
        "data: {train: {shards: digits/train}, batch_szie: 3}\n"
        "train: {global_batch: 50, epochs: ninety}\n"
        "optim: {name: lar, lr: -3}\n"
    )

    result = place.run("train", config, "data.lr=3", "train.precison=bf16")

    refused(
        result,
        "bad.yaml:1: unknown key 'modle'",
        "bad.yaml:2: unknown key 'data.batch_szie'",
        "bad.yaml:3: train.epochs",
        "bad.yaml:4: optim.name: unknown optimiser 'lar'",
        "bad.yaml:4: optim.lr",
        "command line 'data.lr=3': unknown key 'data.lr' - did you mean optim.lr?",
        "command line 'train.precison=bf16': unknown key 'train.precison' - did you mean train.precision?",
    )
    assert result.seconds < 10


def test_a_missing_and_an_empty_folder_of_shards(place):
    (place.path / "empty").mkdir()

    refused(place.run("train", place.config(data__train__shards="nowhere")), "data.train.shards", "nowhere")
    refused(place.run("train", place.config(data__train__shards="empty"), "--name", "b"), "data.train.shards", "empty")


def test_a_label_out_of_range_names_the_sample(place):
    refused(place.run("train", place.config(model__args={"classes": 7})), "out of range", "000000.tar", "classes")


def test_the_same_mistake_on_two_workers_is_said_once_and_last(place):
    result = place.run("train", place.config(model__args={"classes": 7}), "--nproc", 2)

    refused(result, "out of range")
    assert "model.args.classes" in result.last_line


def test_an_unknown_network_optimiser_and_argument(place):
    refused(place.run("train", place.config(model__name="lenet")), "unknown model 'lenet' - did you mean lenet5 or ")
    refused(place.run("train", place.config(optim__name="sdg")), "unknown optimiser 'sdg' - did you mean sgd?")
    refused(
        place.run("train", place.config(model__args={"clases": 10})), "no argument 'clases' - did you mean classes?"
    )
    refused(place.run("train", place.config(model__name="nowhere:net"), "--name", "d"), "no module named 'nowhere'")


def test_a_run_folder_that_exists(place):
    assert place.run("train", place.config(train__steps=2)).code == 0

    refused(place.run("train", place.config(train__steps=2)), "runs/run: this run folder exists", "--resume", "--name")


def test_two_launches_of_one_run(place):
    first = place.start("train", place.config(train__steps=100000), "--nproc", 2)
    metrics = place.path / "runs/run/metrics.jsonl"
    while not metrics.exists() or not metrics.stat().st_size:
        assert first.poll() is None

    second = place.run("train", place.config(train__steps=100000), "--nproc", 2, "--resume")
    first.terminate()
    first.communicate(timeout=30)

    refused(second, "another launch is writing here: pid")
    assert first.returncode == 75


def test_more_workers_than_rows(place):
    refused(place.run("train", place.config(train__global_batch=1), "--nproc", 2), "train.global_batch")


def test_images_too_small_for_the_network(place):
    small = [{"normalise": {"mean": [0.3], "std": [0.37]}}]

    refused(place.run("train", place.config(data__train__transforms=small, data__eval__transforms=small)), "8x8")


@pytest.mark.needs("root")
def test_no_index_on_a_read_only_disk(place):
    shards = place.path / "plain"
    shards.mkdir()
    shutil.copy(place.path / "digits/train/000000.tar", shards)
    subprocess.run(["mount", "--bind", shards, shards], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", shards], check=True)
        result = place.run("train", place.config(data__train__shards="plain", train__steps=2))
        refused(result, "000000.tar", "distdl data index", "--to")
        assert place.run("data", "index", "plain", "--to", "indexes").code == 0
        config = place.config(data__train__shards="plain", data__train__index="indexes", train__steps=2)
        assert place.run("train", config, "--name", "indexed").code == 0
    finally:
        subprocess.run(["umount", shards], check=True)


@pytest.mark.needs("root")
def test_no_space_left_says_so_and_the_run_goes_on_from_what_was_saved(place):
    runs = place.path / "runs"
    runs.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", runs], check=True)
    try:
        result = place.run("train", place.config(checkpoint__keep=50, checkpoint__every=1))
        refused(result, "no space left for a checkpoint", "MiB free", "--resume")
        subprocess.run(["mount", "-o", "remount,size=64m", runs], check=True)
        resumed = place.run("train", place.config(checkpoint__keep=50, checkpoint__every=1), "--resume")
        assert resumed.code == 0, resumed.output
        assert place.rows("run")[-1]["step"] == 40
    finally:
        subprocess.run(["umount", runs], check=True)


def corrupt_copy(place, n_bad):
    """A copy of the corpus in which `n_bad` samples, spread over it, each have one flipped bit; their keys."""
    shutil.copytree(place.path / "digits" / "train", place.path / "damaged")
    tar = place.path / "damaged" / "000000.tar"
    content = bytearray(tar.read_bytes())
    starts = [i for i in range(0, len(content), 512) if content[i : i + 4] == b"\x89PNG"]
    chosen = random.Random(0).sample(starts, n_bad)
    for start in chosen:
        content[start + 30] ^= 1
    tar.write_bytes(content)
    with tarfile.open(tar) as members:
        return {each.name.partition(".")[0] for each in members if each.offset_data in chosen}


def quarantined(place, run):
    return [json.loads(line) for line in (place.path / "runs" / run / "quarantine.jsonl").read_text().splitlines()]


@pytest.mark.timeout(240)  # six launches
def test_corrupt_images_are_masked_counted_and_capped(place):
    damaged = corrupt_copy(place, 12)
    config = {"data__train__shards": "damaged", "train__steps": None, "train__epochs": 2}

    masked = place.run("train", place.config(**config), "--nproc", 2, "--name", "masked")
    assert masked.code == 0, masked.output
    assert '"bad_samples": 24' in (place.path / "runs/masked/final.json").read_text()
    assert "runs/masked/quarantine.jsonl lists all" in masked.output
    assert [row["done"] for row in quarantined(place, "masked")] == ["masked"] * 12
    assert {row["key"] for row in quarantined(place, "masked")} == damaged

    substituted = place.run(
        "train", place.config(**config, data__bad_sample="substitute"), "--nproc", 2, "--name", "substituted"
    )
    assert substituted.code == 0, substituted.output

    raised = place.run("train", place.config(**config, data__bad_sample="raise"), "--nproc", 2, "--name", "raised")
    refused(raised, "bad sample", "000000.tar", "checksum", "--exclude runs/raised/quarantine.jsonl")
    assert {row["done"] for row in quarantined(place, "raised")} == {"raised"}

    capped = place.run("train", place.config(**config, data__bad_sample_limit=5), "--nproc", 2, "--name", "capped")
    refused(capped, "more than data.bad_sample_limit allows (5)")

    left_out = place.run("data", "index", "damaged", "--exclude", "runs/masked/quarantine.jsonl")
    assert "left out 12 of the samples in the tars" in left_out.output
    clean = place.run("train", place.config(**config, data__bad_sample="raise"), "--nproc", 2, "--name", "clean")
    assert clean.code == 0, clean.output
    assert '"bad_samples": 0' in (place.path / "runs/clean/final.json").read_text()
    assert not (place.path / "runs/clean/quarantine.jsonl").exists()


def test_a_bad_sample_of_an_evaluation_is_listed_or_ends_the_run(place):
    (damaged,) = corrupt_copy(place, 1)
    config = {"data__eval__shards": "damaged", "train__steps": 2}

    masked = place.run("train", place.config(**config), "--nproc", 2, "--name", "masked")
    raised = place.run("train", place.config(**config, data__bad_sample="raise"), "--nproc", 2, "--name", "raised")

    assert masked.code == 0, masked.output
    assert [(row["set"], row["key"]) for row in quarantined(place, "masked")] == [("data.eval", damaged)]
    refused(raised, "data.eval: damaged: bad sample", "`distdl data index damaged --exclude runs/raised")
    assert [(row["done"], row["key"]) for row in quarantined(place, "raised")] == [("raised", damaged)]


def test_too_large_a_share_of_bad_samples_ends_the_run(place):
    corrupt_copy(place, 150)

    result = place.run("train", place.config(data__train__shards="damaged"), "--nproc", 2, "--name", "many")

    refused(result, "different samples could not be used", "data.bad_sample_rate allows 0.10%", "runs/many/quarantine")
    assert 100 < len(quarantined(place, "many")) < 150


def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(place, unkilled):
    config = place.config(model__name="faulty:lenet5")
    assert place.run("train", place.config(model__name="faulty:lenet5", train__steps=20), "--nproc", 2).code == 0
    newest = sorted((place.path / "runs/run/checkpoints").glob("step-*"))[-1]
    weights = newest / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4])

    resumed = place.run("train", config, "--nproc", 2, "--resume")

    assert resumed.code == 0, resumed.output
    assert f"{newest.name}/model.safetensors" in resumed.output
    assert "resumed at step 16" in resumed.output


def test_a_crash_that_repeats_without_progress_ends_the_restarts(place):
    (place.path / "broken.py").write_text(
        "from distdl.models.lenet import lenet5 as real\n"
        "def net(**args):\n"
        "    network, calls = real(**args), []\n"
        "    def fail(module, inputs):\n"
        "        calls.append(1)\n"
        "        if module.training and len(calls) == 14: raise RuntimeError('the fourteenth forward')\n"
        "    network.register_forward_pre_hook(fail)\n"
        "    return network\n"
    )
    config = place.config(model__name="broken:net", checkpoint__every=20)

    result = place.run(
        "train", config, "--nproc", 2, "--max-restarts", 3, PYTHONPATH=os.pathsep.join([str(place.path)])
    )

    assert result.code == 1
    assert result.last_line == "RuntimeError: the fourteenth forward"
    assert result.output.count("starting again") <= 4, result.output  # one from the beginning, three of the same


def test_help_and_a_config_error_do_not_import_torch(place):
    program = (
        "import sys; from distdl.cli import main\n"
        "try: main({argv})\n"
        "except SystemExit: pass\n"
        "assert 'torch' not in sys.modules"
    )
    for argv in (["--help"], ["train", "--help"], ["train", "missing.yaml"], ["runs"], ["zoo", "--help"]):
        subprocess.run([sys.executable, "-c", program.format(argv=argv)], check=True, capture_output=True)
