"""The points of a grid, what their runs are called, and which devices each gets."""

import os

import pytest

from distdl import cli
from distdl.errors import EXIT_USER_ERROR, UserError
from distdl.launch import sweep
from distdl.launch.sweep import Point, read


@pytest.fixture
def grid(tmp_path):
    def points(text, name="net"):
        path = tmp_path / "grid.yaml"
        path.write_text(text)
        return read(path, name)

    return points


def test_a_mapping_stands_for_every_combination(grid):
    assert grid("optim.lr: [0.1, 1e-3]\ntrain.seed: [0, 1]\n") == [
        Point("net-lr=0.1-seed=0", ["optim.lr=0.1", "train.seed=0"]),
        Point("net-lr=0.1-seed=1", ["optim.lr=0.1", "train.seed=1"]),
        Point("net-lr=0.001-seed=0", ["optim.lr=0.001", "train.seed=0"]),
        Point("net-lr=0.001-seed=1", ["optim.lr=0.001", "train.seed=1"]),
    ]


def test_a_list_names_the_points_themselves(grid):
    assert grid("- {optim.lr: 0.1, train.epochs: 10}\n- {optim.lr: 0.2}\n") == [
        Point("net-lr=0.1-epochs=10", ["optim.lr=0.1", "train.epochs=10"]),
        Point("net-lr=0.2", ["optim.lr=0.2"]),
    ]


def test_keys_whose_last_parts_are_alike_are_told_apart(grid):
    assert [each.run for each in grid("optim.name: [sgd]\nmodel.name: [lenet5]\n")] == [
        "net-optim.name=sgd-model.name=lenet5"
    ]


def test_values_that_no_folder_could_be_called_are_numbered(grid):
    points = grid("data.train.transforms: [[flip], [flip, {pad: 2}]]\noptim.lr: [0.1, 0.2]\n")

    assert [each.run for each in points] == ["net-0", "net-1", "net-2", "net-3"]
    assert points[2].overrides == ["data.train.transforms=[flip, {pad: 2}]", "optim.lr=0.1"]


@pytest.mark.parametrize(
    "text, what",
    [
        ("optim.lr: 0.1", "a list of values for each key"),
        ("optim.lr: []", "a list of values for each key"),
        ("- 0.1", "each point is a mapping"),
        ("- {}", "each point is a mapping"),
        ("just text", "a list of values for each key"),
        ("", "empty"),
        ("a: [1", "not valid YAML"),
        ("a: [1, 2]\na: [3]", "a"),
        ("\n".join(f"k{i}: [0, 1]" for i in range(30)), "1,001 points"),
    ],
)
def test_anything_else_is_no_grid(grid, text, what):
    with pytest.raises(UserError, match=what):
        grid(text)


def test_a_grid_that_is_not_there_is_told(tmp_path):
    with pytest.raises(UserError, match="No such file"):
        read(tmp_path / "none.yaml", "net")


@pytest.mark.parametrize(
    "visible, each, at_once, sets",
    [
        ("0,1,2,3", 1, None, ["0", "1", "2", "3"]),
        ("4,5,6", 2, None, ["4,5"]),
        ("0,1,2,3", 2, 1, ["0,1"]),
        ("", 1, None, [None]),
        ("", 1, 3, [None, None, None]),
    ],
)
def test_each_run_gets_devices_of_its_own(monkeypatch, visible, each, at_once, sets):
    monkeypatch.setitem(os.environ, "CUDA_VISIBLE_DEVICES", visible)

    assert sweep._devices(each, at_once) == sets


def test_more_devices_than_there_are_is_a_mistake(monkeypatch):
    monkeypatch.setitem(os.environ, "CUDA_VISIBLE_DEVICES", "0,1")

    with pytest.raises(UserError, match="this machine has 2 devices"):
        sweep._devices(4, None)


CONFIG = """
model: {name: lenet5, args: {classes: 10}}
data: {train: {shards: nowhere}, eval: {shards: nowhere}}
train: {global_batch: 8, steps: 8}
optim: {name: sgd, lr: 0.1}
"""


@pytest.mark.parametrize(
    "grid_text, more, what",
    [
        ("optim.lr: [0.1, -1]", [], "optim.lr: should be greater than 0"),
        ("optim.rate: [0.1]", [], "unknown key 'optim.rate'"),
        ("optim.lr: [0.1, 0.2]", ["--gpus-each", "0"], "at least one is needed"),
    ],
)
def test_a_mistake_in_any_of_the_runs_is_told_before_the_first(tmp_path, monkeypatch, capsys, grid_text, more, what):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.yaml").write_text(CONFIG)
    (tmp_path / "grid.yaml").write_text(grid_text)

    assert cli.main(["sweep", "net.yaml", "grid.yaml", *more]) == EXIT_USER_ERROR
    assert what in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_runs_that_are_there_are_not_touched_without_being_told_so(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.yaml").write_text(CONFIG)
    (tmp_path / "grid.yaml").write_text("optim.lr: [0.1, 0.2]")
    (tmp_path / "runs/net-lr=0.2").mkdir(parents=True)

    assert cli.main(["sweep", "net.yaml", "grid.yaml"]) == EXIT_USER_ERROR
    assert "runs/net-lr=0.2 exists already" in capsys.readouterr().err
