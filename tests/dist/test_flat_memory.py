"""A loader that runs for days takes no more memory, descriptors or shared memory than after its first minute."""

import gc
import os
from pathlib import Path

import pytest
import tiny
from test_worker_processes import endless, make_loader

from distdl.data.processes import Processes
from distdl.data.workers import Threads

WARM_UP, BATCHES = 1000, 10_000


def resident_bytes():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def held():
    return len(os.listdir("/proc/self/fd")), len(os.listdir("/dev/shm")), len(os.listdir("/proc/self/task"))


@pytest.mark.parametrize("group", [Threads, Processes])
def test_over_ten_thousand_batches(tmp_path, group):
    loader = make_loader(tiny.write_corpus(tmp_path / "corpus", 90), group(2), rows=16)
    batches = endless(loader)
    for _ in range(WARM_UP):
        next(batches)
    gc.collect()
    held_before, bytes_before = held(), resident_bytes()

    for _ in range(BATCHES):
        next(batches)

    gc.collect()
    assert held() == held_before
    assert resident_bytes() - bytes_before < 4 << 20  # 10,000 batches of 12 kB are 120 MB
    loader.close()
