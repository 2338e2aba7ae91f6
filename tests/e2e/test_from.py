"""A run that starts from another one's checkpoint only reads there."""

import json

import pytest

from distdl.run import lease
from distdl.run.folder import RunFolder

pytestmark = pytest.mark.timeout(120)


def contents(path):
    """Every file and folder below `path`: content and time of the last change."""
    return {
        str(each.relative_to(path)): (each.stat().st_mtime_ns, each.read_bytes() if each.is_file() else None)
        for each in sorted(path.rglob("*"))
    }


@pytest.mark.parametrize("source, flags", [("source", ()), ("source@10", ("--weights-only",))])
def test_the_source_run_is_left_as_it_is_also_while_somebody_trains_there(place, source, flags):
    config = place.config(train__steps=12, checkpoint__every=5)
    assert place.run("train", config, "--name", "source").code == 0
    folder = RunFolder(place.path / "runs/source")
    (folder.checkpoints / ".step-00000013.part").mkdir()  # a save under way: not ours to sweep
    with lease.take(folder):
        before = contents(folder.path)

        started = place.run("train", config, "--name", "new", "--from", source, *flags, "train.steps=14")

        assert started.code == 0, started.output
        assert contents(folder.path) == before
    first_step = 1 if flags else 13
    assert [row["step"] for row in place.rows("new")] == list(range(first_step, 15))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("optim.name=adam", "optim.name: the checkpoint holds the state of 'sgd', which means nothing to 'adam'"),
        ("train.steps=12", "train.steps: the checkpoint is at epoch "),
    ],
)
def test_a_start_that_can_not_go_on_is_refused_and_its_weights_alone_will_do(place, change, says):
    config = place.config(train__steps=12)
    assert place.run("train", config, "--name", "source").code == 0
    start = ("train", config, "--name", "new", "--from", "source", "train.steps=14", change)

    refused = place.run(*start)
    taken = place.run(*start, "--weights-only")

    assert refused.code == 2, refused.output
    assert says in refused.output and "--weights-only" in refused.last_line
    assert taken.code == 0, taken.output
    assert place.rows("new")[0]["step"] == 1


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
