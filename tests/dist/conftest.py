"""Workers that are started once and serve all tests of this folder; and a supervisor for each test that asks for one."""

import os
import signal
from collections.abc import Callable, Iterator

import pytest
from launches import Launch
from mpi_workers import MPIWorkers
from mpis import MPICH, OPEN_MPI, Library, installed
from spawn import Workers


@pytest.fixture(scope="session")
def workers() -> Iterator[Callable[[int], Workers]]:
    """workers(n): n processes that have joined."""
    started: dict[int, Workers] = {}
    yield lambda n: started.setdefault(n, Workers(n))
    for each in started.values():
        each.close()


@pytest.fixture(scope="session", params=installed() or [None], ids=lambda each: each.name if each else "")
def mpi(request) -> Library:
    """Each library that is installed; without --matrix those that most have."""
    if request.param is None:
        pytest.skip("there is no MPI here")
    if request.param not in (OPEN_MPI, MPICH) and not request.config.getoption("--matrix"):
        pytest.skip(f"{request.param.name}: only with --matrix")
    return request.param


@pytest.fixture(scope="session")
def mpi_workers(mpi) -> Iterator[Callable[[int], MPIWorkers]]:
    """mpi_workers(n): n processes that an mpirun has started, and that have joined."""
    started: dict[int, MPIWorkers] = {}
    yield lambda n: started.setdefault(n, MPIWorkers(n, mpi))
    for each in started.values():
        each.close()


@pytest.fixture
def launch(tmp_path) -> Iterator[Launch]:
    launch = Launch(tmp_path)
    yield launch
    left = launch.pids()
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert not left, "processes were left behind"
