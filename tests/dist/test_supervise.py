"""The supervisor from outside: real processes, most of them workers of a few lines that need no torch."""

import re
import signal
import sys
import time

import pytest
from launches import HANG, Launch, eventually

from distdl.run import failures, lease

pytestmark = [
    pytest.mark.timeout(60),
    pytest.mark.skipif(sys.platform != "linux", reason="looks for left-over processes in /proc"),
]

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
    assert time.monotonic() - started < 30
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
    assert re.search(r"\nepoch 3 on 1\nkilled by SIGKILL( \(not by the kernel's .*\)|, perhaps out of memory)\n$", screen)
    (echo, killed) = failures.read_all(launch.folder, attempt=0)
    assert (echo.kind, killed.kind, killed.exit_code) == ("peer_lost", "signal", -9)


def test_a_worker_that_dies_before_it_can_record_is_quoted(launch):
    _, screen = launch.run("import no_such_module")

    assert "ModuleNotFoundError: No module named 'no_such_module'\n" in screen[screen.rindex("rank 0 on") :]


# --- the end of the supervisor ---


def test_fault_5_workers_die_with_a_killed_supervisor(launch):
    launch.start(HANG)
    assert eventually(launch.is_ready, 20)
    assert len(launch.pids("worker.py")) == 3  # its own arguments name it, too

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
    assert "starting again from the checkpoint of step 400\n" in screen
    assert launch.log(1) == "attempt 0 0\nattempt 1 1\n"
    assert failures.read_all(launch.folder, attempt=1) == []


def test_fault_39_restarts_without_progress_end_with_the_first_cause(launch):
    worker = """
        rank or attempt() or commit(400)
        fail(ValueError("boom"), step=412) if attempt() < 3 else fail(ValueError("at last another one"), step=413)
        """

    code, screen = launch.run(worker, max_restarts=3)

    assert code == 1
    assert screen.count("starting again from the checkpoint of step 400") == 3
    assert "not starting again: 3 restarts in a row made no checkpoint newer than step 400" in screen
    assert re.search(r"it began with: rank \d on \S+ failed at step 412: ValueError: boom\n", screen)
    assert screen.endswith("ValueError: at last another one\n")


def test_restarts_that_make_progress_are_not_counted(launch):
    code, screen = launch.run(
        """
        rank == 1 and attempt() < 4 and commit(100 * (attempt() + 1))
        fail(ValueError(f"boom {attempt()}")) if rank == 1 else fail(PeerLost("lost contact"))
        """,
        max_restarts=2,
    )

    assert code == 1
    assert screen.count("starting again from") == 5 and "(restart 2 of 2 without progress)" in screen
    assert "not starting again: 2 restarts in a row made no checkpoint newer than step 400" in screen
    assert screen.endswith("ValueError: boom 5\n")


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
        import torch
        from distdl.comm import collectives
        from distdl.comm.world import detect
        collectives.join(detect(), "gloo", torch.device("cpu"))
        total = torch.ones(1) * (rank + 1)
        collectives.sum_(total)
        print("sum", total.item(), flush=True)
        collectives.barrier()
        if attempt() == 0:
            fail(ValueError("boom")) if rank == 0 else time.sleep(100)
        collectives.leave()
        """

    code, screen = launch.run(worker, max_restarts=1)

    assert code == 0, screen
    assert launch.log(1).count("sum 3.0\n") == 2
