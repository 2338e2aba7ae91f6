"""`distdl runs`: what became of each run, and how one is found among many."""

import argparse
import json
import os

import pytest
import yaml

from distdl.errors import UserError
from distdl.run import lease, listing
from distdl.run.folder import create_or_reopen, write_json
from distdl.run.listing import format_runs, list_runs, select


@pytest.fixture
def make_run(tmp_path):
    def make(name, rows=(), final=None, changed=0, config=None):
        folder = create_or_reopen(tmp_path / name, resume=False)
        if config:
            folder.config.write_text(yaml.safe_dump(config))
        if rows:
            folder.metrics.write_text("".join(json.dumps(row) + "\n" for row in rows))
        if final:
            write_json(folder.final, final)
        os.utime(folder.metrics if rows else folder.identity, (changed, changed))
        return folder

    return make


def train_row(step, **values):
    return {"kind": "train", "step": step, "epoch": step / 10, "loss": 2.0, **values}


def eval_row(step, **values):
    return {"kind": "eval", "step": step, "epoch": step / 10, "set": "eval", "loss": 1.0, "top1": 0.5, **values}


def test_runs_are_listed_newest_first(tmp_path, make_run):
    make_run("old", changed=1000)
    make_run("new", changed=3000)
    make_run("middle", [train_row(1)], changed=2000)

    assert [row["run"] for row in list_runs(tmp_path)] == ["new", "middle", "old"]


def test_a_row_has_the_last_place_and_the_last_numbers_of_each_kind(tmp_path, make_run):
    make_run("a", [train_row(10), eval_row(10), train_row(20), {"kind": "event", "step": 21, "epoch": 2.1}])

    (row,) = list_runs(tmp_path)

    assert (row["step"], row["epoch"]) == (21, 2.1)
    assert row["train"]["step"] == 20 and row["eval"]["top1"] == 0.5


def test_a_run_that_has_logged_nothing_yet_is_listed(tmp_path, make_run):
    make_run("a")

    (row,) = list_runs(tmp_path)

    assert (row["step"], row["train"], row["eval"], row["state"]) == (None, None, None, "not started")
    assert "a" in format_runs([row])


@pytest.mark.parametrize("outcome", ["done", "preempted", "interrupted"])
def test_the_state_is_the_outcome_of_a_run_that_ended(tmp_path, make_run, outcome):
    make_run("a", final={"outcome": outcome, "best": {"metric": "top1", "value": 0.9, "step": 5}})

    (row,) = list_runs(tmp_path)

    assert row["state"] == outcome
    assert row["best"]["value"] == 0.9


def test_a_run_without_an_outcome_was_killed_or_failed_if_a_worker_could_say_so(tmp_path, make_run):
    folder = make_run("a", [train_row(1)])

    assert list_runs(tmp_path)[0]["state"] == "killed"
    (folder.failures / "rank-1.json").write_text("{}")
    assert list_runs(tmp_path)[0]["state"] == "failed"


def test_a_run_whose_lease_is_held_is_running_whatever_the_last_outcome_was(tmp_path, make_run):
    folder = make_run("a", final={"outcome": "preempted"})

    with lease.take(folder):
        assert list_runs(tmp_path)[0]["state"] == "running"
        folder.lease.write_text("")  # as it is while its holder writes it
        assert list_runs(tmp_path)[0]["state"] == "running"
    assert list_runs(tmp_path)[0]["state"] == "preempted"


def test_a_torn_last_line_is_skipped(tmp_path, make_run):
    folder = make_run("a", [train_row(10)])
    with folder.metrics.open("a") as file:
        file.write('{"kind": "train", "st')

    assert list_runs(tmp_path)[0]["step"] == 10


def test_the_last_evaluation_is_found_far_from_the_end_of_a_long_file(tmp_path, make_run):
    make_run("a", [eval_row(1, top1=0.25), *(train_row(step, note="x" * 1000) for step in range(2, 1500))])

    (row,) = list_runs(tmp_path)

    assert row["step"] == 1499 and row["eval"]["top1"] == 0.25


def test_rows_about_the_system_are_neither_training_nor_evaluation(tmp_path, make_run):
    make_run("a", [train_row(10), {"kind": "system", "step": 10, "cpu_percent": 50.0}])

    (row,) = list_runs(tmp_path)

    assert row["train"]["step"] == 10 and row["eval"] is None


def test_the_best_of_a_run_that_goes_on_is_what_its_newest_checkpoint_knows(tmp_path, make_run):
    folder = make_run("a")
    for step, value in ((5, 0.5), (10, 0.75)):
        (folder.checkpoints / f"step-{step:08}").mkdir()
        best = {"metric": "top1", "value": value, "step": step}
        write_json(folder.checkpoints / f"step-{step:08}" / "manifest.json", {"state": {"train_state": {"best": best}}})

    assert list_runs(tmp_path)[0]["best"]["value"] == 0.75


def test_the_table_has_a_line_for_each_run(tmp_path, make_run):
    best = {"metric": "top1", "value": 0.75, "step": 5}
    make_run("digits", [train_row(10), eval_row(10)], final={"outcome": "done", "best": best})
    make_run("a-longer-name")

    heading, *lines = format_runs(list_runs(tmp_path)).splitlines()

    assert heading.split() == ["run", "state", "step", "epoch", "best", "last", "evaluation", "changed"]
    (digits,) = [line for line in lines if line.startswith("digits ")]
    assert " ".join(digits.split()).startswith("digits done 10 1.00 top1 0.7500 at 5 loss 1, top1 0.5 ")


def test_without_a_run_it_says_how_to_start_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the folder that the tests are started in may have runs

    assert "distdl train" in format_runs(list_runs(tmp_path))


# --- picking and sorting ---


@pytest.fixture
def four(tmp_path, make_run):
    """Runs of two learning rates; d has not been evaluated."""
    for name, lr, momentum, top1, outcome in (
        ("a", 0.1, 0.9, 0.5, "done"),
        ("b", 0.1, 0.0, 0.75, "done"),
        ("c", 0.02, 0.9, 0.25, "preempted"),
        ("d", 1e-05, 0.9, None, None),
    ):
        config = {"optim": {"name": "sgd", "lr": lr, "momentum": momentum}, "train": {"ema": None, "compile": False}}
        rows = [train_row(10), *([eval_row(10, top1=top1)] if top1 else [])]
        make_run(name, rows, final={"outcome": outcome} if outcome else None, changed=ord(name), config=config)
    return list_runs(tmp_path)


def names(rows):
    return "".join(row["run"] for row in rows)


@pytest.mark.parametrize(
    ("where", "found"),
    [
        (["optim.lr=0.1"], "ba"),
        (["optim.lr=1e-1"], "ba"),
        (["optim.lr=0.00001"], "d"),
        (["optim.lr!=0.1"], "dc"),
        (["optim.lr>0.02"], "ba"),
        (["optim.lr>=0.02"], "cba"),
        (["optim.lr < 0.02"], "d"),
        (["optim.lr=0.1", "optim.momentum<=0"], "b"),
        (["optim.name=sgd"], "dcba"),
        (["optim.name!=sgd"], ""),
        (["train.ema=null", "train.compile=false"], "dcba"),
        (["top1>0.3"], "ba"),
        (["run=c"], "c"),
    ],
)
def test_runs_are_picked_by_config_keys_and_metrics(four, where, found):
    assert names(select(four, where=where)) == found


def test_runs_are_picked_by_state(four):
    assert names(select(four, states=["done", "killed"])) == "dba"


def test_runs_are_picked_by_name(tmp_path, make_run):
    for name in ("lenet-1", "lenet-2", "mlp"):
        make_run(name)

    assert {row["run"] for row in list_runs(tmp_path, name="lenet*")} == {"lenet-1", "lenet-2"}


@pytest.mark.parametrize(
    ("sort", "reverse", "order"),
    [
        (None, False, "dcba"),
        (None, True, "abcd"),
        ("top1", False, "cabd"),
        ("top1", True, "bacd"),
        ("run", False, "abcd"),
        ("optim.lr", False, "dcba"),
    ],
)
def test_runs_are_sorted_and_those_without_the_value_come_last(four, sort, reverse, order):
    assert names(select(four, sort=sort, reverse=reverse)) == order


def test_columns_show_config_keys_and_metrics(four):
    rows = select(four, columns=["optim.lr", "top1"])

    heading, first, *_ = format_runs(rows, ["optim.lr", "top1"]).splitlines()

    assert rows[0]["columns"] == {"optim.lr": 1e-05, "top1": None}
    assert heading.split() == ["run", "state", "step", "epoch", "optim.lr", "top1", "changed"]
    assert first.split()[:6] == ["d", "killed", "10", "1.00", "1e-05", "null"]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"where": ["optim.Ir=0.1"]}, "did you mean optim.lr"),
        ({"sort": "tops1"}, "did you mean top1"),
        ({"columns": ["lr"]}, "no run here has 'lr'"),
        ({"where": ["optim.lr"]}, "is not a condition"),
        ({"where": ["optim.lr>high"]}, "'high' is not a number"),
    ],
)
def test_a_mistake_in_what_is_asked_for_is_answered(four, options, says):
    with pytest.raises(UserError, match=says):
        select(four, **options)


def test_a_run_whose_config_is_damaged_is_listed_and_matches_nothing(tmp_path, make_run):
    make_run("a", config={"optim": {"lr": 0.1}})
    make_run("b").config.write_text("optim: {lr: [")

    rows = list_runs(tmp_path)

    assert len(rows) == 2 and names(select(rows, where=["optim.lr=0.1"])) == "a"


def test_the_command_picks_sorts_and_prints(four, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(listing, "runs_root", lambda: tmp_path)
    parser = argparse.ArgumentParser()
    listing.add_arguments(parser)

    assert listing.run(parser.parse_args(["--where", "optim.lr=0.1", "--sort", "top1", "--columns", "top1"])) == 0
    table = capsys.readouterr().out
    assert listing.run(parser.parse_args(["--state", "preempted,killed", "--name", "[abc]", "--json"])) == 0
    rows = json.loads(capsys.readouterr().out)

    assert [line.split()[0] for line in table.splitlines()] == ["run", "a", "b"]
    assert names(rows) == "c" and rows[0]["eval"]["top1"] == 0.25


def test_only_the_end_of_a_long_file_is_read(tmp_path, make_run):
    folder = make_run("a", [train_row(1)])
    with folder.metrics.open("r+b") as file:
        file.truncate(1 << 36)  # a hole, which takes no room on the disk
        file.seek(0, os.SEEK_END)
        file.write(b"\n" + json.dumps(eval_row(2)).encode() + b"\n" + json.dumps(train_row(3)).encode() + b"\n")

    (row,) = list_runs(tmp_path)

    assert (row["step"], row["eval"]["step"]) == (3, 2)
