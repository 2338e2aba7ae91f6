"""The harness of this folder: its workers start, are as good as processes of their own, and none outlives its session."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from itertools import combinations
from pathlib import Path

import fork_server
import pytest
import spawn
from spawn import CaseFailed, Workers

pytestmark = [
    pytest.mark.timeout(60),
    pytest.mark.skipif(sys.platform != "linux", reason="looks at processes in /proc"),
]

SESSION = """
import json, os, signal
import fork_server

server = fork_server.running()
workers = [server.fork({**os.environ, "RANK": "0", "WORLD_SIZE": "1", "TIMEOUT_S": "9"}) for _ in range(2)]
busy, stopped = workers
for worker in workers:
    worker.calls.recv_bytes()
busy.calls.send_bytes(json.dumps({"case": "sleep", "arguments": {}, "deadline_s": 1000}).encode())
os.kill(stopped.pid, signal.SIGSTOP)
print(server.pid, busy.pid, stopped.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def is_gone(pid: int) -> bool:
    try:
        return not Path(f"/proc/{pid}/cmdline").read_bytes()  # a zombie has none
    except OSError:
        return True


def files_of(pid: int) -> set[str]:
    """Pipes, sockets and logs that a process holds open, by names that tell them apart."""
    held = {os.readlink(link) for link in Path(f"/proc/{pid}/fd").iterdir()}
    return {name for name in held if re.match(r"pipe:|socket:|.*\(deleted\)", name)}


@pytest.fixture
def two():
    with Workers(2) as workers:
        workers.run("sum_of_ranks")
        yield workers


def test_eight_workers_start():
    with Workers(8) as eight:
        assert eight.run("sum_of_ranks") == [[[36, 36, 36], [4, 4]]] * 8


def test_workers_are_as_good_as_processes_of_their_own(two):
    first, second = two.run("own_state")

    assert [first["rank"], second["rank"]] == ["0", "1"]
    assert [draw for draw in first["draws"] if draw in second["draws"]] == []
    assert first["ends at ctrl-c"] and second["ends at ctrl-c"]


def test_no_process_holds_anothers_connection_or_log_open(two):
    held = [files_of(pid) for pid in (*two.pids, fork_server.running().pid)]

    assert all(held)
    for some, others in combinations(held, 2):
        assert some & others == set()


def test_the_server_has_one_thread_when_it_forks(two):
    assert len(list(Path(f"/proc/{fork_server.running().pid}/task").iterdir())) == 1


# --- failures ---


def test_a_worker_that_is_killed_in_a_case_is_reported(two):
    threading.Timer(0.2, os.kill, [two.pids[1], signal.SIGKILL]).start()

    with pytest.raises(CaseFailed, match="rank 1: this process has ended") as caught:
        two.run("hang")

    assert "PeerLost" in str(caught.value)  # rank 0 had the time to say what it saw


def test_a_worker_that_is_killed_between_cases_is_reported_and_others_are_started(two):
    os.kill(two.pids[1], signal.SIGKILL)

    with pytest.raises(CaseFailed, match="rank 1: this process has ended"):
        two.run("sum_of_ranks")

    assert two.run("sum_of_ranks") == [[[3, 3, 3], [1, 1]]] * 2


def test_a_worker_that_is_stopped_is_reported_and_ended(two, monkeypatch):
    monkeypatch.setattr(spawn, "GRACE_S", 0.5)
    pids = two.pids
    os.kill(pids[1], signal.SIGSTOP)

    with pytest.raises(CaseFailed, match="rank 1: no answer"):
        two.run("sum_of_ranks", deadline_s=0.5)

    assert all(map(is_gone, pids)) and two.pids == []


def test_what_a_worker_printed_before_it_was_killed_is_in_the_report(two):
    with pytest.raises(CaseFailed, match=r"(?s)rank 1: this process has ended\nlast words"):
        two.run("print_and_die")


# --- ends ---


def test_nothing_is_left_of_workers_that_are_closed(two):
    pids = two.pids
    two.close()

    assert len(pids) == 2 and all(map(is_gone, pids))


def test_all_processes_die_with_their_session():
    session = subprocess.run([sys.executable, "-c", SESSION], cwd=Path(__file__).parent, capture_output=True, text=True)

    assert session.returncode == -signal.SIGKILL, session.stderr
    pids = list(map(int, session.stdout.split()))
    until = time.monotonic() + 5
    while time.monotonic() < until and not all(map(is_gone, pids)):
        time.sleep(0.01)
    assert [pid for pid in pids if not is_gone(pid)] == []
