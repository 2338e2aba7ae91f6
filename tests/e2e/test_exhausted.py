"""Fault: too few open files are allowed, or /dev/shm is full.

Too few files: the run ends within seconds, with an error that names the limit and the way out, and leaves nothing.
Shared memory: a run needs none of /dev/shm, also not for its loader processes; the user's own code may.
"""

import json
import resource
import shutil
import subprocess
import sys
import time

import pytest

pytestmark = pytest.mark.timeout(120)

DISTDL = (sys.executable, "-m", "distdl")
PROCESSES = {"data__worker_type": "process", "data__workers": 8}


def with_open_files(soft: int, hard: int) -> tuple[str, ...]:
    return ("sh", "-c", f'ulimit -Sn {soft} && ulimit -Hn {hard} && exec "$@"', "sh", *DISTDL)


@pytest.mark.parametrize(
    ("n_files", "changes"),
    [(13, {}), (20, {}), (32, {}), (44, PROCESSES)],
    ids=["of the launcher", "of workers that join each other", "of a worker", "of a worker with loader processes"],
)
def test_fault_42_too_few_open_files(place, n_files, changes):
    launcher = with_open_files(n_files, n_files)

    result = place.run("train", place.config(**changes), "--nproc", 2, "--max-restarts", 2, launcher=launcher)

    assert result.code == 2, result.output
    assert result.seconds < 60  # 3 to 5, of imports above all, on a machine that does nothing else
    assert f"out of file descriptors ({n_files} a process by `ulimit -Hn`): " in result.output
    assert "ulimit -n 65536" in result.last_line
    assert "starting again" not in result.output  # it would end alike
    assert place.gone_within(2)


def test_a_low_soft_limit_on_open_files_is_raised(place):
    """Of 1,024 by tradition, while the hard one is higher by far."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    config = place.config(train__steps=3)

    result = place.run("train", config, "--nproc", 2, launcher=with_open_files(32, min(hard, 4096)))

    assert result.code == 0, result.output


@pytest.fixture
def full():
    """What starts a command where /dev/shm is a full tmpfs: in a mount namespace of its own."""
    if shutil.which("unshare") is None or subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode:
        pytest.skip("no mount namespace can be made here")
    fill = "mount -t tmpfs -o size=2m tmpfs /dev/shm && ! head -c 4M /dev/zero 2>/dev/null > /dev/shm/full"
    return ("unshare", "-m", "sh", "-c", f'{fill} && exec "$@"', "sh", *DISTDL)


def test_fault_42_a_full_dev_shm_is_not_missed(place, full):
    config = place.config(**PROCESSES | {"data__workers": 2}, train__steps=3)

    result = place.run("train", config, "--nproc", 2, launcher=full)

    assert result.code == 0, result.output


@pytest.mark.parametrize(
    ("use", "code", "said"),
    [
        ("semaphore", 2, "out of shared memory (/dev/shm has 2 MiB, 0 MiB of them free): OSError: [Errno 28]"),
        ("pages", 1, "killed by SIGBUS: a mapped page could not be had: shared memory is exhausted"),
    ],
    ids=["for a semaphore", "for a mapped file"],
)
def test_fault_42_a_full_dev_shm_that_the_users_own_code_needs(place, full, use, code, said):
    fault = {"rank": 1, "where": "train", "nth": 2, "kill": use, "once": str(place.path / "struck")}
    config = place.config(model__name="faulty:lenet5")

    result = place.run("train", config, "--nproc", 2, launcher=full, FAULT=json.dumps(fault))

    assert result.code == code, result.output
    assert time.time() - (place.path / "struck").stat().st_mtime < 8
    assert said in result.output and "/dev/shm has 2 MiB, 0 MiB of them free" in result.output
    assert "--shm-size" in result.last_line
