"""Runs on a real Slurm of four nodes, which the tests of a process share."""

import pytest
from place import Place, pack_digits, somewhere
from slurm_cluster import Cluster
from ssh_hosts import Hosts


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
    return pack_digits(tmp_path_factory.mktemp("corpus"))


@pytest.fixture
def place(tmp_path, corpus):
    with somewhere(tmp_path, corpus) as there:
        yield there


@pytest.fixture(scope="session")
def four_nodes(tmp_path_factory):
    with Cluster(4, tmp_path_factory.mktemp("slurm")) as cluster:
        yield cluster


@pytest.fixture
def cluster(four_nodes):
    """No job of a test is left to the next one."""
    yield four_nodes
    four_nodes.cancel_all()


@pytest.fixture(scope="session")
def three_hosts(tmp_path_factory):
    with Hosts(["a", "b", "c"], tmp_path_factory.mktemp("ssh")) as hosts:
        yield hosts


@pytest.fixture
def hosts(three_hosts):
    """Reached by ssh; a test may switch them off."""
    yield three_hosts
    for name in three_hosts.names:
        three_hosts.switch_off(name)
        three_hosts.switch_on(name)


@pytest.fixture(scope="session")
def place_of():
    """Call it with a folder and a corpus, for a place that outlives a test."""
    return Place
