"""Who am I among the workers: rank and size, from the environment or from MPI. Free of torch; `collectives.join` joins
them."""

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta

from distdl.errors import UserError

# For a worker that hangs; one that is gone is noticed at once. Rank 0 may be indexing a large corpus meanwhile.
TIMEOUT = timedelta(minutes=30)

# Started by one of these and no torchrun-like variables: MPI knows who is who.
_MPI_LAUNCHERS = {"OMPI_COMM_WORLD_SIZE": "mpirun", "PMI_SIZE": "mpiexec", "SLURM_NTASKS": "srun"}


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
    if started_by_mpi(environment):
        from distdl.comm import mpi_library  # which starts MPI

        return mpi_library.world()
    return None


def started_by_mpi(environment: Mapping[str, str]) -> tuple[str, int] | None:
    """The launcher of MPI that has started this process among others, and how many there are."""
    for variable, launcher in _MPI_LAUNCHERS.items():
        n = environment.get(variable, "")
        in_batch_script = variable == "SLURM_NTASKS" and "SLURM_STEP_ID" not in environment
        if n.isdigit() and int(n) > 1 and not in_batch_script:
            return launcher, int(n)
    return None
