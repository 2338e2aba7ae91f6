"""The MPIs that are installed here, and how their mpiruns start processes that don't mind sharing cores."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_OWN = Path(__file__).resolve().parents[1] / ".mpi"  # of `make mpi`
AS_ROOT = {f"{who}_ALLOW_RUN_AS_ROOT{what}": "1" for who in ("OMPI", "PRTE") for what in ("", "_CONFIRM")}


@dataclass(frozen=True, kw_only=True)
class Library:
    name: str
    mpirun: Sequence[str]

    @property
    def is_here(self) -> bool:
        return shutil.which(self.mpirun[0]) is not None


OPEN_MPI = Library(name="Open MPI", mpirun=["mpirun.openmpi", "--oversubscribe", "--bind-to", "none"])
MPICH = Library(name="MPICH wheel", mpirun=[str(_OWN / "mpich/bin/mpirun")])
_FURTHER = [
    Library(
        name="Open MPI wheel",
        mpirun=[str(_OWN / "openmpi/bin/mpirun"), "--map-by", ":OVERSUBSCRIBE", "--bind-to", "none"],
    ),
    Library(name="MPICH", mpirun=["mpirun.mpich"]),
    Library(name="Intel MPI wheel", mpirun=[str(_OWN / "impi/bin/mpiexec.hydra")]),
]


def installed() -> list[Library]:
    return [each for each in (OPEN_MPI, MPICH, *_FURTHER) if each.is_here]


def are_tested() -> bool:
    """Whether those are here that the tests ask for: the others are tested where there are any."""
    return OPEN_MPI.is_here and MPICH.is_here
