"""Samples of shards that lie elsewhere: at once by their range, then from whole shards; each fetched once on a node."""

import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from web import Web

from distdl.config.schema import RemoteConfig
from distdl.data.corpus.dataset import CorruptSample, Dataset
from distdl.data.corpus.shards import write_shards
from distdl.data.order import Plan
from distdl.data.remote import fetch, http, patience, upcoming
from distdl.data.remote.cache import CHUNK, Cache
from distdl.errors import UserError

N_SHARDS, IN_SHARD = 6, 10


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    """Six shards of 2.5 MB, ten samples each."""
    folder = tmp_path_factory.mktemp("data") / "corpus"
    draws = random.Random(0)
    samples = (
        {"__key__": f"{i:04}", "bin": draws.randbytes(250_000), "cls": i % 10} for i in range(N_SHARDS * IN_SHARD)
    )
    write_shards(samples, folder, classes=None, kind="test", shard_samples=IN_SHARD)
    return folder


@pytest.fixture
def web(corpus: Path):
    with Web(corpus) as server:
        yield server


@pytest.fixture(autouse=True)
def _little_patience(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(http, "_SILENCE_S", 0.3)
    monkeypatch.setattr(patience, "_FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr(fetch, "_AGAIN_S", 0.2)
    monkeypatch.setattr(fetch, "_LOOK_AGAIN_S", 0.05)
    patience._gates.clear()


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def opened(web, tmp_path, said):
    """Opens the corpus at the server; all are closed at the end."""
    datasets = []

    def open_remote(**settings) -> Dataset:
        remote = RemoteConfig(**{"cache": str(tmp_path), "deadline": "5 s", **settings})
        datasets.append(Dataset.open(web.url, remote=remote, say=said.append))
        return datasets[-1]

    yield open_remote
    for dataset in datasets:
        dataset.close()


def is_right(dataset: Dataset, corpus: Path, ids=None) -> bool:
    with Dataset.open(corpus) as local:
        return all(
            dataset.read(*dataset.locate(i)).components == local.read(*local.locate(i)).components
            for i in (range(local.n_samples) if ids is None else ids)
        )


def wait_for(condition, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def in_cache(folder: Path) -> list[Path]:
    return sorted((folder / "distdl-shards").glob("*.tar"))


def requests_of_chunks(web: Web) -> Counter:
    """How often each chunk of each shard was asked for."""
    return Counter(
        (each.name, each.begin)
        for each in web.requests
        if each.name.endswith(".tar") and each.begin % CHUNK == 0 and each.end - each.begin > 300_000
    )


# --- at once, and then from whole shards ---


def test_the_first_sample_does_not_wait_for_its_shard(opened, web, corpus):
    web.bytes_per_s = 200_000  # a shard takes more than ten seconds
    dataset = opened()
    began = time.monotonic()

    assert is_right(dataset, corpus, [3])

    assert time.monotonic() - began < 8
    assert not in_cache(Path(dataset.streaming.cache.folder.parent))


def test_whole_shards_come_behind_it_and_the_server_is_asked_no_more(opened, web, corpus, tmp_path):
    dataset = opened()
    dataset.streaming.want(range(N_SHARDS))
    wait_for(lambda: len(in_cache(tmp_path)) == N_SHARDS)
    dataset.read(0, 0)
    assert is_right(dataset, corpus)  # reads the indexes
    n_requests = len(web.requests)

    assert is_right(dataset, corpus)

    assert len(web.requests) == n_requests
    for path in in_cache(tmp_path):
        assert path.read_bytes() in [tar.read_bytes() for tar in corpus.glob("*.tar")]


def test_a_later_run_finds_the_shards(opened, web, corpus, tmp_path):
    first = opened()
    assert is_right(first, corpus)
    wait_for(lambda: len(in_cache(tmp_path)) == N_SHARDS)
    first.close()
    web.requests.clear()

    assert is_right(opened(), corpus)

    assert [each.name for each in web.requests] == ["dataset.json"]


def test_a_samples_components_come_in_one_request(opened, web):
    dataset = opened(cache_gb=0)
    dataset.index(0)
    web.requests.clear()

    dataset.read(0, 4)

    assert len(web.requests) == 1


def test_announced_samples_come_side_by_side(opened, web, corpus):
    web.delay_s = 0.25
    dataset = opened(cache_gb=0)
    ids = list(range(0, 60, 2))
    began = time.monotonic()

    dataset.advance()
    dataset.announce(ids, None)

    assert is_right(dataset, corpus, ids)
    assert time.monotonic() - began < 5, "one after the other they take seven seconds"
    assert Counter(each.begin for each in web.requests if each.end).most_common(1)[0][1] <= N_SHARDS


def test_without_a_cache_it_streams(opened, corpus, tmp_path):
    assert is_right(opened(cache_gb=0), corpus)
    assert list(tmp_path.iterdir()) == []


# --- servers that fail ---


@pytest.mark.parametrize("how", ["503", "short", "stall", "wrong", "drop"])
def test_no_sample_is_lost_to_a_server_that_fails_now_and_then(opened, web, corpus, tmp_path, how):
    dataset = opened(deadline="20 s")
    # A component that comes wrong three times counts as damaged.
    web.fail(r"00000[0-9]\.tar", how, times=2 if how == "wrong" else 6)

    with ThreadPoolExecutor(4) as pool:
        shares = pool.map(lambda part: is_right(dataset, corpus, range(part, 60, 4)), range(4))
        assert all(shares)
    wait_for(lambda: len(in_cache(tmp_path)) == N_SHARDS)

    assert is_right(dataset, corpus)


def test_a_server_that_dies_and_comes_back(opened, web, corpus):
    dataset = opened(deadline="20 s")
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(is_right, dataset, corpus)
        time.sleep(0.1)
        web.stop()
        time.sleep(1)
        web.start()
        assert reading.result()


def test_a_server_that_stays_away_ends_in_a_clear_error(opened, web):
    dataset = opened(deadline="1 s", cache_gb=0)
    dataset.index(0)
    web.stop()
    began = time.monotonic()

    with pytest.raises(UserError, match=r"000000.tar: can't be read for 1 s"):
        dataset.read(0, 0)

    assert time.monotonic() - began < 30


def test_bytes_that_stay_wrong_make_a_bad_sample_and_no_shard_of_the_cache(opened, web, corpus, tmp_path, said):
    web.fail(r"000001\.tar", "wrong", times=None)
    dataset = opened()
    dataset.streaming.want([1, 0])

    with pytest.raises(CorruptSample, match=r"000001.tar: sample '0010', component 'bin': its checksum"):
        dataset.read(1, 0)
    wait_for(lambda: said)

    assert "what comes is not what was indexed; it is not kept" in said[0]
    wait_for(lambda: len(in_cache(tmp_path)) == 1)


def test_closing_does_not_wait_for_a_silent_server(opened, web, monkeypatch):
    monkeypatch.setattr(http, "_SILENCE_S", 20.0)
    dataset = opened(deadline="1 min")
    web.fail(r".*\.tar", "stall", times=None)
    dataset.index(0)
    dataset.announce([0, 1, 2], None)
    time.sleep(0.3)
    began = time.monotonic()

    dataset.close()

    assert time.monotonic() - began < 18


# --- the disk ---


def test_the_cache_stays_below_its_limit_and_every_sample_is_right(opened, corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(upcoming, "_STEPS_AT_ONCE", 2)
    limit = 3 * 2_600_000
    dataset = opened(cache_gb=limit / 1e9)
    follow(dataset, epochs=3)

    for ids in steps_of(dataset, epochs=3):
        dataset.advance()
        dataset.announce(ids, None)
        assert is_right(dataset, corpus, ids)
        time.sleep(0.05)
        used = used_bytes(tmp_path / "distdl-shards")
        assert used <= limit + 100, "and the marks of the parts, a byte for each chunk"

    assert dataset.streaming.fetcher.n_fetched > 3, "shards have made room for others"


def used_bytes(folder: Path) -> int:
    """Of shards and parts, of which some may go or change their names meanwhile."""
    with Cache(folder, None, 0.5).locked():
        return sum(path.stat().st_size for path in folder.glob("[0-9a-f]*.*") if path.suffix != ".ddx")


def test_a_full_disk_is_told_once_and_it_streams_on(web, corpus, tmp_path, said):
    folder = tmp_path / "small"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("no permission to mount")
    try:
        remote = RemoteConfig(cache=str(folder), cache_gb=1, deadline="5 s")
        with Dataset.open(web.url, remote=remote, say=said.append) as dataset:
            dataset.streaming.want(range(N_SHARDS))
            wait_for(lambda: said)
            assert is_right(dataset, corpus)
            time.sleep(0.3)
        assert len(said) == 1
        assert "the disk is full" in said[0] and "read over the network" in said[0]
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def test_a_shard_that_is_damaged_on_this_disk_is_fetched_again(opened, corpus, tmp_path, said):
    dataset = opened()
    dataset.streaming.want(range(N_SHARDS))
    wait_for(lambda: len(in_cache(tmp_path)) == N_SHARDS)
    for path in in_cache(tmp_path):
        with path.open("r+b") as file:
            file.seek(1_000_000)
            file.write(b"damage")

    assert is_right(dataset, corpus)

    assert len(said) == N_SHARDS and "is damaged, and is fetched again" in said[0]
    wait_for(lambda: len(in_cache(tmp_path)) == N_SHARDS)
    assert is_right(dataset, corpus)
    assert len(said) == N_SHARDS


def test_an_index_that_is_damaged_on_this_disk_is_fetched_again(opened, corpus, tmp_path):
    opened().index(0)
    (path,) = (tmp_path / "distdl-shards").glob("*.ddx")
    path.write_bytes(b"damage")

    assert is_right(opened(), corpus, [0])


# --- several processes ---


def follow(dataset: Dataset, epochs: int) -> None:
    plan = plan_of(dataset)
    end = plan.end_position(epochs=epochs, steps=None)
    dataset.follow(plan.steps(0, end, end=end), plan.epoch_length)


def steps_of(dataset: Dataset, epochs: int):
    plan = plan_of(dataset)
    end = plan.end_position(epochs=epochs, steps=None)
    for rows in plan.steps(0, end, end=end):
        yield rows.sample_id.tolist()


def plan_of(dataset: Dataset) -> Plan:
    return Plan(dataset.sizes, seed=0, global_batch=6, lanes=2, window=5)


def read_all(url: str, cache: str, corpus: str) -> bool:
    """In a process of its own: follows the plan until all shards are there."""
    fetch._LOOK_AGAIN_S = 0.05
    with Dataset.open(url, remote=RemoteConfig(cache=cache, deadline="20 s")) as dataset:
        follow(dataset, epochs=1)
        wait_for(lambda: len(in_cache(Path(cache))) == N_SHARDS, 40)
        return is_right(dataset, Path(corpus))


def test_two_workers_of_a_node_fetch_each_shard_once(web, corpus, tmp_path):
    web.delay_s = 0.02
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        assert pool.starmap(read_all, [(web.url, str(tmp_path), str(corpus))] * 2) == [True, True]

    asked = requests_of_chunks(web)
    assert len(asked) == N_SHARDS * -(-(corpus / "000000.tar").stat().st_size // CHUNK)
    assert set(asked.values()) == {1}


def test_a_worker_that_is_killed_in_mid_fetch_leaves_a_cache_that_can_be_used(web, corpus, tmp_path):
    web.bytes_per_s = 1_000_000
    program = f"import test_streaming as t; t.read_all({web.url!r}, {str(tmp_path)!r}, {str(corpus)!r})"
    path = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[1]), *sys.path])
    victim = subprocess.Popen([sys.executable, "-c", program], env={**os.environ, "PYTHONPATH": path})
    wait_for(lambda: any(read_marks(part) for part in (tmp_path / "distdl-shards").glob("[!.]*.part")), 60)
    victim.send_signal(signal.SIGKILL)
    victim.wait()
    parts = sorted((tmp_path / "distdl-shards").glob("[!.]*.part"))
    n_there = sum(read_marks(part) for part in parts)
    web.bytes_per_s = None
    web.requests.clear()

    assert read_all(web.url, str(tmp_path), str(corpus))

    n_chunks = N_SHARDS * -(-(corpus / "000000.tar").stat().st_size // CHUNK)
    # Each once for all that is missing; what the victim asked for last may be counted as well.
    assert 0 < len(requests_of_chunks(web)) <= n_chunks - n_there, "what was there is not fetched again"
    assert not list((tmp_path / "distdl-shards").glob("[!.]*.part"))  # half an index is swept after an hour


def read_marks(part: Path) -> int:
    """How many chunks of a part are there."""
    try:
        content = part.read_bytes()
    except FileNotFoundError:
        return 0
    n_chunks = -(-len(content) // (CHUNK + 1))
    return content[len(content) - n_chunks :].count(1)


# --- copies ---


def test_a_stage_copies_a_slow_folder_too(corpus, tmp_path):
    slow = tmp_path / "slow"
    shutil.copytree(corpus, slow)

    with Dataset.open(str(slow), stage=tmp_path / "fast") as dataset, Dataset.open(slow) as local:
        assert dataset.identity == local.identity
        dataset.streaming.want(dataset.all_shards)
        wait_for(lambda: len(in_cache(tmp_path / "fast")) == N_SHARDS)
        assert dataset.streaming.is_settled(dataset.all_shards)
        shutil.rmtree(slow)
        assert is_right(dataset, corpus)


def test_the_plan_decides_what_comes_first(opened, web, tmp_path, monkeypatch):
    monkeypatch.setattr(fetch, "_THREADS", 1)
    dataset = opened()
    follow(dataset, epochs=1)
    wait_for(lambda: len(in_cache(tmp_path)) == N_SHARDS)

    fetched = list(dict.fromkeys(name for name, _ in requests_of_chunks(web)))
    plan = np.concatenate([np.asarray(ids) for ids in steps_of(dataset, epochs=1)])
    planned = list(dict.fromkeys(dataset.shard_names[i] for i in np.searchsorted(dataset.ends, plan, side="right")))
    assert fetched == planned
