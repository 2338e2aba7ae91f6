"""Runs on this machine."""

import pytest
from place import Place, pack_digits, somewhere


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
    return pack_digits(tmp_path_factory.mktemp("corpus"))


@pytest.fixture
def place(tmp_path, corpus):
    with somewhere(tmp_path, corpus) as there:
        yield there


@pytest.fixture(scope="session")
def place_of():
    """Call it with a folder and a corpus, for a place that outlives a test."""
    return Place


@pytest.fixture(scope="session")
def unkilled(tmp_path_factory, corpus):
    """The hash of the small config's run that nobody killed, for a number of workers; each is run once."""
    known = {}

    def hash_of(nproc: int) -> str:
        if nproc not in known:
            there = Place(tmp_path_factory.mktemp(f"unkilled{nproc}"), corpus)
            result = there.run("train", there.config(model__name="faulty:lenet5"), "--nproc", nproc)
            assert result.code == 0, result.output
            known[nproc] = there.hash("run")
        return known[nproc]

    return hash_of
