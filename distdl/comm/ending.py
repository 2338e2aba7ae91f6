"""The end of a worker that has failed."""

import os
import sys
from typing import NoReturn

from distdl.comm import mpi_library
from distdl.launch import worker
from distdl.watch import pulse


def without_the_others(code: int) -> NoReturn:
    """Of this process, at once: they may be stuck in a collective with it.

    Under an mpirun that nobody supervises it is the end of the whole job: MPI's processes wait for each other.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    if mpi_library.is_started() and not worker.is_supervised():
        pulse.mine.enter("failed")  # so that the watch tells what it knows of it, while it can
        mpi_library.abort(code)
    os._exit(code)
