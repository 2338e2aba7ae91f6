"""Where the processes of an MPI job meet: MPI itself tells them, and no MASTER_ADDR has to be given.

`init_process_group(..., init_method="mpi://")`, with this backend or another one; torch's own env:// finds its
variables set.
"""

import os
import secrets
import sys
from collections.abc import Iterator, MutableMapping
from datetime import timedelta
from functools import cache
from typing import Any

import torch.distributed as dist

from distdl.comm import interface, world
from distdl.comm import mpi_library as library
from distdl.errors import UserError
from distdl.net import choose, netlink, port, probe

MPI = library.load()

_LOOPBACK = "127.0.0.1"


def serve(url: str, timeout: timedelta = timedelta(minutes=30), **_: Any) -> Iterator[tuple[dist.Store, int, int]]:
    """For torch.distributed.register_rendezvous_handler. All processes of the world call it alike."""
    comm, info = library.load().COMM_WORLD, world.of_mpi()
    address, store = address_of_rank_0(), None
    if info.rank == 0:
        store = dist.TCPStore(address, 0, info.world_size, is_master=True, timeout=timeout, wait_for_workers=False)
    host, number = comm.bcast((address, store.port) if store else None)
    if store is None:
        store = dist.TCPStore(host, number, info.world_size, is_master=False, timeout=timeout, wait_for_workers=False)
    yield store, info.rank, info.world_size
    raise RuntimeError("mpi:// meets once: the processes of an MPI job stay the same")


@cache
def address_of_rank_0() -> str:
    """The one at which the other hosts find it: each has tried. The first call is one of all processes of the world.

    Raises UserError on all of them if there is none.
    """
    comm, info = library.load().COMM_WORLD, world.of_mpi()
    if comm.allreduce(info.local_rank == 0, MPI.SUM) == 1:
        return _LOOPBACK
    token = comm.bcast(secrets.token_bytes(probe.TOKEN_BYTES))
    own = [str(address) for _, address in choose.candidates(choose.read_machine())] if netlink.is_available() else []
    hosts = comm.allgather((info.host, own) if info.local_rank == 0 else None)
    with probe.Responder(own if info.rank == 0 else [], token, info.rank) as responder:
        targets = {target[0]: target for target in comm.bcast(responder.targets)}
        found = probe.ask_all(targets, token, info.rank) if info.local_rank == 0 and info.rank != 0 else {}
        answered = comm.gather([address for address, answer in found.items() if answer and answer.who == 0])
    address: str | UserError | None = None
    if info.rank == 0:
        others = {rank: host for rank, host in enumerate(hosts) if host and rank != 0}
        names = {rank: name for rank, (name, _) in others.items()}
        tried = probe.verdicts(responder.heard, {rank: answered[rank] for rank in others}, names)
        peers = [address for _, addresses in others.values() for address in addresses if address not in own]
        try:
            address = choose.choose(peers or [choose.ANYWHERE], environment=os.environ, tried=tried).address
        except UserError as error:
            address = error
    chosen = comm.bcast(address)
    if isinstance(chosen, UserError):
        raise chosen
    return str(chosen)


def settle(environment: MutableMapping[str, str] = os.environ) -> None:
    """Sets what torchrun would have set, as far as it is not, for env://, and the interface for gloo and NCCL.

    All processes of the world call it alike.
    """
    comm, info = library.load().COMM_WORLD, world.of_mpi()
    for name in ("rank", "local_rank", "world_size", "local_world_size"):
        environment.setdefault(name.upper(), str(getattr(info, name)))
    first_of_host = [rank for rank, local in enumerate(comm.allgather(info.local_rank)) if local == 0]
    environment.setdefault("GROUP_RANK", str(first_of_host.index(library.first_of_host())))
    address = address_of_rank_0()
    place = (address, str(port.reserve(address))) if info.rank == 0 and "MASTER_ADDR" not in environment else None
    if place := comm.bcast(place):
        environment["MASTER_ADDR"], environment["MASTER_PORT"] = place
    for warning in interface.settle(info, environment):
        if info.local_rank == 0:
            print(f"warning: {info.host}: {warning}", file=sys.stderr)
