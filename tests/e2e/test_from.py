"""A run that starts from another one's checkpoint only reads there."""

import json

import pytest
import torch

from distdl import api
from distdl.run import lease
from distdl.run.folder import RunFolder

pytestmark = pytest.mark.timeout(120)


def contents(path):
    """Every file and folder below `path`: content and time of the last change."""
    return {
        str(each.relative_to(path)): (each.stat().st_mtime_ns, each.read_bytes() if each.is_file() else None)
        for each in sorted(path.rglob("*"))
    }


@pytest.fixture(scope="module")
def trained(tmp_path_factory, place_of, corpus):
    """The place of a run of 12 steps with the name source."""
    there = place_of(tmp_path_factory.mktemp("trained"), corpus)
    assert there.run("train", there.config(train__steps=12, checkpoint__every=5), "--name", "source").code == 0
    return there


@pytest.mark.parametrize(
    ("name", "source", "flags"), [("longer", "source", ()), ("anew", "source@10", ("--weights-only",))]
)
def test_the_source_run_is_left_as_it_is_also_while_somebody_trains_there(trained, name, source, flags):
    folder = RunFolder(trained.path / "runs/source")
    (folder.checkpoints / ".step-00000013.part").mkdir(exist_ok=True)  # a save under way: not ours to sweep
    with lease.take(folder):
        before = contents(folder.path)

        started = trained.run("train", "run.yaml", "--name", name, "--from", source, *flags, "train.steps=14")

        assert started.code == 0, started.output
        assert contents(folder.path) == before
    first_step = 1 if flags else 13
    assert [row["step"] for row in trained.rows(name)] == list(range(first_step, 15))


@pytest.mark.parametrize(
    ("name", "change", "says"),
    [
        (
            "adam",
            "optim.name=adam",
            "optim.name: the checkpoint holds the state of 'sgd', which means nothing to 'adam'",
        ),
        ("short", "train.steps=12", "train.steps: the checkpoint is at epoch "),
    ],
)
def test_a_start_that_can_not_go_on_is_refused_and_its_weights_alone_will_do(trained, name, change, says):
    start = ("train", "run.yaml", "--name", name, "--from", "source", "train.steps=14", change)

    refused = trained.run(*start)
    taken = trained.run(*start, "--weights-only")

    assert refused.code == 2, refused.output
    assert says in refused.output and "--weights-only" in refused.last_line
    assert taken.code == 0, taken.output
    assert trained.rows(name)[0]["step"] == 1


def test_a_lowered_number_of_checkpoints_makes_room_before_the_next_save(place):
    """As when the disk was full: there is no place for another one before the old ones are gone."""
    config = place.config(model__name="faulty:lenet5", checkpoint__every=5, checkpoint__keep=6, checkpoint__best=None)
    assert place.run("train", config).code == 0
    checkpoints = place.path / "runs/run/checkpoints"
    assert len(list(checkpoints.glob("step-*"))) == 6
    fault = {"rank": 0, "where": "train", "nth": 1, "kill": "self", "once": str(place.path / "struck")}

    command = ("train", config, "checkpoint.keep=1", "--resume", "train.steps=50", "--nproc", 2)
    killed = place.run(*command, FAULT=json.dumps(fault))

    assert killed.code == 1 and "killed by SIGKILL" in killed.last_line, killed.output
    assert [path.name for path in checkpoints.glob("step-*")] == ["step-00000040"]


def test_a_run_starts_from_another_ones_network_and_trains_its_head_alone(place):
    """Also after a kill: then it goes on from its own checkpoint, whatever has become of the file."""
    config = place.config(train__steps=12)
    assert place.run("train", config, "--name", "source").code == 0
    probe = ("train", config, "--name", "probe", "model.pretrained=run:source", "model.freeze=['*', '!*.output.*']")

    started = place.run(*probe, "checkpoint.every=6")
    resumed = place.run(*probe, "--resume", "train.steps=14")
    twice = place.run(*probe[:3], "twice", *probe[4:], "--from", "source")

    assert started.code == resumed.code == 0, started.output + resumed.output
    assert "10 tensors from run:source" in started.output and "10 tensors" not in resumed.output
    before, after = (api.load_model(place.path / "runs" / name).state_dict() for name in ("source", "probe"))
    assert {name for name in before if not torch.equal(before[name], after[name])} == {
        "classifier.output.weight",
        "classifier.output.bias",
    }
    assert twice.code == 2 and "named twice" in twice.output
