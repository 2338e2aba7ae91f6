"""Where workers find each other: one store of keys and values, fresh for each attempt.

torchrun keeps one store over its restarts, with the addresses that the workers of earlier attempts have left in it, and
its count of restarts differs from host to host. So the workers of an attempt agree on a part of the store first: each
asks rank 0 with a number that nobody else has, and takes what it is answered to that number.
"""

import os
import secrets
import time
from datetime import timedelta
from typing import Any

import torch.distributed as dist

from distdl.comm import mpi_library
from distdl.comm.world import WorldInfo

_POLL_S = 0.02


def arguments(info: WorldInfo, timeout: timedelta) -> dict[str, Any]:
    """For torch's `init_process_group`. Raises RuntimeError if not all workers come within the time-out."""
    if mpi_library.is_started():
        return {"init_method": "mpi://"}
    if path := os.environ.get("DISTDL_MEETING"):  # of our own launcher: new for each attempt
        return {"store": dist.FileStore(path, info.world_size)}
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return {"init_method": "env://"}
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    store = dist.TCPStore(host, port, is_master=False, timeout=timeout)
    return {"store": dist.PrefixStore(_agreed(store, info, timeout), store)}


def _agreed(store: dist.Store, info: WorldInfo, timeout: timedelta) -> str:
    """A name that the workers of this attempt have in common, and no others."""
    if info.rank != 0:
        number = secrets.token_hex(8)
        store.set(f"distdl/asks/{info.rank}", number)
        answer = f"distdl/answer/{info.rank}/{number}"
        store.wait([answer], timeout)
        name = store.get(answer).decode()
        store.set(f"{name}/has/{info.rank}", "")
        return name
    name = f"distdl/{secrets.token_hex(8)}"
    missing, until = set(range(1, info.world_size)), time.monotonic() + timeout.total_seconds()
    while missing:
        for rank in sorted(missing):
            if store.check([f"distdl/asks/{rank}"]):  # perhaps of an earlier attempt: then it asks anew
                store.set(f"distdl/answer/{rank}/{store.get(f'distdl/asks/{rank}').decode()}", name)
        missing = {rank for rank in missing if not store.check([f"{name}/has/{rank}"])}
        if missing and time.monotonic() > until:
            raise RuntimeError(f"timeout: rank {min(missing)} has not come")
        time.sleep(_POLL_S if missing else 0)
    return name
