"""The MPI library of a process: the one of the mpirun that has started it, or none, with the reason."""

import ctypes
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from distdl.comm import mpi_alias, mpi_library
from distdl.comm.world import detect
from distdl.errors import UserError

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="of Linux")


def library(thread_level=3):
    return SimpleNamespace(
        Get_library_version=lambda: "MPICH Version:\t5.0.2\nof today\n\0",
        Query_thread=lambda: thread_level,
        THREAD_MULTIPLE=3,
    )


@pytest.mark.parametrize(
    "environment, launcher",
    [
        ({"OMPI_COMM_WORLD_SIZE": "4"}, "mpirun"),
        ({"PMI_SIZE": "4"}, "mpiexec"),
        ({"SLURM_STEP_NUM_TASKS": "4", "SLURM_STEP_ID": "0", "PMIX_RANK": "1"}, "srun"),
    ],
)
def test_processes_that_mpi_does_not_know_of_are_refused_before_each_trains_alone(environment, launcher):
    assert mpi_library.started_by(environment) == (launcher, 4)

    with pytest.raises(UserError, match=f"{launcher} started 4 processes, .* runs on MPICH Version:5.0.2,") as caught:
        mpi_library.check(library(), 1, environment)

    assert "MPI4PY_LIBMPI" in caught.value.fix


def test_processes_that_mpi_knows_of_are_accepted():
    mpi_library.check(library(), 4, {"OMPI_COMM_WORLD_SIZE": "4"})
    mpi_library.check(library(), 4, {"OMPI_COMM_WORLD_SIZE": "4", "WORLD_SIZE": "4"})


def test_processes_of_torchrun_are_refused():
    with pytest.raises(UserError, match="WORLD_SIZE says 2 workers, and MPI knows of 1") as caught:
        mpi_library.check(library(), 1, {"WORLD_SIZE": "2", "RANK": "0"})

    assert "mpirun" in caught.value.fix


def test_a_library_that_threads_may_not_call_is_refused():
    with pytest.raises(UserError, match="MPI_THREAD_MULTIPLE"):
        mpi_library.check(library(thread_level=1), 4, {})


def test_without_mpi4py_it_says_who_has_started_what(monkeypatch):
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    monkeypatch.setattr(os, "environ", {"PMI_SIZE": "3"})

    with pytest.raises(UserError, match="mpiexec started 3 processes, which only MPI can join, and mpi4py") as caught:
        detect({"PMI_SIZE": "3"})

    assert "distdl[mpi]" in caught.value.fix


def test_processes_that_srun_has_not_joined_are_refused_before_mpi_ends_them(monkeypatch):
    pytest.importorskip("mpi4py")
    monkeypatch.setattr(os, "environ", {"SLURM_STEP_NUM_TASKS": "4", "SLURM_STEP_ID": "0"})

    with pytest.raises(UserError, match="srun started 4 processes, but not as those of an MPI job") as caught:
        mpi_library.load()

    assert "srun --mpi=pmix" in caught.value.fix


def process(proc, pid, parent, program):
    (proc / str(pid)).mkdir(parents=True)
    (proc / str(pid) / "stat").write_text(f"{pid} (a (name) R) S {parent} 1 1 0")
    if program:
        (proc / str(pid) / "exe").symlink_to(program)


@pytest.mark.parametrize(
    "launcher, placed, found",
    [
        ("bin/prterun", "lib/libmpi.so.40", "lib/libmpi.so.40"),
        ("bin/orted", "lib64/libmpi.so.40", "lib64/libmpi.so.40"),
        ("bin/hydra_pmi_proxy", "lib/libmpi.so.12", "lib/libmpi.so.12"),
        ("bin/hydra_pmi_proxy", "lib/libmpich.so.12", "lib/libmpich.so.12"),
        ("bin/orterun", "lib/libmpi.so.12", None),  # another MPI's
        ("bin/ssh", "lib/libmpi.so.12", None),
    ],
)
def test_the_library_is_that_beside_the_launcher_among_the_ancestors(tmp_path, launcher, placed, found):
    proc, installed = tmp_path / "proc", tmp_path / "mpi"
    (installed / placed).parent.mkdir(parents=True)
    (installed / placed).touch()
    process(proc, os.getpid(), 20, None)
    process(proc, 20, 10, "/usr/bin/bash")  # a script that mpirun was given
    process(proc, 10, 1, installed / launcher)

    assert mpi_library.of_launcher(proc) == (found and installed / found)


def test_processes_that_cannot_be_seen_are_none_that_has_started_this_one(tmp_path):
    assert mpi_library.of_launcher(tmp_path) is None


@LINUX
def test_a_library_is_loaded_under_a_second_name():
    source = """
import ctypes, pathlib
from distdl.comm import mpi_alias

real = next(line.split()[-1] for line in open("/proc/self/maps") if "/libc.so" in line)
mpi_alias.load(pathlib.Path(real), "libof-another-name.so.7")
print(ctypes.CDLL("libof-another-name.so.7").getpid)
"""
    subprocess.run([sys.executable, "-c", source], check=True, capture_output=True)


@LINUX
def test_a_library_that_is_not_there_gets_no_second_name(tmp_path):
    with pytest.raises(OSError, match="libmissing"):
        mpi_alias.load(tmp_path / "libmissing.so", "libof-another-name.so.8")
    with pytest.raises(OSError):
        ctypes.CDLL("libof-another-name.so.8")
