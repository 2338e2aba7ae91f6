"""A run on sources mixed by weight: killed on two workers and gone on with by one, it ends with the same weights."""

import json

import pytest
from web import Web

pytestmark = pytest.mark.timeout(180)

MIXTURE = {"shown": {"shards": "digits/train", "weight": 3}, "kept_back": {"shards": "digits/test"}}
RUN = {
    "model__name": "faulty:lenet5",
    "data__train": {"mixture": MIXTURE, "transforms": [{"resize": 32}, {"random_crop": {"size": 32, "padding": 2}}]},
    "data__eval": None,
    "train__steps": 30,
    "checkpoint__every": 10,
    "checkpoint__best": None,
    "dist__reduction": "tree",
    "dist__leaves": 2,
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory, place_of, corpus):
    """The place of a run on one worker that nobody killed."""
    there = place_of(tmp_path_factory.mktemp("whole"), corpus)
    result = there.run("train", there.config(**RUN))
    assert result.code == 0, result.output
    return there


def test_it_is_the_same_run_after_a_kill_and_on_fewer_workers(place, whole):
    fault = {"rank": 1, "where": "train", "nth": 16, "kill": "self", "once": str(place.path / "struck")}
    killed = place.run("train", place.config(**RUN), "--nproc", 2, FAULT=json.dumps(fault))
    assert killed.code == 1 and "killed by SIGKILL" in killed.output, killed.output

    resumed = place.run("train", place.config(**RUN), "--nproc", 1, "--resume")

    assert resumed.code == 0, resumed.output
    assert "resumed at step 10" in resumed.output
    assert "1,797 samples (kept_back 25 %, shown 75 %), 30 steps of 50" in resumed.output
    assert place.hash("run") == whole.hash("run")
    row = ("run", "--step", 21, "--rank", 0, "--row", 7, "--world-size", 1)
    explained = [there.run("data", "explain", *row) for there in (whole, place)]
    assert explained[0].code == 0, explained[0].output
    assert explained[0].output == explained[1].output
    assert "\nsource      shown, its sample " in explained[0].output

    heavier = {**MIXTURE, "shown": {"shards": "digits/train", "weight": 2}}
    other = place.config(**{**RUN, "data__train": {**RUN["data__train"], "mixture": heavier}})
    refused = place.run("train", other, "--resume")
    assert refused.code == 2
    assert "data.train.mixture.shown.weight: 3" in refused.output and "-> 2" in refused.output


def test_a_wrong_mixture_is_answered_before_anything_starts(place):
    none = place.run("train", place.config(**{**RUN, "data__train": {"mixture": {}}}), "--check")
    weightless = {**MIXTURE, "shown": {"shards": "digits/train", "weight": 0}}
    zero = place.run("train", place.config(**{**RUN, "data__train": {"mixture": weightless}}), "--check")

    assert (none.code, zero.code) == (2, 2)
    assert "data.train.mixture: a mixture has at least one source" in none.output
    assert "data.train.mixture.shown.weight: should be greater than 0 (got 0)" in zero.output
    assert not (place.path / "runs").exists()


def test_sources_on_a_web_server_are_staged_and_make_the_same_run(place, whole):
    with Web((place.path / "digits").resolve()) as web:
        mixture = {
            "shown": {"shards": f"{web.url}/train", "weight": 3},
            "kept_back": {"shards": f"{web.url}/test"},
        }
        data = {"data__train": {**RUN["data__train"], "mixture": mixture}, "data__stage": str(place.path / "disk")}

        result = place.run("train", place.config(**{**RUN, **data}), "--nproc", 2)

    assert result.code == 0, result.output
    n_shards = len(list(place.path.glob("digits/t*/*.tar")))
    assert f"staged {n_shards} of {n_shards} shards" in result.output
    assert len(list((place.path / "disk").rglob("*.tar"))) == n_shards
    assert place.hash("run") == whole.hash("run")
