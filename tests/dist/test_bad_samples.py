"""Bad samples that one worker meets and the others don't: all end at the same step, with the same words, or none."""

import json

import pytest
import tiny

pytestmark = pytest.mark.timeout(60)

N = 45


@pytest.fixture
def fit(workers, tmp_path):
    """Call it with the bad samples of a corpus: what each of three workers says at the end, and the quarantine."""

    def run(bad, **overrides):
        corpus = tiny.write_corpus(tmp_path / "corpus", N, bad=bad)
        overrides = {"train.global_batch": 6, "train.steps": 20, "train.eval_every": None, **overrides}
        file = tmp_path / "quarantine.jsonl"
        results = workers(3).run("fitted", corpus=str(corpus), overrides=overrides, quarantine=str(file))
        return results, [json.loads(line) for line in file.read_text().splitlines()]

    return run


def test_what_one_worker_meets_under_raise_ends_all_with_its_name(fit):
    (first, *others), rows = fit([30], **{"data.bad_sample": "raise"})

    what, where, fix = first["error"]
    assert what.startswith("bad sample: 00030.png in 000004.tar: ") and where.startswith("data.train: ")
    assert "--exclude runs/x/quarantine.jsonl`" in fix
    assert others == [first] * 2
    (row,) = rows
    assert (row["key"], row["done"], row["step"]) == ("00030", "raised", first["step"])
    assert 1 <= first["step"] <= -(-N // 6)


def test_a_limit_that_one_worker_passes_ends_all(fit):
    (first, *others), rows = fit([3, 30], **{"data.bad_sample_limit": 1})

    assert "2 different samples could not be used, more than data.bad_sample_limit allows (1)" in first["error"][0]
    assert others == [first] * 2
    assert {row["key"] for row in rows} == {"00003", "00030"}
    assert first["step"] == max(row["step"] for row in rows)
    assert len({row["rank"] for row in rows}) == 2 or rows[0]["step"] < rows[1]["step"]


def test_bad_samples_of_several_workers_are_listed_once_each_over_epochs(fit):
    bad = [3, 11, 30, 44]

    (first, *others), rows = fit(bad, **{"train.steps": None, "train.epochs": 3})

    assert first["error"] is None and others == [first] * 2
    assert (first["n_bad"], first["n_different"]) == (3 * len(bad), len(bad))
    assert sorted(row["sample_id"] for row in rows) == bad
    assert {row["epoch"] for row in rows} == {0}
    assert len({row["rank"] for row in rows}) > 1


def test_an_evaluation_that_one_worker_can_not_read_in_full_ends_all_under_raise(fit, tmp_path):
    sound = tiny.write_corpus(tmp_path / "sound", 20)
    overrides = {"data.train.shards": str(sound), "data.eval": {"shards": str(tmp_path / "corpus")}}

    (first, *others), rows = fit([30], **overrides, **{"data.bad_sample": "raise", "train.steps": 2})

    assert first["error"][0].startswith("bad sample: 00030.png") and first["error"][1].startswith("data.eval: ")
    assert others == [first] * 2
    assert [(row["set"], row["done"], row["step"]) for row in rows] == [("data.eval", "raised", 2)]
