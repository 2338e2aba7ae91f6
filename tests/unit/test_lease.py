"""Two launches can't write into one run folder, and a stale one notices that it is stale."""

import errno
import fcntl
import json
import os
import socket
import subprocess
import sys
import time

import pytest

from distdl.errors import UserError
from distdl.run import lease
from distdl.run.folder import RunFolder, create_or_reopen

HOLD = """
import sys
from pathlib import Path
from distdl.run import lease
from distdl.run.folder import RunFolder
with lease.take(RunFolder(Path(sys.argv[1]))):
    print("taken", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def folder(tmp_path) -> RunFolder:
    return create_or_reopen(tmp_path / "run", resume=False)


@pytest.fixture
def other_launch(folder):
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder.path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout.readline() == b"taken\n"
        yield process
        process.kill()


def test_the_file_says_who_holds_it(folder):
    with lease.take(folder) as held:
        content = json.loads(folder.lease.read_text())

    assert (content["host"], content["pid"]) == (socket.gethostname(), os.getpid())
    assert content["fence"] == held.fence
    assert set(content) == {"host", "pid", "boot_id", "time", "command", "fence"}


def test_a_second_launch_is_told_who_holds_the_lease(folder, other_launch):
    with pytest.raises(UserError) as refusal:
        lease.take(folder, wait_s=0.1)

    assert f"pid {other_launch.pid} on {socket.gethostname()} since 2" in str(refusal.value)
    assert f"kill {other_launch.pid}" in refusal.value.fix


def test_a_launch_waits_for_one_that_is_ending(folder, other_launch):
    other_launch.kill()

    lease.take(folder, wait_s=5).close()


def test_the_lease_is_held_until_the_last_process_that_inherited_it_is_gone(folder):
    with lease.take(folder) as held:
        worker = subprocess.Popen(
            [sys.executable, "-c", "input()"],
            pass_fds=[held.fileno()],
            stdin=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
    try:
        with pytest.raises(UserError):
            lease.take(folder, wait_s=0.1)
    finally:
        worker.kill()
        worker.communicate()
    lease.take(folder, wait_s=5).close()


def test_a_worker_that_outlived_its_launcher_is_named_as_the_reason(folder):
    launcher = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, timeout=30)
    with lease.take(folder) as held:
        content = json.loads(folder.lease.read_text()) | {"pid": int(launcher.stdout)}
        folder.lease.write_text(json.dumps(content))

        with pytest.raises(UserError, match="a worker of an earlier launch is still alive") as refusal:
            lease.take(folder, wait_s=0)

    assert held.fence and "fuser" in refusal.value.fix


def test_holder_says_who_holds_it_now_and_does_not_disturb(folder, other_launch):
    assert lease.holder(folder)["pid"] == other_launch.pid
    other_launch.kill()
    other_launch.wait()

    assert lease.holder(folder) is None
    with lease.take(folder, wait_s=0):
        assert lease.holder(folder)["pid"] == os.getpid()


@pytest.fixture
def job(monkeypatch):
    """Call it for the start of a job of Slurm's that this process, and what it starts, belongs to."""

    def set_(number, restarts):
        monkeypatch.setenv("SLURM_JOB_ID", number)
        monkeypatch.setenv("SLURM_RESTART_COUNT", str(restarts))

    return set_


def test_a_job_that_was_queued_again_takes_over_from_its_earlier_start_which_a_lost_node_may_still_run(folder, job):
    job("7", 0)
    earlier = lease.take(folder)
    job("7", 1)

    with lease.take(folder, wait_s=0.1) as later:
        assert lease.still_ours(folder, later.fence)
        assert not lease.still_ours(folder, earlier.fence)
        assert lease.holder(folder)["start"] == 1
        earlier.close()
        assert lease.holder(folder)["start"] == 1
        with pytest.raises(UserError, match="another launch is writing here"):
            lease.take(folder, wait_s=0.1)


@pytest.mark.parametrize("other", [("8", 1), ("7", 0), ("", 3)])
def test_any_other_job_does_not(folder, job, other):
    job("7", 0)
    with lease.take(folder) as held:
        job(*other)

        with pytest.raises(UserError, match="another launch is writing here"):
            lease.take(folder, wait_s=0.1)

        assert lease.still_ours(folder, held.fence)


def test_a_folder_that_was_never_taken_has_no_holder(folder):
    assert lease.holder(folder) is None


def test_a_later_launch_makes_the_earlier_one_stale(folder):
    with lease.take(folder) as first:
        assert lease.still_ours(folder, first.fence)
    with lease.take(folder) as second:
        assert second.fence > first.fence
        assert lease.still_ours(folder, second.fence)
        assert not lease.still_ours(folder, first.fence)


def test_the_fence_grows_when_the_clock_goes_back(folder, monkeypatch):
    with lease.take(folder) as first:
        pass
    monkeypatch.setattr(time, "time", lambda: 0.0)
    with lease.take(folder) as second:
        pass

    assert second.fence == first.fence + 1


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"fence": "x"}', None])
def test_a_damaged_or_deleted_lease_file_gives_no_old_fence_again(folder, damage):
    with lease.take(folder) as first:
        pass
    folder.lease.unlink() if damage is None else folder.lease.write_text(damage)
    assert not lease.still_ours(folder, first.fence)
    time.sleep(0.002)
    with lease.take(folder) as second:
        pass

    assert second.fence > first.fence


def test_without_flock_the_fence_alone_protects_the_run(folder, monkeypatch):
    def no_locks_available(descriptor, operation):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", no_locks_available)
    with lease.take(folder) as first, lease.take(folder, wait_s=0) as second:
        assert lease.holder(folder) is None
        assert not lease.still_ours(folder, first.fence)
        assert lease.still_ours(folder, second.fence)


def test_a_folder_that_cannot_be_written_is_the_users_to_mend(tmp_path):
    with pytest.raises(UserError, match="can't take the lease"):
        lease.take(RunFolder(tmp_path / "missing"))
