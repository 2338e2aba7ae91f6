"""Who am I among the workers: rank and size, from the environment, from MPI or from Slurm. Free of torch.

`collectives.join` joins them.
"""

import os
import socket
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass, field
from datetime import timedelta
from importlib.util import find_spec

from distdl.comm import mpi_library, slurm, slurm_meeting
from distdl.errors import UserError

# For a worker that hangs; one that is gone is noticed at once. Rank 0 may be indexing a large corpus meanwhile.
TIMEOUT = timedelta(minutes=30)


@dataclass(frozen=True, slots=True, kw_only=True)
class WorldInfo:
    rank: int = 0
    local_rank: int = 0
    world_size: int = 1
    local_world_size: int = 1
    host: str = field(default_factory=socket.gethostname)


def detect(environment: MutableMapping[str, str] = os.environ, backend: str | None = None) -> WorldInfo | None:
    """The place that torchrun's variables give this process, else MPI, else Slurm; None if it isn't a worker.

    Of several tasks of a step of Slurm's it sets torchrun's variables, once they have met: each calls it alike.
    `backend`: that is asked for. Raises UserError if they clash, or if MPI does not know the others that its launcher
    has started.
    """
    if not {"RANK", "WORLD_SIZE"} <= environment.keys():
        if _is_for_mpi(environment, backend):
            return of_mpi()
        if not slurm.is_one_of_several(environment):
            return None
        slurm_meeting.settle(environment)
    try:
        rank, world_size = int(environment["RANK"]), int(environment["WORLD_SIZE"])
        local_rank = int(environment.get("LOCAL_RANK", "0"))
        local_world_size = int(environment.get("LOCAL_WORLD_SIZE", str(world_size)))
    except ValueError as error:
        raise UserError(f"not a number: {error}", where="environment RANK, WORLD_SIZE, LOCAL_RANK") from None
    if not 0 <= rank < world_size:
        raise UserError(f"rank {rank} of {world_size} workers", where="environment RANK, WORLD_SIZE")
    return WorldInfo(rank=rank, local_rank=local_rank, world_size=world_size, local_world_size=local_world_size)


def _is_for_mpi(environment: Mapping[str, str], backend: str | None) -> bool:
    """srun starts processes of MPI where its administrators have said so, also those that want nothing of it."""
    started = mpi_library.started_by(environment)
    if started and started[0] == "srun":
        return backend == "mpi" or (backend in (None, "auto") and find_spec("mpi4py") is not None)
    return started is not None


def of_mpi() -> WorldInfo:
    """The place that MPI gives this process, which starts it. The first call is one of all its processes."""
    rank, size, local_rank, local_size = mpi_library.place()
    return WorldInfo(rank=rank, world_size=size, local_rank=local_rank, local_world_size=local_size)
