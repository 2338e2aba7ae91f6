"""What the kernel tells of real processes, and of a /proc that is made up."""

import os
import signal
import subprocess
import sys
import time

import pytest
from watched import Programs, until

from distdl.watch import facts

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="there is no /proc")


@pytest.fixture
def programs(tmp_path):
    made = Programs(tmp_path)
    yield made
    made.close()


def test_one_that_sleeps_is_stopped_and_is_gone(programs):
    pid = programs.start("import time; print('ready', flush=True); time.sleep(60)", attach=False)

    asleep = until(lambda: (seen := facts.of(pid)).state == "S" and seen)
    assert not (asleep.is_stopped or asleep.is_gone or asleep.is_on_disk)

    os.kill(pid, signal.SIGSTOP)
    until(lambda: facts.of(pid).is_stopped)

    os.kill(pid, signal.SIGKILL)
    until(lambda: facts.of(pid).is_gone)  # a zombie: nobody has waited for it


def test_a_process_that_never_was_is_gone():
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()

    assert facts.of(process.pid) == facts.GONE
    assert not facts.catches(process.pid, signal.SIGUSR1)


def test_the_processor_that_it_has_used(programs):
    pid = programs.start("print('ready', flush=True)\nwhile True: pass", attach=False)
    before, began = facts.of(pid).cpu_s, time.monotonic()

    until(lambda: facts.of(pid).cpu_s > before + 0.05)

    assert facts.of(pid).cpu_s - before < 2 * (time.monotonic() - began) + 0.1  # it has one thread


def test_the_bytes_that_went_through_a_socket(programs):
    """Of which gloo's collectives are made."""
    pid = programs.start(
        """
import os, socket, sys
one, other = socket.socketpair()
print("ready", flush=True)
for _ in range(4):
    os.writev(one.fileno(), [bytes(50_000)])
    os.read(other.fileno(), 50_000)
import time; time.sleep(60)
""",
        attach=False,
    )

    until(lambda: facts.of(pid).moved_bytes > 200_000)


def test_a_name_with_blanks_and_brackets_hides_nothing(tmp_path):
    after = " ".join(map(str, ["D", 1, 2, 33, *range(4, 11), 150, 50, *range(13, 50)]))
    (tmp_path / "7").mkdir()
    (tmp_path / "7" / "stat").write_text(f"7 (a) S 1 (b)) {after}")
    (tmp_path / "7" / "io").write_text("rchar: 100\nwchar: 20\nsyscr: 5\nread_bytes: 7\n")

    seen = facts.of(7, tmp_path)

    assert (seen.state, seen.is_on_disk, seen.moved_bytes) == ("D", True, 120)
    assert seen.cpu_s == 200 / os.sysconf("SC_CLK_TCK")
    assert facts.of_session(33, tmp_path) == [7]


def test_where_there_is_no_proc_nobody_is_taken_for_gone(tmp_path):
    seen = facts.of(1, tmp_path / "nothing")

    assert seen == facts.UNKNOWN and not seen.is_gone and not seen.is_stopped


def test_a_process_that_handles_a_signal_catches_it():
    me = os.getpid()
    before = signal.signal(signal.SIGUSR2, signal.SIG_DFL)
    try:
        assert not facts.catches(me, signal.SIGUSR2)
        signal.signal(signal.SIGUSR2, signal.SIG_IGN)
        assert not facts.catches(me, signal.SIGUSR2)
        signal.signal(signal.SIGUSR2, lambda *_: None)
        assert facts.catches(me, signal.SIGUSR2)
    finally:
        signal.signal(signal.SIGUSR2, before)


def test_the_processes_of_a_session():
    text = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(60)'])"
    process = subprocess.Popen([sys.executable, "-c", text], start_new_session=True)
    try:
        both = until(lambda: len(found := facts.of_session(process.pid)) == 2 and found)
        assert process.pid in both and os.getpid() not in both
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
