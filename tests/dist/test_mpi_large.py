"""MPI counts by 32 bits: messages of more than 2^31 bytes arrive nevertheless."""

import re
from pathlib import Path

import pytest

pytestmark = [pytest.mark.matrix, pytest.mark.timeout(600)]

NEEDED_GIB = 16


@pytest.fixture(autouse=True)
def _memory():
    found = re.search(r"MemAvailable: +(\d+) kB", Path("/proc/meminfo").read_text())
    if (available_gib := int(found[1]) >> 20 if found else 0) < NEEDED_GIB:
        pytest.skip(f"two workers need {NEEDED_GIB} GiB of memory, and {available_gib} are available")


@pytest.mark.parametrize("form", ["all_reduce", "broadcast", "all_gather", "send"])
def test_more_than_2_to_the_31_bytes_arrive(mpi_workers, form):
    results = mpi_workers(2).run("mpi_large", form=form, deadline_s=240)

    of_ranks = [[1, 2, 3, 4, 5], [11, 12, 13, 14, 15]]
    expected = {
        "all_reduce": [[[12, 14, 16, 18, 20]]] * 2,
        "broadcast": [[of_ranks[1]]] * 2,
        "all_gather": [of_ranks] * 2,
        "send": [[of_ranks[0]]] * 2,
    }
    assert [[marks for marks, _ in found] for found in results] == expected[form]
    assert all(n_others == 0 for found in results for _, n_others in found)
