"""Where the processes of an MPI job meet: MPI itself tells them, and no MASTER_ADDR has to be given.

`init_process_group(..., init_method="mpi://")`, with this backend or another one; torch's own env:// finds its
variables set.
"""

import os
import socket
from collections.abc import Iterator, MutableMapping
from datetime import timedelta
from typing import Any

import torch.distributed as dist

from distdl.comm import mpi_library as library
from distdl.net import choose, netlink

_LOOPBACK = "127.0.0.1"


def serve(url: str, timeout: timedelta = timedelta(minutes=30), **_: Any) -> Iterator[tuple[dist.Store, int, int]]:
    """For torch.distributed.register_rendezvous_handler. All processes of the world call it alike."""
    comm, info = library.load().COMM_WORLD, library.world()
    store = None
    if info.rank == 0:
        address = own_address()
        store = dist.TCPStore(address, 0, info.world_size, is_master=True, timeout=timeout, wait_for_workers=False)
    host, port = comm.bcast((address, store.port) if store else None)
    if store is None:
        store = dist.TCPStore(host, port, info.world_size, is_master=False, timeout=timeout, wait_for_workers=False)
    yield store, info.rank, info.world_size
    raise RuntimeError("mpi:// meets once: the processes of an MPI job stay the same")


def own_address() -> str:
    """Of this host, by which the others of the job reach it."""
    info = library.world()
    if info.world_size <= info.local_world_size or not netlink.is_available():
        return _LOOPBACK
    return choose.choose([choose.ANYWHERE], environment=os.environ).address


def settle(environment: MutableMapping[str, str] = os.environ) -> None:
    """Sets what torchrun would have set, as far as it is not, for env://: all processes of the world call it alike."""
    info = library.world()
    for name in ("rank", "local_rank", "world_size", "local_world_size"):
        environment.setdefault(name.upper(), str(getattr(info, name)))
    place = _reserve() if info.rank == 0 and "MASTER_ADDR" not in environment else None
    if place := library.load().COMM_WORLD.bcast(place):
        environment["MASTER_ADDR"], environment["MASTER_PORT"] = place


def _reserve() -> tuple[str, str]:
    """An address and a port that nobody else is given. The store may listen there, for this socket never does."""
    global _reserved
    address = own_address()
    _reserved = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
    _reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    _reserved.bind((address, 0))
    return address, str(_reserved.getsockname()[1])


_reserved: socket.socket | None = None
