"""Workers that an mpirun starts for the supervisor: here a script in its place, which starts them by their ranks."""

import os
import signal
import subprocess
import sys
import time

import pytest

from distdl.errors import UserError
from distdl.launch import mpi_child
from distdl.launch.mpi_job import Launcher, MPIJob, describe, find_launcher

MPIRUN = """#!/bin/sh
test "$1" = -n; n=$2; shift 2
for rank in $(seq 0 $((n - 1))); do FROM_MPIRUN=yes PMI_RANK=$rank "$@" & done
wait
"""


@pytest.fixture
def mpirun(tmp_path):
    path = tmp_path / "bin" / "mpirun"
    path.parent.mkdir()
    path.write_text(MPIRUN)
    path.chmod(0o755)
    return Launcher(path=str(path), name="a script")


@pytest.fixture
def job(mpirun):
    started = MPIJob(mpirun, 2)
    yield started
    started.close()


def start(job, rank, source, changes=None, descriptors=()):
    return job.start(rank, [sys.executable, "-c", source], {**os.environ, **(changes or {})}, descriptors)


def eventually(condition, within_s=10.0):
    until = time.monotonic() + within_s
    while not condition() and time.monotonic() < until:
        time.sleep(0.01)
    return condition()


def test_a_worker_has_its_place_its_environment_and_its_output_goes_to_the_supervisor(job):
    source = "import os; print(*[os.environ[name] for name in ('PMI_RANK', 'FROM_MPIRUN', 'NEW')])"

    workers = [start(job, rank, source, {"NEW": f"told {rank}"}) for rank in (1, 0)]

    assert [worker.wait(30) for worker in workers] == [0, 0]
    assert [worker.stdout.read() for worker in workers] == [b"1 yes told 1\n", b"0 yes told 0\n"]
    for worker in workers:
        worker.stdout.close()


def test_descriptors_keep_their_numbers(job, tmp_path):
    files = [(tmp_path / name).open("w+b") for name in "ab"]
    numbers = [file.fileno() for file in files]
    source = f"import os; [os.write(number, b'%d' % number) for number in {numbers}]"

    worker = start(job, 0, source, descriptors=numbers)
    other = start(job, 1, "")

    assert (worker.wait(30), other.wait(30)) == (0, 0), worker.stdout.read()
    assert [(tmp_path / name).read_text() for name in "ab"] == [str(number) for number in numbers]
    for each in (*files, worker.stdout, other.stdout):
        each.close()


def test_exit_codes_are_those_of_the_workers(job):
    fails, killed = start(job, 0, "raise SystemExit(75)"), start(job, 1, "import time; time.sleep(60)")

    assert fails.wait(30) == 75
    assert not killed.has_ended()
    killed.kill()
    assert killed.wait(30) == -signal.SIGKILL
    for each in (fails, killed):
        each.stdout.close()


def test_what_a_worker_has_started_ends_with_it(job):
    source = "import subprocess; print(subprocess.Popen(['sleep', '60'], stdout=subprocess.DEVNULL).pid)"

    worker, other = start(job, 0, source), start(job, 1, "")

    assert worker.wait(30) == other.wait(30) == 0
    pid = int(worker.stdout.read())
    assert eventually(lambda: not is_running(pid))
    for each in (worker, other):
        each.stdout.close()


def is_running(pid):
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True).stdout
    return bool(state.strip()) and "Z" not in state


def test_workers_end_with_the_job(job):
    workers = [start(job, rank, "import time; time.sleep(60)") for rank in (0, 1)]

    job.close()

    assert eventually(lambda: not any(is_running(worker.pid) for worker in workers))
    for worker in workers:
        worker.stdout.close()


def test_a_worker_whose_child_was_killed_is_killed_as_well(job):
    worker = start(job, 0, "import os, time; print(os.environ['DISTDL_SUPERVISOR_PID'], flush=True); time.sleep(60)")
    other = start(job, 1, "")

    os.kill(int(worker.stdout.readline()), signal.SIGKILL)

    assert worker.wait(30) == -signal.SIGKILL
    assert eventually(lambda: not is_running(worker.pid))
    assert other.wait(30) == 0
    for each in (worker, other):
        each.stdout.close()


def test_an_mpirun_that_ends_before_it_has_started_all_is_told_with_its_last_words(mpirun, tmp_path):
    (tmp_path / "bin/mpirun").write_text("#!/bin/sh\necho not as root >&2; exit 213")
    job = MPIJob(mpirun, 2)

    with pytest.raises(UserError, match=r"bin/mpirun \(a script\) has ended with exit code 213:\n  not as root"):
        start(job, 0, "")

    job.close()


@pytest.mark.parametrize(
    "version, name, options",
    [
        ("mpirun (Open MPI) 4.1.4\n", "Open MPI", ["--oversubscribe", "--bind-to", "none"]),
        ("mpirun (Open MPI) 5.0.11\n", "Open MPI", ["--map-by", ":OVERSUBSCRIBE", "--bind-to", "none"]),
        ("Intel(R) MPI Library for Linux* OS, Version 2021.19\n", "Intel MPI", []),
        ("HYDRA build details:\n    Version: 4.0.2\n", "MPICH", []),
    ],
)
def test_workers_are_neither_counted_nor_bound(version, name, options):
    launcher = describe("/opt/mpirun", version)

    assert launcher.name == name
    assert launcher.command(3) == ["/opt/mpirun", *options, "-n", "3"]


def test_the_mpirun_is_the_first_of_the_path(mpirun, tmp_path):
    assert find_launcher(path=f"/nowhere:{tmp_path}/bin").path == f"{tmp_path}/bin/mpirun"


def test_without_an_mpirun_the_fix_names_one(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))

    with pytest.raises(UserError, match="there is no mpirun here") as caught:
        find_launcher(path=str(tmp_path))

    assert "distdl[mpich]" in caught.value.fix


@pytest.mark.parametrize("name", ["OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK"])
def test_the_rank_is_what_the_mpi_says(name):
    assert mpi_child.rank_of({name: "3", "RANK": "1"}) == 3
