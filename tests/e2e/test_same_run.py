"""The same run however it is started and on however many workers; and what may change between its two halves."""

import json
import socket
import sys

import pytest

pytestmark = pytest.mark.timeout(180)
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "distdl")


def losses(place, run):
    return [row["loss"] for row in place.rows(run)]


@pytest.fixture(scope="module")
def on_two(tmp_path_factory, place_of, corpus):
    """The place of a run of the small config on two workers."""
    there = place_of(tmp_path_factory.mktemp("on_two"), corpus)
    result = there.run("train", there.config(), "--nproc", 2)
    assert result.code == 0, result.output
    return there


@pytest.fixture(scope="module")
def finished(tmp_path_factory, place_of, corpus):
    """The place of a run of four steps, for what leaves it as it is."""
    there = place_of(tmp_path_factory.mktemp("finished"), corpus)
    assert there.run("train", there.config(train__steps=4)).code == 0
    return there


def test_torchrun_and_our_launcher_make_the_same_run(place, on_two):
    theirs = place.run("train", place.config(), launcher=TORCHRUN)

    assert theirs.code == 0, theirs.output
    assert place.hash("run") == on_two.hash("run")
    assert losses(place, "run") == losses(on_two, "run")


def test_under_torchrun_an_existing_run_is_refused_by_all_workers(finished):
    again = finished.run("train", finished.config(train__steps=4), launcher=TORCHRUN)

    assert again.code != 0
    assert "this run folder exists" in again.output


def test_only_rank_0_needs_to_see_the_run_folder(place, tmp_path_factory):
    # Two hosts that share nothing: rank 1 starts in another folder, with its own copy of the shards.
    elsewhere = tmp_path_factory.mktemp("other-host")
    (elsewhere / "digits").symlink_to((place.path / "digits").resolve())

    def start_both(config, *arguments):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        common = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        ranks = [
            place.start("train", config, *arguments, cwd=folder, RANK=str(rank), LOCAL_RANK="0", **common)
            for rank, folder in enumerate((place.path, elsewhere))
        ]
        outputs = [process.communicate(timeout=90)[0] for process in ranks]
        assert [process.returncode for process in ranks] == [0, 0], outputs

    start_both(place.config(model__name="faulty:lenet5", train__steps=20, schedule__name="constant"))
    start_both(place.config(model__name="faulty:lenet5", train__steps=40, schedule__name="constant"), "--resume")

    whole = place.config(model__name="faulty:lenet5", schedule__name="constant")
    assert place.run("train", whole, "--nproc", 2, "--name", "whole").code == 0
    assert place.hash("run") == place.hash("whole")
    assert not (elsewhere / "runs").exists()


def test_loss_curves_of_1_to_4_workers_agree(place, on_two):
    for nproc in (1, 3, 4):
        result = place.run("train", place.config(), "--nproc", nproc, "--name", f"on{nproc}")
        assert result.code == 0, result.output

    alone = losses(place, "on1")
    for curve in (losses(on_two, "run"), losses(place, "on3"), losses(place, "on4")):
        assert curve == pytest.approx(alone, rel=1e-5)
    assert len(alone) == 40


def test_ddp_is_the_reference_of_our_exchange(place, on_two):
    result = place.run("train", place.config(dist__engine="ddp"), "--nproc", 2)
    assert result.code == 0, result.output

    assert losses(place, "run") == pytest.approx(losses(on_two, "run"), rel=1e-5)


def test_a_run_goes_on_with_another_number_of_workers(place, on_two):
    half = place.run("train", place.config(train__steps=20), "--nproc", 2)
    rest = place.run("train", place.config(), "--nproc", 3, "--resume")

    assert half.code == 0 and rest.code == 0, rest.output
    # The first half was planned for 20 steps, so the schedule of the two differs: compare what does not depend on it.
    assert [row["samples"] for row in place.rows("run")] == [row["samples"] for row in on_two.rows("run")]


def test_a_longer_run_may_follow_and_says_what_changed(place):
    assert place.run("train", place.config(train__steps=10)).code == 0

    longer = place.run("train", place.config(train__steps=20, train__log_every=5), "--resume")

    assert longer.code == 0, longer.output
    assert "train.steps: 10 -> 20" in longer.output and "train.log_every: 1 -> 5" in longer.output
    assert place.rows("run")[-1]["step"] == 20


def test_a_resume_with_another_network_or_rate_names_the_keys_and_changes_nothing(finished):
    before = (finished.path / "runs/run/config.yaml").read_text()

    other = finished.run("train", finished.config(train__steps=8, optim__lr=0.5, model__name="mlp"), "--resume")

    assert other.code == 2
    assert "model.name: lenet5 -> mlp" in other.output and "optim.lr: 0.05 -> 0.5" in other.output
    assert "train.steps" not in other.output
    assert (finished.path / "runs/run/config.yaml").read_text() == before


def test_a_finished_run_says_that_it_is(finished):
    again = finished.run("train", finished.config(train__steps=4), "--resume")

    assert again.code == 0
    assert "this run is finished" in again.output
    assert json.loads((finished.path / "runs/run/final.json").read_text())["outcome"] == "done"


def test_a_run_can_start_from_another_ones_weights(place):
    assert place.run("train", place.config(), "--name", "first").code == 0

    second = place.run(
        "train",
        place.config(train__steps=4, optim__name="adam"),
        "--name",
        "second",
        "--from",
        "first@32",
        "--weights-only",
    )

    assert second.code == 0, second.output
    assert place.rows("second")[0]["step"] == 1
    assert place.rows("second")[0]["loss"] < place.rows("first")[4]["loss"]


def test_everything_at_once_resumes_with_the_same_bits(place):
    # BatchNorm, EMA, micro-batches, clipping, Adam, bf16, channels_last, three unequal workers, partial last step.
    config = {
        "model__name": "resnet20_cifar",
        "model__args": {"classes": 10, "channels": 1},
        "data__train__transforms": [{"resize": 16}, "flip", {"normalise": {"mean": [0.3], "std": [0.37]}}],
        "data__eval__transforms": [{"resize": 16}, {"normalise": {"mean": [0.3], "std": [0.37]}}],
        "train__global_batch": 100,
        "train__steps": None,
        "train__epochs": 0.5,
        "train__micro_batch": 15,
        "train__precision": "bf16",
        "train__channels_last": True,
        "train__ema": 0.9,
        "train__clip_norm": 1.0,
        "train__eval_every": 5,
        "optim__name": "adamw",
        "optim__lr": 0.001,
        "checkpoint__every": 3,
    }
    whole = place.run("train", place.config(**config), "--nproc", 3, "--name", "whole")
    assert whole.code == 0, whole.output
    fault = {"rank": 2, "where": "train", "nth": 16, "kill": "self", "once": str(place.path / "struck")}
    config["model__name"] = "faulty:resnet20"
    killed = place.run("train", place.config(**config), "--nproc", 3, "--name", "parts", FAULT=json.dumps(fault))
    assert killed.code == 1 and "killed by SIGKILL" in killed.output, killed.output

    resumed = place.run("train", place.config(**config), "--nproc", 3, "--name", "parts", "--resume")

    assert resumed.code == 0, resumed.output
    assert "resumed at step 5" in resumed.output  # the best evaluation so far is saved as well as every third step
    assert place.hash("parts") == place.hash("whole")
    assert losses(place, "parts") == losses(place, "whole")
    assert [row["loss"] for row in place.rows("parts", "eval")] == [row["loss"] for row in place.rows("whole", "eval")]


def test_worker_processes_make_the_run_that_threads_make_and_go_on_with_it(place):
    augmented = {"shards": "digits/train", "transforms": [{"pad": 2}, {"random_crop": {"size": 32, "padding": 2}}]}
    config = {"data__train": augmented, "model__name": "faulty:lenet5", "schedule__name": "constant"}
    threads = place.config(**config, train__steps=40, data__workers=2)
    assert place.run("train", threads, "--nproc", 2, "--name", "threads").code == 0

    first = place.config("first.yaml", **config, train__steps=20, data__workers=2, data__worker_type="process")
    begun = place.run("train", first, "--nproc", 2, "--name", "run")
    rest = place.run("train", threads, "--nproc", 2, "--name", "run", "--resume")

    assert begun.code == 0 and rest.code == 0, begun.output + rest.output
    assert place.hash("run") == place.hash("threads")
