"""Which shards there are in several places, near and far: the same corpus wherever they lie."""

import shutil
from pathlib import Path

import pytest
import tiny
from web import Web

from distdl.config.schema import RemoteConfig
from distdl.data.corpus.dataset import Dataset
from distdl.data.corpus.shards import index_folder
from distdl.errors import UserError

NO_CACHE = RemoteConfig(cache_gb=0, deadline="5 s")
N_SAMPLES = 20  # in shards of seven


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    return tiny.write_corpus(tmp_path / "corpus", N_SAMPLES)


@pytest.fixture
def web(corpus: Path):
    with Web(corpus) as server:
        yield server


def contents(dataset: Dataset) -> list[tuple[str, dict[str, bytes]]]:
    with dataset:
        samples = [dataset.read(*dataset.locate(i)) for i in range(dataset.n_samples)]
    return [(sample.key, sample.components) for sample in samples]


def test_the_same_corpus_wherever_its_shards_lie(corpus, web, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    shutil.move(corpus / "000001.tar", elsewhere)
    shutil.copy(corpus / "000001.tar.ddx", elsewhere)
    shutil.copytree(corpus, tmp_path / "all")
    shutil.copy(elsewhere / "000001.tar", tmp_path / "all")
    there = Dataset.open(tmp_path / "all")
    with Web(tmp_path / "all") as whole:
        forms = [
            f"{tmp_path}/all/{{000000..000002}}.tar",
            [f"{tmp_path}/all/00000{i}.tar" for i in (2, 0, 1)],
            whole.url,
            f"{whole.url}/",
            f"{whole.url}/{{000000..000002}}.tar",
            [f"{whole.url}/000002.tar", str(elsewhere / "000001.tar"), f"{whole.url}/000000.tar"],
        ]
        expected = contents(Dataset.open(tmp_path / "all"))
        for form in forms:
            dataset = Dataset.open(form, remote=NO_CACHE)
            assert dataset.identity == there.identity, form
            assert dataset.shard_names == there.shard_names
            assert contents(dataset) == expected, form


def test_samples_that_are_left_out_make_it_another_corpus_wherever_it_lies(web, corpus, tmp_path):
    whole = Dataset.open(web.url, remote=NO_CACHE).identity
    left_out = tmp_path / "quarantine.jsonl"
    left_out.write_text('{"shard": "000001.tar", "key": "00009"}\n')
    index_folder(corpus, excluded_by=[left_out], say=lambda message: None)

    near, far = Dataset.open(corpus), Dataset.open(web.url, remote=NO_CACHE)

    assert far.identity == near.identity != whole and far.n_samples == near.n_samples == N_SAMPLES - 1


def test_the_classes_come_with_a_packed_corpus(web, corpus):
    assert Dataset.open(web.url, remote=NO_CACHE).classes == Dataset.open(corpus).classes


def test_without_a_list_the_indexes_beside_the_tars_do(corpus, web):
    (corpus / "dataset.json").unlink()
    expected = Dataset.open(corpus)

    dataset = Dataset.open(web.url + "/{000000..000002}.tar", remote=NO_CACHE)

    assert dataset.identity == expected.identity
    assert contents(dataset) == contents(expected)


def test_list_and_indexes_may_be_in_another_folder(corpus, web, tmp_path):
    expected = Dataset.open(corpus).identity
    index = tmp_path / "index"
    index.mkdir()
    for path in [*corpus.glob("*.ddx"), corpus / "dataset.json"]:
        shutil.move(path, index)

    with Dataset.open(web.url, index_folder=index, remote=NO_CACHE) as dataset:
        assert dataset.identity == expected
        assert dataset.read(0, 0).key == "00000"


def test_remote_tars_without_an_index_are_told_how_to_get_one(corpus, web):
    for path in [*corpus.glob("*.ddx"), corpus / "dataset.json"]:
        path.unlink()

    with pytest.raises(UserError, match=r"000000.tar has no index.*\n.*distdl data index.*data.train.index"):
        Dataset.open(web.url + "/{000000..000002}.tar", remote=NO_CACHE)


def test_a_web_server_without_a_list_is_told_what_else_to_say(corpus, web):
    (corpus / "dataset.json").unlink()

    with pytest.raises(UserError, match=r"no dataset.json here.*\n.*distdl data index.*\{000000..000099\}.tar"):
        Dataset.open(web.url, remote=NO_CACHE)


def test_a_damaged_list_is_told(corpus, web):
    listed = corpus / "dataset.json"
    listed.write_text(listed.read_text().replace('"nsamples": 7', '"nsamples": 8', 1))

    with pytest.raises(UserError, match="its checksum does not match"):
        Dataset.open(web.url, remote=NO_CACHE)


def test_a_tar_of_another_size_than_its_index_says_is_told(corpus, web):
    (corpus / "dataset.json").unlink()
    with (corpus / "000001.tar").open("ab") as file:
        file.write(bytes(512))

    with pytest.raises(UserError, match=r"this index was made of a tar of .* bytes"):
        Dataset.open(web.url + "/{000000..000002}.tar", remote=NO_CACHE)


def test_an_index_of_another_corpus_is_told(corpus, web, tmp_path):
    other = tiny.write_corpus(tmp_path / "other", 14)
    shutil.copy(other / "000001.tar.ddx", corpus)
    shutil.copy(other / "000000.tar.ddx", corpus / "000002.tar.ddx")
    with Dataset.open(web.url, remote=NO_CACHE) as dataset, pytest.raises(UserError, match="different versions"):
        dataset.read(2, 0)


def test_two_shards_of_one_name_are_told(corpus, tmp_path):
    other = tiny.write_corpus(tmp_path / "other", 7)

    with pytest.raises(UserError, match=r"two shards are called 000000.tar: .*corpus.*other"):
        Dataset.open([str(corpus), str(other)])


def test_a_pattern_that_names_more_than_there_is_is_told(corpus, web):
    for shards in (f"{corpus}/{{000000..000003}}.tar", web.url + "/{000000..000003}.tar"):
        with pytest.raises(UserError, match=r"there is no such shard|does not list 000003.tar"):
            Dataset.open(shards, remote=NO_CACHE)


def test_a_host_that_is_not_there_is_told(web):
    web.stop()

    with pytest.raises(UserError, match=rf"{web.url}/dataset.json: can't be read for 1 s"):
        Dataset.open(web.url, remote=RemoteConfig(cache_gb=0, deadline="1 s"))
