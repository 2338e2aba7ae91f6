"""Code of one's own in one file, from a folder outside of the repository: it trains, and the run goes on without it."""

import json
import shutil
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "own_code"

pytestmark = pytest.mark.timeout(240)


@pytest.fixture
def own(place):
    """The example in a folder of its own, as its reader would copy it."""
    shutil.copytree(EXAMPLE, place.path / "mine")
    place.environment |= {"PYTHONPATH": "", "XDG_STATE_HOME": str(place.path / "state")}
    return place


CONFIG = "mine/own_code.yaml"


def test_the_example_learns_and_its_run_needs_the_file_no_more(own):
    result = own.run("train", CONFIG, "--nproc", 2)
    assert result.code == 0, result.output
    assert own.rows("own_code", "eval")[-1]["top1"] > 0.9

    shutil.rmtree(own.path / "mine")
    (evaluated,) = json.loads(own.run("eval", own.path / "runs" / "own_code", cwd="/").output)

    assert evaluated["top1"] == own.rows("own_code", "eval")[-1]["top1"]


@pytest.mark.parametrize("launcher", [("supervised", 2), ("torchrun", 2), ("alone", 1)], ids=lambda each: each[0])
def test_a_run_goes_on_with_its_copy_however_it_is_started(own, launcher):
    kind, n = launcher
    torchrun = (sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={n}", "-m", "distdl")
    start = {"launcher": torchrun} if kind == "torchrun" else {}
    flags = ("--nproc", n) if kind == "supervised" else ()
    first = own.run("train", CONFIG, *flags, "train.epochs=1", **start)
    assert first.code == 0, first.output
    shutil.rmtree(own.path / "mine")

    config = own.path / "runs" / "own_code" / "config.yaml"
    again = own.run("train", config, "--name", "own_code", "--resume", *flags, "train.epochs=2", **start)

    assert again.code == 0, again.output
    assert "resumed at step" in again.output and own.rows("own_code", "eval")[-1]["epoch"] == 2


def test_a_changed_file_is_another_run(own):
    assert own.run("train", CONFIG, "train.epochs=1").code == 0
    with (own.path / "mine" / "my.py").open("a") as file:
        file.write("# a change\n")

    result = own.run("train", CONFIG, "--resume", "train.epochs=2")

    assert result.code == 2 and "goes on with that" in result.last_line
    (copy,) = (own.path / "runs" / "own_code" / "plugins").iterdir()
    pinned = own.run("train", CONFIG, "--resume", "train.epochs=2", f"plugins=[{copy}]")
    assert pinned.code == 0, pinned.output


def test_a_strangers_run_is_read_and_not_executed(own):
    assert own.run("train", CONFIG, "train.epochs=1").code == 0
    shutil.rmtree(own.path / "state")
    (copy,) = (own.path / "runs" / "own_code" / "plugins").iterdir()
    copy.write_text(f"open({str(own.path / 'executed')!r}, 'w')\n" + copy.read_text())
    config = own.path / "runs" / "own_code" / "config.yaml"

    for command in (("eval", "own_code"), ("train", config, "--name", "own_code", "--resume"), ("train", config)):
        result = own.run(*command)
        assert result.code == 2 and "not started by you" in result.output, result.output
    assert not (own.path / "executed").exists()

    assert own.run("eval", "own_code", "--trust-plugins").code == 0
    assert (own.path / "executed").exists()


def test_a_mistake_in_a_plugin_is_told_without_torch_and_with_its_line(own):
    (own.path / "mine" / "my.py").write_text("import distdl\n\n@distdl.register_model\ndef small_nett(: ...\n")

    result = own.run("train", CONFIG)

    assert result.code == 2 and result.seconds < 20
    assert "mine/my.py:4: not valid Python" in result.output and "unknown model" not in result.output
