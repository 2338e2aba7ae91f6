"""Traces of a few steps: which steps are in them, and that they can be read."""

import gzip
import json

import pytest
import torch

from distdl.errors import UserError
from distdl.trainer import phases
from distdl.trainer.profile import WAIT, Profile, traced

PHASES = ("forward", "backward", "exchange", "update")


@pytest.fixture
def train(tmp_path):
    """Call it with a range and a number of batches: makes a step of each, and returns what was said."""

    def steps(profile, n_batches, rank=0):
        said, step_phases = [], phases.build(torch.device("cpu"))
        for batch in traced(profile, range(1, n_batches + 1), step_phases, tmp_path, rank, said.append):
            for phase in PHASES:
                step_phases.enter(phase)
                torch.ones(batch).sum()  # step 3 is known by the shape of its tensor
            step_phases.leave()
        assert step_phases.annotate is False
        return said

    return steps


def events(path):
    return json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]


def shapes_summed(trace):
    return {tuple(e["args"]["Input Dims"][0]) for e in trace if e.get("name") == "aten::sum"}


def test_the_named_steps_and_no_others_are_traced(train, tmp_path):
    train(Profile.parse("3:5"), 8)

    assert shapes_summed(events(tmp_path / "rank-0-steps-3-5.json.gz")) == {(3,), (4,)}


def test_the_phases_of_a_step_and_the_wait_for_its_batch_are_ranges_of_the_trace(train, tmp_path):
    train(Profile.parse("2:4"), 5)

    names = [e["name"] for e in events(tmp_path / "rank-0-steps-2-4.json.gz") if e.get("cat") == "user_annotation"]
    assert [names.count(name) for name in PHASES] == [2, 2, 2, 2]
    assert names.count(WAIT) == 2


def test_every_worker_leaves_a_trace_and_a_table_of_operators(train, tmp_path):
    said = train(Profile.parse("2:3"), 4, rank=1)

    assert "aten::sum" in (tmp_path / "rank-1-steps-2-3.txt").read_text()
    assert said == [f"profile: {tmp_path / 'rank-1-steps-2-3.json.gz'} (open it in ui.perfetto.dev)"]


def test_a_run_that_ends_inside_the_range_is_traced_as_far_as_it_came(train, tmp_path):
    train(Profile.parse("2:10"), 3)

    assert shapes_summed(events(tmp_path / "rank-0-steps-2-10.json.gz")) == {(2,), (3,)}


def test_a_run_that_ends_before_the_range_says_so_and_leaves_nothing(train, tmp_path):
    assert train(Profile.parse("5:7"), 2) == ["warning: nothing was profiled: this launch ended before its step 5"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", ["10", "10-13", "a:b", "13:10", "10:10", "1:3", "2:1000", "-2:3"])
def test_a_range_that_cant_be_traced_is_refused_with_an_example_or_the_bounds(text):
    with pytest.raises(UserError, match="--profile"):
        Profile.parse(text)


def test_the_batches_come_through_unchanged(tmp_path):
    received = traced(Profile(3, 5), "abcdefg", phases.build(torch.device("cpu")), tmp_path, 0, print)

    assert list(received) == list("abcdefg")
