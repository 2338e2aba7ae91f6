"""`distdl runs`: what became of each run."""

import json
import os

import pytest

from distdl.run import lease
from distdl.run.folder import create_or_reopen, write_json
from distdl.run.listing import format_runs, list_runs


@pytest.fixture
def make_run(tmp_path):
    def make(name, rows=(), final=None, changed=0):
        folder = create_or_reopen(tmp_path / name, resume=False)
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

    assert (row["step"], row["train"], row["eval"], row["state"]) == (None, None, None, "killed")
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


def test_the_table_has_a_line_for_each_run(tmp_path, make_run):
    make_run("digits", [train_row(10), eval_row(10)], final={"outcome": "done"})
    make_run("a-longer-name")

    heading, *lines = format_runs(list_runs(tmp_path)).splitlines()

    assert heading.split() == ["run", "state", "step", "epoch", "last", "evaluation", "changed"]
    (digits,) = [line for line in lines if line.startswith("digits ")]
    assert digits.split()[:8] == ["digits", "done", "10", "1.00", "loss", "1.0000,", "top1", "0.5000"]


def test_without_a_run_it_says_how_to_start_one(tmp_path):
    assert "distdl train" in format_runs(list_runs(tmp_path))
