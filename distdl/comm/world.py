"""Who am I among the workers: rank and size, from the environment or from MPI. Free of torch; `collectives.join` joins
them."""

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta

from distdl.comm import mpi_library
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


def detect(environment: Mapping[str, str] = os.environ) -> WorldInfo | None:
    """The place that torchrun's variables give this process, else MPI, or None if it isn't a worker.

    Raises UserError if they clash, or if MPI does not know the others that its launcher has started.
    """
    if "RANK" in environment and "WORLD_SIZE" in environment:
        try:
            rank, world_size = int(environment["RANK"]), int(environment["WORLD_SIZE"])
            local_rank = int(environment.get("LOCAL_RANK", "0"))
            local_world_size = int(environment.get("LOCAL_WORLD_SIZE", str(world_size)))
        except ValueError as error:
            raise UserError(f"not a number: {error}", where="environment RANK, WORLD_SIZE, LOCAL_RANK") from None
        if not 0 <= rank < world_size:
            raise UserError(f"rank {rank} of {world_size} workers", where="environment RANK, WORLD_SIZE")
        return WorldInfo(rank=rank, local_rank=local_rank, world_size=world_size, local_world_size=local_world_size)
    return of_mpi() if mpi_library.started_by(environment) else None


def of_mpi() -> WorldInfo:
    """The place that MPI gives this process, which starts it. The first call is one of all its processes."""
    rank, size, local_rank, local_size = mpi_library.place()
    return WorldInfo(rank=rank, world_size=size, local_rank=local_rank, local_world_size=local_size)
