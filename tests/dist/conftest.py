"""Workers that are started once and serve all tests of this folder; and a supervisor for each test that asks for one."""

import os
import signal
from collections.abc import Callable, Iterator

import pytest
from launches import Launch
from spawn import Workers


@pytest.fixture(scope="session")
def workers() -> Iterator[Callable[[int], Workers]]:
    """workers(n): n processes that have joined."""
    started: dict[int, Workers] = {}
    yield lambda n: started.setdefault(n, Workers(n))
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
