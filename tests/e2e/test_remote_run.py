"""Runs with shards on a web server: the same weights as from a folder, from any copy, and no secret left behind."""

import json
import re
import shutil
import signal
import time
from collections import Counter
from pathlib import Path

import pytest
from web import Web

pytestmark = pytest.mark.timeout(240)

SECRET = "s3cr3t-signature-51ab"


@pytest.fixture(scope="module")
def packed(tmp_path_factory, place_of):
    """The digits in shards of 100 kB, and the hash of a run on them from the folder."""
    there = place_of(tmp_path_factory.mktemp("packed"), Path("nowhere"))
    (there.path / "digits").unlink()
    assert there.run("data", "pack", "digits", "digits", "--shard-mb", "0.1").code == 0
    result = there.run("train", there.config(), "--nproc", 2)
    assert result.code == 0, result.output
    return there.path / "digits", there.hash("run")


@pytest.fixture
def sharded(packed):
    return packed[0]


@pytest.fixture
def local_hash(packed):
    return packed[1]


@pytest.fixture
def web(sharded):
    with Web(sharded) as server:
        yield server


def remote(place, web, query="", **changes):
    return place.config(
        name="remote.yaml",
        data__train__shards=f"{web.url}/train{query}",
        data__eval__shards=f"{web.url}/test{query}",
        data__remote={"cache": str(place.path / "cache"), "deadline": "20 s"},
        **changes,
    )


def test_the_same_weights_from_a_server_as_from_a_folder_and_no_secret_in_what_is_left(place, web, sharded, local_hash):
    web.wanted_query = f"sig={SECRET}"
    web.fail(r".*\.tar", "503", times=5)

    result = place.run("train", remote(place, web, "?${QUERY}"), "--nproc", 2, QUERY=f"sig={SECRET}")

    assert result.code == 0, result.output
    assert place.hash("remote") == local_hash
    asked = Counter(each.name for each in web.requests if each.name.endswith(".tar") and not each.begin and each.end)
    n_shards = len(list((sharded / "train").glob("*.tar")))
    assert n_shards > 5
    assert len(list((place.path / "cache" / "distdl-shards").glob("*.tar"))) >= n_shards
    assert asked, "the shards came from the server"
    took = r"[\d.,]+ MB in \d+ requests, \d had to be asked again \(the server answers 503"
    assert re.search(f"shards from 127.0.0.1:{web.port}: {took}", result.output)
    assert SECRET not in result.output
    for path in (place.path / "runs").rglob("*"):
        assert not path.is_file() or SECRET.encode() not in path.read_bytes(), path


def test_a_run_that_is_killed_goes_on_from_another_copy(place, web, sharded, local_hash):
    process = place.start("train", remote(place, web), "--nproc", 2)
    deadline = time.monotonic() + 60
    while not list((place.path / "runs" / "remote" / "checkpoints").glob("step-*/manifest.json")):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert place.gone_within(20)
    shutil.copytree(sharded, place.path / "copy")

    copy = (f"data.train.shards={place.path}/copy/train", f"data.eval.shards={place.path}/copy/test")
    result = place.run("train", remote(place, web), "--resume", *copy, "--nproc", 2)

    assert result.code == 0, result.output
    assert place.hash("remote") == local_hash


def test_a_run_from_another_corpus_is_refused(place, web):
    assert place.run("train", remote(place, web, train__steps=12)).code == 0

    other = f"data.train.shards={web.url}/test"
    result = place.run("train", remote(place, web, train__steps=14), "--resume", other)

    assert result.code == 2
    assert "the training data is not what this run was started with" in result.output


def test_a_server_that_goes_away_ends_the_run_with_what_to_do(place, web):
    web.fail(r".*\.tar", "503", times=None)
    config = remote(place, web)
    began = time.monotonic()

    result = place.run("train", config, "data.remote.deadline=4 s")

    assert result.code == 2, result.output
    assert time.monotonic() - began < 60
    assert re.search(r"/train/\d+\.tar: can't be read for 4 s \(\d+ attempts\): the server answers 503", result.output)
    assert f"nothing comes from 127.0.0.1:{web.port} (the server answers 503" in result.output
    assert "--resume" in result.last_line


def test_staged_shards_are_all_there_before_the_first_step(place, web, sharded, local_hash):

    result = place.run("train", remote(place, web, data__stage=str(place.path / "disk")), "--nproc", 2)

    assert result.code == 0, result.output
    n_shards = sum(len(list((sharded / split).glob("*.tar"))) for split in ("train", "test"))
    assert f"staged {n_shards} of {n_shards} shards" in result.output
    assert place.hash("remote") == local_hash
    # Besides, the first sample was read when the data was opened.
    chunks = Counter(each.name for each in web.requests if each.name.endswith(".tar") and each.begin == 0 and each.end)
    assert sum(chunks.values()) <= n_shards + 4
    assert json.loads((place.path / "runs" / "remote" / "final.json").read_text())["outcome"] == "done"
