"""A run on this machine alone: starts and supervises its workers, which inherit the lease of the run folder."""

import os
import sys
from collections.abc import Sequence

from distdl.launch import supervise
from distdl.launch.mpi_job import find_launcher
from distdl.run.folder import RunFolder
from distdl.run.lease import Lease


def train_locally(
    argv: Sequence[str],
    nproc: int,
    folder: RunFolder,
    lease: Lease,
    *,
    max_restarts: int,
    min_workers: int | None,
    stop_signals: Sequence[str],
    stall_s: float | None,
    is_mpi: bool = False,
) -> int:
    """Runs `distdl *argv` as `nproc` workers and returns the exit code of the run."""
    worker = [sys.executable, "-m", "distdl"]
    return supervise.run(
        [*worker, *argv],
        nproc,
        folder,
        max_restarts=max_restarts,
        min_workers=min_workers,
        rest_s=float(os.environ.get("DISTDL_REST_S", supervise.REST_S)),
        stop_signals=stop_signals,
        lease=lease,
        stall_s=stall_s,
        has_spares=not is_mpi,  # an MPI job's processes are of one start
        mpi=find_launcher() if is_mpi else None,
    )
