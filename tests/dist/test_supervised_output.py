"""What workers under the supervisor print: on the screen, and in a log for each."""

import os
import signal
import sys
import time

import pytest
from launches import HANG, eventually

pytestmark = [
    pytest.mark.timeout(60),
    pytest.mark.skipif(sys.platform != "linux", reason="looks for left-over processes in /proc"),
]

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
    assert time.monotonic() - started < 30
    for pid in launch.pids("sleep"):  # it left the worker's session: on purpose, so it isn't the supervisor's to end
        os.kill(pid, signal.SIGKILL)
    assert eventually(lambda: launch.pids() == [], 2)


def test_a_flood_of_output_arrives_whole(launch):
    code, screen = launch.run("for i in range(20000): print(i, 'x' * 40)", nproc=1)

    assert code == 0
    assert screen == launch.log(0) == "".join(f"{i} {'x' * 40}\n" for i in range(20000))
