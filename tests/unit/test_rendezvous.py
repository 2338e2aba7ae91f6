"""Workers of an attempt agree on a part of a store that earlier attempts have used."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
import torch.distributed as dist

from distdl.comm import rendezvous
from distdl.comm.world import WorldInfo

SOON = timedelta(seconds=20)


def agree(store, n):
    with ThreadPoolExecutor(n) as pool:
        found = [
            pool.submit(
                rendezvous._agreed, dist.TCPStore("127.0.0.1", store.port, is_master=False), info(rank, n), SOON
            )
            for rank in reversed(range(n))
        ]
        return {each.result() for each in found}


def info(rank, n):
    return WorldInfo(rank=rank, world_size=n)


@pytest.fixture
def store():
    return dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)


def test_each_attempt_has_a_part_of_its_own(store):
    first, second = agree(store, 3), agree(store, 3)

    assert len(first) == len(second) == 1 and first != second


def test_an_attempt_with_fewer_workers_finds_itself_among_what_others_left(store):
    for rank in (1, 2, 3):
        store.set(f"distdl/asks/{rank}", "of somebody who is gone")

    assert len(agree(store, 3)) == 1


def test_who_does_not_come_is_named(store):
    with pytest.raises(RuntimeError, match="timeout: rank 1 has not come"):
        rendezvous._agreed(store, info(0, 3), timedelta(seconds=0.2))
