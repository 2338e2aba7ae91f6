"""Workers that are started once and serve all tests of this folder."""

from collections.abc import Callable, Iterator

import pytest
from spawn import Workers


@pytest.fixture(scope="session")
def workers() -> Iterator[Callable[[int], Workers]]:
    """workers(n): n processes that have joined."""
    started: dict[int, Workers] = {}
    yield lambda n: started.setdefault(n, Workers(n))
    for each in started.values():
        each.close()
