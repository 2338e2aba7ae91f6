"""quarantine.jsonl: each sample that a run could not use, once; and when there are too many of them."""

import json
from dataclasses import asdict

import pytest
import tiny

from distdl.bench.loops import NoCheckpoints
from distdl.config.schema import DataConfig
from distdl.data.corpus import shards
from distdl.data.corpus.dataset import Dataset
from distdl.data.samples import BadRow
from distdl.errors import UserError
from distdl.track import NullTracker
from distdl.trainer import loop
from distdl.trainer.quarantine import TRAIN, Quarantine, check_limits, check_policy
from distdl.trainer.signals import StopRequests


def bad(key, sample_id=7, shard="/data/train/000000.tar", **changes):
    row = {"component": "jpg", "reason": "truncated", "epoch": 0, "done": "masked", **changes}
    return BadRow(shard=shard, key=key, sample_id=sample_id, **row)


def quarantine_in(folder, step=0):
    return Quarantine.open(folder / "quarantine.jsonl", "runs/x", step=step)


def lines(folder):
    return [json.loads(line) for line in (folder / "quarantine.jsonl").read_text().splitlines()]


def test_a_line_says_where_the_sample_is_what_was_wrong_and_what_was_done(tmp_path):
    quarantine = quarantine_in(tmp_path)
    quarantine.note([bad("a/b", done="substituted", stand_in=9)], TRAIN, step=4)

    quarantine.settle()

    assert lines(tmp_path) == [
        {
            "shard": "/data/train/000000.tar",
            "key": "a/b",
            "component": "jpg",
            "reason": "truncated",
            "sample_id": 7,
            "epoch": 0,
            "done": "substituted",
            "stand_in": 9,
            "set": "data.train",
            "step": 4,
            "rank": 0,
        }
    ]
    assert quarantine.shown == "runs/x/quarantine.jsonl"


def test_a_sample_is_listed_once_in_all_epochs_and_launches(tmp_path):
    first = quarantine_in(tmp_path)
    for epoch in range(3):
        first.note([bad("a", epoch=epoch), bad("b", epoch=epoch)], TRAIN, step=epoch)
        first.settle()

    second = quarantine_in(tmp_path, step=2)
    second.note([bad("b", epoch=3), bad("c", epoch=3)], TRAIN, step=3)
    found, _ = second.settle()

    assert [(line["key"], line["epoch"]) for line in lines(tmp_path)] == [("a", 0), ("b", 0), ("c", 3)]
    assert [row["key"] for row in found] == ["b", "c"]
    assert (first.n_bad, second.n_bad) == (2, 3)


def test_a_run_that_goes_on_before_it_met_a_sample_counts_it_when_it_meets_it_again(tmp_path):
    before = quarantine_in(tmp_path)
    for step, key in enumerate("abc", 1):
        before.note([bad(key)], TRAIN, step)
        before.settle()

    again = quarantine_in(tmp_path, step=1)
    assert again.n_bad == 1
    again.note([bad("b")], TRAIN, step=2)
    again.settle()

    assert again.n_bad == 2 and len(lines(tmp_path)) == 3
    assert quarantine_in(tmp_path).n_bad == 0  # from the beginning


def test_samples_of_evaluation_sets_are_listed_and_count_for_no_limit(tmp_path):
    quarantine = quarantine_in(tmp_path)
    quarantine.note([bad("a", shard="/data/test/000000.tar")], "data.eval.test", step=4)
    quarantine.settle()

    assert lines(tmp_path)[0]["set"] == "data.eval.test"
    assert quarantine.n_bad == quarantine_in(tmp_path, step=9).n_bad == 0


def test_part_of_a_line_that_a_kill_left_is_cut_off(tmp_path):
    quarantine = quarantine_in(tmp_path)
    quarantine.note([bad("a")], TRAIN, step=1)
    quarantine.settle()
    with (tmp_path / "quarantine.jsonl").open("a") as file:
        file.write('{"shard": "/data/train/0000')

    resumed = quarantine_in(tmp_path, step=9)
    resumed.note([bad("b")], TRAIN, step=2)
    resumed.settle()

    assert [line["key"] for line in lines(tmp_path)] == ["a", "b"]


def test_what_could_not_be_written_is_written_with_what_comes_next(tmp_path):
    folder = tmp_path / "later"
    quarantine = quarantine_in(folder)
    quarantine.note([bad("a")], TRAIN, step=1)

    _, trouble = quarantine.settle()
    folder.mkdir()
    quarantine.note([bad("b")], TRAIN, step=2)

    assert isinstance(trouble, FileNotFoundError)
    assert quarantine.settle()[1] is None
    assert [line["key"] for line in lines(folder)] == ["a", "b"]


def test_an_index_leaves_out_what_it_lists_as_it_is(tmp_path):
    corpus = tiny.write_corpus(tmp_path / "corpus", 20)
    quarantine = quarantine_in(tmp_path)
    shard = str(corpus / "000001.tar")
    other = str(tmp_path / "other" / "000001.tar")
    quarantine.note([bad("00008", shard=shard), bad("00009", shard=other), bad("\udcff", shard=other)], TRAIN, step=1)
    quarantine.settle()

    shards.index_folder(corpus, say=lambda line: None, excluded_by=[tmp_path / "quarantine.jsonl"])

    dataset = Dataset.open(corpus)
    keys = [dataset.key(*dataset.locate(i)) for i in range(dataset.n_samples)]
    assert len(keys) == 19 and "00008" not in keys


# --- in a run ---


class Saves(NoCheckpoints):
    def __init__(self):
        self.steps = []

    def save(self, capture, step, **options):
        self.steps.append(step)


def fit(tmp_path, opened, *, lag_steps, **overrides):
    """A run over a corpus with one bad sample, which its last step of an epoch of five meets at the latest."""
    corpus = tiny.write_corpus(tmp_path / "corpus", 20, bad=[11])
    overrides = {"train.global_batch": 4, "train.steps": 5, "checkpoint.every": 1, **overrides}
    run, saves = opened(tiny.build(tiny.config(corpus, overrides))), Saves()
    run.status._lag = lag_steps  # 1: as on a GPU, where counts arrive a step later
    quarantine = Quarantine.open(tmp_path / "quarantine.jsonl", "runs/x", step=0)
    error = None
    try:
        loop.fit(run, NullTracker(), saves, StopRequests(), quarantine)
    except UserError as caught:
        error = caught
    return error, saves.steps, lines(tmp_path)[0]["step"]


@pytest.mark.parametrize("lag_steps", [0, 1])
@pytest.mark.parametrize("seed", range(4))
def test_under_raise_nothing_is_saved_of_the_step_that_met_it(tmp_path, opened, lag_steps, seed):
    options = {"data.bad_sample": "raise", "train.seed": seed}

    error, saved, step = fit(tmp_path, opened, lag_steps=lag_steps, **options)

    assert error is not None and "00011.png in 000001.tar" in error.what
    assert saved == list(range(1, step))


@pytest.mark.parametrize("lag_steps", [0, 1])
def test_under_mask_it_is_listed_and_the_run_goes_on_to_its_end(tmp_path, opened, lag_steps):
    error, saved, step = fit(tmp_path, opened, lag_steps=lag_steps)

    assert error is None and saved[-1] == 5 and 1 <= step <= 5


# --- limits ---


def data(**changes):
    return DataConfig.model_validate({"train": {"shards": "data/train"}, **changes})


@pytest.mark.parametrize(
    ("n_bad", "n_read"),
    [
        (3, 3),  # a small corpus with a few bad images, however large their share
        (100, 100),
        (101, 101_000),
        (1_281, 1_281_167),
    ],
)
def test_a_few_or_a_small_share_are_borne(n_bad, n_read):
    check_limits(data(), n_bad, n_read, "runs/x/quarantine.jsonl")


@pytest.mark.parametrize(("n_bad", "n_read"), [(101, 100_999), (1_282, 1_281_167), (20_000, 20_000)])
def test_more_than_a_hundred_that_are_more_than_their_share_are_not(n_bad, n_read):
    with pytest.raises(UserError) as caught:
        check_limits(data(), n_bad, n_read, "runs/x/quarantine.jsonl")

    assert f"{n_bad:,} different samples could not be used" in caught.value.what
    assert f"of the {n_read:,} read so far; data.bad_sample_rate allows 0.10%" in caught.value.what
    assert caught.value.where == "data.train: data/train"
    assert "`distdl data index data/train --exclude runs/x/quarantine.jsonl`" in caught.value.fix


def test_a_number_may_be_named_instead_and_a_rate_of_one_switches_the_share_off():
    few = data(bad_sample_limit=5)

    check_limits(few, 5, 10, "q")
    with pytest.raises(UserError, match=r"6 different samples .* more than data.bad_sample_limit allows \(5\)"):
        check_limits(few, 6, 10**9, "q")
    check_limits(data(bad_sample_rate=1), 900, 900, "q")


def test_under_raise_the_first_one_is_named():
    rows = [asdict(bad("k", shard="/d/000003.tar"))]
    raising = data(bad_sample="raise")

    check_policy(data(), raising.train, TRAIN, rows, "q")
    check_policy(raising, raising.train, TRAIN, [], "q")
    with pytest.raises(
        UserError, match=r"data.train: data/train: bad sample: k.jpg in 000003.tar: truncated"
    ) as caught:
        check_policy(raising, raising.train, TRAIN, rows, "q")
    again = "Leave it out by `distdl data index data/train --exclude q`, and start a new run."
    assert caught.value.fix == f"{again} Or set data.bad_sample: mask."


def test_under_raise_code_of_one_s_own_is_to_be_mended_and_not_the_index():
    trace = "Traceback (most recent call last):\n  ...\nKeyError: 7\n"
    rows = [asdict(bad("k", component="", reason="stage x: KeyError: 7", own_code=True, traceback=trace))]
    raising = data(bad_sample="raise")

    with pytest.raises(UserError) as caught:
        check_policy(raising, raising.train, TRAIN, rows, "q")

    assert caught.value.what == f"bad sample: k in 000000.tar: stage x: KeyError: 7\n{trace.rstrip()}"
    assert caught.value.fix.startswith("Mend this code") and "--exclude" not in caught.value.fix
