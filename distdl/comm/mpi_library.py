"""The MPI library of this process, by mpi4py: started once, or refused with the reason. Free of torch.

mpi4py's wheels serve every MPI, and take the first library that they find. Ranks that are started by one MPI and run
on another each think that they are alone; so the library is the one that belongs to the mpirun that started this
process, which is found among its ancestors.
"""

import os
import sysconfig
import time
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from distdl.comm import mpi_alias, slurm
from distdl.errors import UserError

_OPEN_MPI = ("orterun", "orted", "prterun", "prted", "prte")
_MPICH = ("mpirun", "mpiexec", "mpiexec.hydra", "hydra_pmi_proxy", "hydra_bstrap_proxy", "mpiexec.mpich")
_NAMES = {_OPEN_MPI: ("libmpi.so.40",), _MPICH: ("libmpi.so.12", "libmpich.so.12")}  # the last one is Debian's
_FOLDERS = ("lib", "lib64", "lib/release", f"lib/{sysconfig.get_config_var('MULTIARCH')}")
_LAST_WORDS_S = 1.0
# The variables by which launchers of MPI tell a process that it is one of several.
_LAUNCHERS = {"OMPI_COMM_WORLD_SIZE": "mpirun", "PMI_SIZE": "mpiexec"}
_CHOICE = ("MPI4PY_LIBMPI", "MPI4PY_MPIABI")  # the user's


@cache
def load() -> Any:
    """mpi4py.MPI, started. Raises UserError where it is missing, does not fit its launcher, or can't be shared by
    threads."""
    try:
        import mpi4py
    except ImportError:
        started = started_by(os.environ)
        why = f"{started[0]} started {started[1]} processes, which only MPI can join, and " if started else ""
        raise UserError(
            f"{why}mpi4py is not installed",
            where="MPI",
            fix="pip install 'distdl[mpi]', or start it by `distdl train --nproc N` or torchrun, without MPI.",
        ) from None
    _check_srun(os.environ)
    if not mpi4py.rc.initialize:
        raise UserError("mpi4py.rc.initialize is false", where="MPI", fix="Leave it as it is by default.")
    mpi4py.rc.thread_level = "multiple"
    # Open MPI's: a thread that waits for others gives its core to one of ours that computes, at no cost in latency.
    os.environ.setdefault("OMPI_MCA_mpi_yield_when_idle", "1")
    try:
        if not any(name in os.environ for name in _CHOICE) and (path := of_launcher()):
            _choose(path)
        from mpi4py import MPI
    except (ImportError, RuntimeError, OSError) as error:
        raise UserError(
            f"mpi4py finds no MPI library: {str(error).partition(chr(10))[0]}",
            where="MPI",
            fix="Install one (apt install openmpi-bin, module load openmpi, or pip install 'distdl[mpich]'), or tell "
            "where it is: MPI4PY_LIBMPI=/path/to/libmpi.so.12",
        ) from error
    check(MPI, MPI.COMM_WORLD.Get_size(), os.environ)
    return MPI


def is_started() -> bool:
    return bool(load.cache_info().currsize)


def started_by(environment: Mapping[str, str]) -> tuple[str, int] | None:
    """The launcher of MPI that has started this process among others, and how many there are."""
    if slurm.is_one_of_several(environment):
        return ("srun", int(environment["SLURM_STEP_NUM_TASKS"])) if _has_pmi(environment) else None
    for variable, launcher in _LAUNCHERS.items():
        n = environment.get(variable, "")
        if n.isdigit() and int(n) > 1:
            return launcher, int(n)
    return None


def _has_pmi(environment: Mapping[str, str]) -> bool:
    return any(name.startswith(("PMI_", "PMIX_")) for name in environment)


def of_launcher(proc: Path = Path("/proc")) -> Path | None:
    """The library beside the mpirun that has started this process; None where there is none to be seen."""
    for program in _ancestors(proc):
        for launchers, names in _NAMES.items():
            if program.name in launchers:
                paths = (program.parent.parent / folder / name for name in names for folder in _FOLDERS)
                return next(filter(Path.exists, paths), None)
    return None


def _choose(path: Path) -> None:
    """For mpi4py."""
    family_name = _NAMES[_MPICH][0]
    if path.name in _NAMES[_MPICH] and path.name != family_name:
        mpi_alias.load(path, family_name)
        os.environ["MPI4PY_MPIABI"] = "mpich"
    else:
        os.environ["MPI4PY_LIBMPI"] = str(path)


def _ancestors(proc: Path) -> Iterator[Path]:
    """The programs of this process's parent, its parent, and so on, as far as they can be seen."""
    pid = os.getpid()
    while pid > 1:
        try:
            pid = int((proc / str(pid) / "stat").read_text().rpartition(")")[2].split()[1])
            yield (proc / str(pid) / "exe").readlink()
        except (OSError, IndexError, ValueError):
            return


def check(mpi: Any, size: int, environment: Mapping[str, str]) -> None:
    """Raises UserError unless the library has started all processes that its launcher has, and serves threads.
    `size`: of the world that it knows."""
    version = mpi.Get_library_version().strip("\0\n ").partition("\n")[0].replace("\t", "")
    started = started_by(environment)
    if started and size == 1:
        raise UserError(
            f"{started[0]} started {started[1]} processes, and each would be alone: mpi4py runs on {version}, "
            f"which is not the MPI of this {started[0]}",
            where="MPI",
            fix="Start it by that library's own mpirun (under Slurm: srun --mpi=pmix, or pmi2), or tell mpi4py which "
            "to use: MPI4PY_LIBMPI=/path/to/libmpi.so.12 (MPICH, Intel MPI) or libmpi.so.40 (Open MPI).",
        )
    torchrun = environment.get("WORLD_SIZE", "")
    if torchrun.isdigit() and int(torchrun) != size:
        raise UserError(
            f"WORLD_SIZE says {torchrun} workers, and MPI knows of {size}: they were not started by mpirun",
            where="MPI",
            fix="Start it by mpirun or srun, or by `distdl train --backend mpi`; under torchrun use gloo or nccl.",
        )
    if mpi.Query_thread() < mpi.THREAD_MULTIPLE:
        raise UserError(
            f"{version} does not let several threads call it (MPI_THREAD_MULTIPLE)",
            where="MPI",
            fix="Build it with threads; of Cray's, set MPICH_MAX_THREAD_SAFETY=multiple.",
        )


def _check_srun(environment: Mapping[str, str]) -> None:
    """Before MPI starts: Open MPI would end the process."""
    if slurm.is_one_of_several(environment) and not _has_pmi(environment):
        raise UserError(
            f"srun started {environment['SLURM_STEP_NUM_TASKS']} processes, but not as those of an MPI job",
            where="MPI",
            fix="Say srun --mpi=pmix (Open MPI) or --mpi=pmi2 (MPICH, Intel MPI); srun --mpi=list says what there is. "
            "Without MPI (dist.backend: auto, gloo or nccl) a plain srun will do.",
        )


@cache
def place() -> tuple[int, int, int, int]:
    """Rank and size, of the world and on this host. The first call is one of all processes of the world."""
    mpi = load()
    everyone = mpi.COMM_WORLD
    host = everyone.Split_type(mpi.COMM_TYPE_SHARED)
    found = everyone.Get_rank(), everyone.Get_size(), host.Get_rank(), host.Get_size()
    host.Free()
    return found


@cache
def first_of_host() -> int:
    """The rank of the first process on this host. The first call is one of all of them."""
    mpi = load()
    host = mpi.COMM_WORLD.Split_type(mpi.COMM_TYPE_SHARED)
    rank = int(host.bcast(mpi.COMM_WORLD.Get_rank()))
    host.Free()
    return rank


@cache
def has_a_core_each() -> bool:
    """Whether every process of the world has one. The first call is one of all of them."""
    mpi = load()
    host = mpi.COMM_WORLD.Split_type(mpi.COMM_TYPE_SHARED)
    mine = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    cores = set[int]().union(*host.allgather(list(mine)))
    enough = len(cores) >= host.Get_size()
    host.Free()
    return bool(mpi.COMM_WORLD.allreduce(enough, mpi.LAND))


@cache
def yields() -> bool:
    """Whether a process that waits inside of MPI lets others have its core."""
    name: str = load().Get_library_version()
    return name.startswith("Open MPI")


def abort(code: int) -> None:
    """Ends all processes of the job, whatever they wait for; mpirun's exit code is `code`.

    It waits a moment before: mpirun loses what it has not read of their output, others that have failed alike may be
    writing it down, and whoever watches may have something to say of it.
    """
    time.sleep(_LAST_WORDS_S)
    load().COMM_WORLD.Abort(code)


def finish() -> None:
    """Before the end of a process, if the order matters: all of them wait for each other. Else it is done at exit."""
    if is_started():
        load().Finalize()
