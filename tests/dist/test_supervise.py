"""The supervisor from outside: real processes, most of them workers of a few lines that need no torch.

Each worker script reads its place from the environment (RANK, ...) and does what a real one would: writes failure
records, saves on a signal, hangs. `Launch` starts a supervisor over such workers in a process of its own.
"""

import os
import re
import signal
import subprocess
import sys
import textwrap
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from distdl.run import failures, lease
from distdl.run.folder import RunFolder, create_or_reopen

pytestmark = [
    pytest.mark.timeout(60),
    pytest.mark.skipif(sys.platform != "linux", reason="looks for left-over processes in /proc"),
]

SUPERVISOR = """
import sys
from pathlib import Path
from distdl.errors import UserError
from distdl.launch import supervise
from distdl.run import lease
from distdl.run.folder import create_or_reopen

path, worker, nproc, max_restarts = sys.argv[1:]
try:
    folder = create_or_reopen(Path(path), resume=True)
    sys.exit(supervise.run([sys.executable, worker], int(nproc), folder, max_restarts=int(max_restarts),
                           lease=lease.take(folder)))
except UserError as error:
    print(error, file=sys.stderr)
    sys.exit(2)
"""

WORKER = """
from distdl.launch.worker import attempt, fence, tie_to_supervisor
tie_to_supervisor()
import os, signal, subprocess, sys, time
from pathlib import Path
from distdl.errors import PeerLost, UserError
from distdl.run import failures
from distdl.run.folder import RunFolder

rank = int(os.environ["RANK"])
folder = RunFolder(Path(os.environ["DISTDL_RUN_FOLDER"]))

def fail(error, step=None):
    try:
        raise error
    except Exception as raised:
        sys.exit(failures.write(folder, rank, step, raised, attempt()).exit_code)

def save_and_exit_on(number, exit_code):
    signal.signal(number, lambda *_: (print("saved", flush=True), os._exit(exit_code)))

def ready():
    (folder.path / f"ready-{rank}-{attempt()}").touch()

def commit(step):
    checkpoint = folder.checkpoints / f"step-{step:08}"
    checkpoint.mkdir()
    (checkpoint / "manifest.json").write_text("{}")
"""

HANG = """
ready()
time.sleep(100)
"""


class Launch:
    """One supervisor process over `worker` scripts. All its descendants carry `mark` in their environment."""

    def __init__(self, path: Path) -> None:
        self.folder: RunFolder = create_or_reopen(path / "run", resume=True)
        self.mark = f"DISTDL_TEST={uuid.uuid4().hex}"
        self._script = path / "worker.py"
        self._supervisor: subprocess.Popen[bytes] | None = None

    def start(self, worker: str, nproc: int = 2, max_restarts: int = 0) -> subprocess.Popen[bytes]:
        self._script.write_text(WORKER + textwrap.dedent(worker))
        name, value = self.mark.split("=")
        self._supervisor = subprocess.Popen(
            [sys.executable, "-c", SUPERVISOR, str(self.folder.path), str(self._script), str(nproc), str(max_restarts)],
            env={**os.environ, name: value},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        return self._supervisor

    def wait(self) -> tuple[int, str]:
        """The exit code and the screen."""
        assert self._supervisor is not None
        screen, _ = self._supervisor.communicate(timeout=30)
        return self._supervisor.returncode, screen.decode()

    def kill_supervisor(self) -> None:
        """All that it has started has to go with it."""
        assert self._supervisor is not None
        self._supervisor.kill()
        self._supervisor.communicate()
        assert eventually(lambda: self.pids() == [], 2)

    def run(self, worker: str, nproc: int = 2, max_restarts: int = 0) -> tuple[int, str]:
        self.start(worker, nproc, max_restarts)
        return self.wait()

    def is_ready(self, nproc: int = 2, attempt: int = 0) -> bool:
        return all((self.folder.path / f"ready-{rank}-{attempt}").exists() for rank in range(nproc))

    def pids(self, what: str = "") -> list[int]:
        """The live processes of this launch whose command line contains `what`; zombies have no environment."""
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            try:
                environment, command = (process / "environ").read_bytes(), (process / "cmdline").read_bytes()
            except OSError:
                continue
            if self.mark.encode() in environment and what.encode() in command:
                found.append(int(process.name))
        return found

    def log(self, rank: int) -> str:
        return re.sub(r"(?m)^--- .* ---\n", "", self.folder.log(rank).read_text())


@pytest.fixture
def launch(tmp_path) -> Iterator[Launch]:
    launch = Launch(tmp_path)
    yield launch
    left = launch.pids()
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert not left, "processes were left behind"


def eventually(condition: Callable[[], bool], within_s: float) -> bool:
    deadline = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


# --- exit codes ---


@pytest.mark.parametrize(
    ("codes", "exit_code"),
    [
        ([0, 0], 0),
        ([75, 75], 75),
        ([130, 130], 130),
        ([0, 75], 75),
        ([130, 75], 130),
        ([0, 1], 1),
        ([2, 0], 2),
        ([9, 0], 1),
    ],
)
def test_the_exit_codes_of_the_workers_become_one(launch, codes, exit_code):
    assert launch.run(f"sys.exit({codes}[rank])")[0] == exit_code


# --- a failing worker ---


def test_the_first_cause_is_the_last_thing_on_the_screen(launch):
    code, screen = launch.run(
        """
        if rank == 1:
            fail(ValueError("boom"), step=412)
        time.sleep(0.2)
        print("still training", flush=True)
        fail(PeerLost("lost contact"), step=412)
        """,
        nproc=4,
    )

    assert code == 1
    header = re.search(r"rank 1 on \S+ failed at step 412; 3 other workers lost their peer because of it:", screen)
    assert header is not None
    assert "Traceback (most recent call last)" in screen[header.end() :]
    assert screen.endswith("ValueError: boom\n")


def test_a_users_mistake_is_told_without_a_traceback(launch):
    code, screen = launch.run(
        'fail(UserError("unknown key \'lrr\'", where="a.yaml:3", fix="Did you mean lr?"))', max_restarts=3
    )

    assert code == 2
    assert screen.endswith("1 other worker failed alike:\na.yaml:3: unknown key 'lrr'\n  Did you mean lr?\n")
    assert "Traceback" not in screen and "starting again" not in screen


def test_an_echo_that_ends_first_is_not_taken_for_the_cause(launch):
    _, screen = launch.run(
        """
        if rank == 0:
            fail(PeerLost("lost contact"))
        time.sleep(0.5)
        fail(ValueError("boom"))
        """
    )

    assert screen.endswith("ValueError: boom\n")


@pytest.mark.parametrize(
    "deafness", ["signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})", "os.kill(os.getpid(), signal.SIGSTOP)"]
)
def test_a_sibling_that_hears_nothing_is_gone_within_10_s(launch, deafness):
    started = time.monotonic()

    code, screen = launch.run(
        f"""
        if rank == 1:
            fail(ValueError("boom"))
        subprocess.Popen(["sleep", "100"])  # its children go with it
        {deafness}
        time.sleep(100)
        """
    )

    assert (code, screen.splitlines()[-1]) == (1, "ValueError: boom")
    assert time.monotonic() - started < 10
    assert launch.pids() == []


def test_a_killed_worker_is_named_with_its_last_words(launch):
    code, screen = launch.run(
        """
        folder.metrics.write_text('{"kind": "train", "step": 400}\\n')
        print(f"epoch 3 on {rank}", flush=True)
        if rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(0.2)
        fail(PeerLost("lost contact"), step=401)
        """
    )

    assert code == 1
    assert re.search(r"rank 1 on \S+ failed after step 400; 1 other worker lost its peer because of it:", screen)
    assert screen.endswith("epoch 3 on 1\nkilled by SIGKILL, perhaps out of memory\n")
    (echo, killed) = failures.read_all(launch.folder, attempt=0)
    assert (echo.kind, killed.kind, killed.exit_code) == ("peer_lost", "signal", -9)


def test_a_worker_that_dies_before_it_can_record_is_quoted(launch):
    _, screen = launch.run("import no_such_module")

    assert "ModuleNotFoundError: No module named 'no_such_module'\n" in screen[screen.rindex("rank 0 on") :]


def test_a_store_that_does_not_start_is_named(launch, monkeypatch, tmp_path):
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch/__init__.py").write_text("raise ImportError('libtorch_cpu.so: cannot open')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    code, screen = launch.run(HANG)

    assert code == 1
    assert "the rendezvous store on" in screen
    assert "ImportError: libtorch_cpu.so: cannot open" in screen


# --- the end of the supervisor ---


def test_workers_and_store_die_with_a_killed_supervisor(launch):
    launch.start(HANG)
    assert eventually(launch.is_ready, 20)
    assert len(launch.pids("worker.py")) == 3 and len(launch.pids("distdl.comm.store")) == 1  # 3: its own arguments too

    launch.kill_supervisor()


def test_a_fault_in_the_supervisor_leaves_nobody_behind(launch):
    launch.folder.log(1).mkdir()  # it can't be opened as a file

    code, screen = launch.run(HANG)

    assert code == 1 and "IsADirectoryError" in screen
    assert launch.pids() == []


# --- signals ---


def test_ctrl_c_lets_the_workers_save(launch):
    supervisor = launch.start("save_and_exit_on(signal.SIGINT, 130)" + HANG)
    assert eventually(launch.is_ready, 20)

    supervisor.send_signal(signal.SIGINT)

    code, screen = launch.wait()
    assert code == 130
    assert "stopping after this step and saving; press Ctrl-C again to stop at once\n" in screen
    assert "saved\n" in screen and "Traceback" not in screen


def test_a_second_ctrl_c_stops_at_once(launch):
    supervisor = launch.start("signal.signal(signal.SIGINT, signal.SIG_IGN)" + HANG)
    assert eventually(launch.is_ready, 20)

    supervisor.send_signal(signal.SIGINT)
    assert eventually(lambda: b"press Ctrl-C again" in supervisor.stdout.readline(), 5)
    assert supervisor.poll() is None
    supervisor.send_signal(signal.SIGINT)

    assert launch.wait()[0] == 130
    assert launch.pids() == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_stop_signal_reaches_every_worker(launch, number):
    supervisor = launch.start(f"save_and_exit_on(signal.{number.name}, 75)" + HANG)
    assert eventually(launch.is_ready, 20)

    supervisor.send_signal(number)

    assert launch.wait()[0] == 75
    assert [launch.log(rank) for rank in (0, 1)] == ["saved\n", "saved\n"]


def test_a_stop_before_the_workers_listen_is_a_stop_and_no_failure(launch):
    supervisor = launch.start(HANG, max_restarts=3)
    assert eventually(launch.is_ready, 20)

    supervisor.send_signal(signal.SIGTERM)

    code, screen = launch.wait()
    assert code == 75
    assert "there is nothing to save" in screen and "starting again" not in screen


# --- restarts ---


def test_a_failed_attempt_is_started_again(launch):
    code, screen = launch.run(
        """
        print("attempt", attempt(), os.environ["TORCHELASTIC_RESTART_COUNT"], flush=True)
        if attempt() == 0:
            rank == 1 and commit(400)
            fail(ValueError("boom"), step=412) if rank == 1 else time.sleep(100)
        """,
        max_restarts=2,
    )

    assert code == 0
    assert re.search(r"rank 1 on \S+ failed at step 412: ValueError: boom\n", screen)
    assert "starting again from the checkpoint of step 400 (restart 1 of 2)\n" in screen
    assert launch.log(1) == "attempt 0 0\nattempt 1 1\n"
    assert failures.read_all(launch.folder, attempt=1) == []


def test_restarts_end_when_one_made_no_progress(launch):
    code, screen = launch.run('rank or attempt() or commit(400)\nfail(ValueError(f"boom {attempt()}"))', max_restarts=5)

    assert code == 1
    assert "restart 1 of 5" in screen and "restart 2 of 5" not in screen
    assert "not starting again: restart 1 made no checkpoint newer than step 400" in screen
    assert screen.endswith("ValueError: boom 1\n")


def test_restarts_go_on_while_they_make_progress_up_to_their_number(launch):
    code, screen = launch.run(
        """
        rank == 1 and commit(100 * (attempt() + 1))
        fail(ValueError(f"boom {attempt()}")) if rank == 1 else fail(PeerLost("lost contact"))
        """,
        max_restarts=2,
    )

    assert code == 1
    assert "not starting again: that was restart 2 of 2" in screen
    assert screen.endswith("ValueError: boom 2\n")


def test_a_stop_while_a_failure_is_dealt_with_ends_the_restarts(launch):
    supervisor = launch.start(
        """
        if rank == 1:
            fail(ValueError("boom"))
        save_and_exit_on(signal.SIGTERM, 75)
        ready()
        time.sleep(100)
        """,
        max_restarts=5,
    )
    assert eventually(lambda: launch.is_ready(nproc=1), 20)
    assert eventually(lambda: (launch.folder.failures / "rank-1.json").exists(), 20)

    supervisor.send_signal(signal.SIGTERM)

    code, screen = launch.wait()
    assert code == 75
    assert "starting again" not in screen and screen.endswith("ValueError: boom\n")


# --- output ---


def test_rank_0_is_on_the_screen_and_everyone_in_a_log(launch):
    code, screen = launch.run(r"""print(f"hello from {rank}"); print("oops", file=sys.stderr)""")

    assert (code, screen) == (0, "hello from 0\noops\n")
    assert launch.log(1) == "hello from 1\noops\n"
    assert "attempt 0: rank 1 of 2, pid" in launch.folder.log(1).read_text().splitlines()[0]


def test_a_live_line_is_whole_on_the_screen_and_final_in_the_log(launch):
    worker = r"""
        for step in range(3):
            print(f"\rstep {step}", end="", flush=True)
            time.sleep(0.05)
        print("\r\x1b[Kepoch done\nbye", end="")
        """

    _, screen = launch.run(worker, nproc=1)

    assert screen == "\rstep 0\rstep 1\rstep 2\r\x1b[Kepoch done\nbye"
    assert launch.log(0) == "epoch done\nbye\n"


def test_output_is_shown_while_the_worker_runs(launch):
    supervisor = launch.start("print('step 1')" + HANG)

    assert supervisor.stdout.readline() == b"step 1\n"
    launch.kill_supervisor()


def test_a_child_that_holds_the_pipe_open_does_not_hold_up_the_end(launch):
    started = time.monotonic()

    code, screen = launch.run("subprocess.Popen(['sleep', '50'], start_new_session=True); print('done')", nproc=1)

    assert (code, screen) == (0, "done\n")
    assert time.monotonic() - started < 10
    for pid in launch.pids("sleep"):  # it left the worker's session: on purpose, so it isn't the supervisor's to end
        os.kill(pid, signal.SIGKILL)
    assert eventually(lambda: launch.pids() == [], 2)


def test_a_flood_of_output_arrives_whole(launch):
    code, screen = launch.run("for i in range(20000): print(i, 'x' * 40)", nproc=1)

    assert code == 0
    assert screen == launch.log(0) == "".join(f"{i} {'x' * 40}\n" for i in range(20000))


# --- the lease ---


def test_a_second_launch_into_the_same_folder_is_refused(launch, tmp_path):
    launch.start(HANG)
    assert eventually(launch.is_ready, 20)
    second = Launch(tmp_path)

    code, screen = second.run("print('two at once')")

    assert code == 2
    assert "another launch is writing here: pid" in screen and "two at once" not in screen
    assert lease.holder(launch.folder) is not None
    launch.kill_supervisor()


def test_workers_have_the_fence_of_the_lease(launch):
    launch.run("from distdl.run import lease; print(lease.still_ours(folder, fence()))")

    assert launch.log(1) == "True\n"
    assert lease.holder(launch.folder) is None


# --- with torch ---


def test_workers_find_each_other_in_every_attempt(launch):
    worker = """
        import torch, torch.distributed as dist
        dist.init_process_group("gloo", init_method="env://")
        total = torch.ones(1) * (rank + 1)
        dist.all_reduce(total)
        print("sum", total.item(), flush=True)
        dist.barrier()
        if attempt() == 0:
            fail(ValueError("boom")) if rank == 0 else time.sleep(100)
        dist.destroy_process_group()
        """

    code, screen = launch.run(worker, max_restarts=1)

    assert code == 0, screen
    assert launch.log(1).count("sum 3.0\n") == 2
