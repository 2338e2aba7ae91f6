"""MPI for torch.distributed, on the stock wheels of PyTorch, which have none: a backend over mpi4py.

    import torch.distributed as dist
    import distdl.comm.mpi

    distdl.comm.mpi.init_process_group()  # by mpirun: rank, size and the way to the others are MPI's

It is registered as `distdl_mpi`, and `mpi://` as a way to meet, also for other backends:
`dist.init_process_group("gloo", init_method="mpi://")`. If one process fails by an exception, the whole job ends.
"""

import atexit
import contextlib
import sys
from datetime import timedelta
from types import TracebackType
from typing import Any

import torch.distributed as dist

from distdl.comm import ending
from distdl.comm import mpi_library as library
from distdl.comm.mpi import rendezvous
from distdl.comm.mpi.group import NAME, MPIGroup
from distdl.comm.mpi.work import Line
from distdl.errors import EXIT_BUG

__all__ = ["NAME", "MPIGroup", "init_process_group"]

TIMEOUT = timedelta(minutes=30)
_END = timedelta(seconds=30)


def init_process_group(timeout: timedelta = TIMEOUT, **options: Any) -> None:
    """torch's, by this backend, of all processes that mpirun has started."""
    dist.init_process_group(NAME, init_method="mpi://", timeout=timeout, **options)


def _create(options: Any, backend_options: Any = None) -> MPIGroup:
    """For torch.distributed: all processes of the group call it alike."""
    mpi = library.load()
    ranks = list(options.global_ranks_in_group) or list(range(options.group_size))
    everyone = mpi.COMM_WORLD
    if max(ranks) >= everyone.size or ranks[options.group_rank] != everyone.rank:
        raise RuntimeError(
            f"rank {ranks[options.group_rank]} of torch.distributed is rank {everyone.rank} of {everyone.size} of MPI: "
            "the processes were not started by mpirun, or were given other ranks"
        )
    comm = everyone.Create_group(everyone.group.Incl(ranks))
    return MPIGroup(comm, options.store, options.timeout)


def _leave() -> None:
    """At the end of a process. What it has begun is finished first: a thread that is still inside of torch when the
    interpreter ends would abort it. After a collective that the others did not come to, nor do they now."""
    for line in list(Line.every):
        line.close(_END)
    if any(line.is_broken for line in Line.every):
        ending.without_the_others(EXIT_BUG)


def _end_the_job(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    """MPI's processes wait for each other at their end, and so for ever for one that is stuck with the others."""
    with contextlib.redirect_stderr(sys.__stderr__):  # torch's hook, around this one, would print it afterwards
        _previous_hook(kind, error, traceback)
    ending.without_the_others(EXIT_BUG)


dist.Backend.register_backend(NAME, _create, extended_api=True, devices=["cpu", "cuda"])
dist.register_rendezvous_handler("mpi", rendezvous.serve)
library.has_a_core_each()  # which all processes have to ask at once
_previous_hook = sys.excepthook
if library.place()[1] > 1:
    rendezvous.settle()
    atexit.register(_leave)
    sys.excepthook = _end_the_job
