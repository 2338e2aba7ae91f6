"""Stacks of real processes, whatever they do, and what is read from them."""

import os
import signal
import sys
from pathlib import Path

import pytest
from watched import Programs, until

from distdl.watch import facts, pulse, stacks
from distdl.watch.stacks import Frame

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="there is no /proc")

# What it does, and the function that its main thread is in then.
DOING = {
    "sleeps": ("import time\ndef rest():\n    time.sleep(60)\nprint('ready', flush=True)\nrest()\n", "rest"),
    "is busy": ("def spin():\n    while True:\n        pass\nprint('ready', flush=True)\nspin()\n", "spin"),
    "holds the interpreter": ("import re\nprint('ready', flush=True)\nre.match('(a+)+$', 'a' * 40 + 'b')\n", "match"),
}
APART = "import threading\ndef apart():\n    threading.Event().wait()\nthreading.Thread(target=apart).start()\n"
DOING["has another thread"] = (APART + DOING["sleeps"][0], "rest")


@pytest.fixture
def programs(tmp_path):
    made = Programs(tmp_path)
    yield made
    made.close()


@pytest.fixture
def start(programs):
    """Call it with a text: (its pid, the descriptor of its stacks, its main thread)."""
    board, file = pulse.Board(1), stacks.new_file()

    def started(text):
        environment = {"DISTDL_PULSE": f"{board.descriptor}:0:{file}"}
        pid = programs.start(text, environment, (board.descriptor, file))
        return pid, file, pulse.read(board.slot(0)).thread

    yield started
    os.close(file)
    board.close()


def stack_of(pid, file, thread):
    os.ftruncate(file, 0)
    assert stacks.ask(pid)
    return stacks.main_thread(stacks.collect({0: file})[0], thread)


# --- of processes ---


@pytest.mark.parametrize("doing", DOING)
def test_the_stack_of_a_process(start, doing):
    text, function = DOING[doing]
    started = start(text)

    frames = until(lambda: (found := stack_of(*started)) and found[0].function == function and found)

    assert frames[-1].function == "<module>" and frames[-1].file.endswith("0.py")
    assert "apart" not in [frame.function for frame in frames]


def test_one_that_is_stopped_is_woken_to_answer(start):
    started = pid, _, _ = start(DOING["sleeps"][0])
    os.kill(pid, signal.SIGSTOP)
    until(lambda: facts.of(pid).is_stopped)

    assert until(lambda: stack_of(*started))[-1].file.endswith("0.py")


def test_one_that_is_stopped_tells_where_it_was_stopped_and_not_where_it_went_next(start):
    text = """
import os, signal, threading
for _ in range(8):
    threading.Thread(target=threading.Event().wait).start()
def stop():
    os.kill(os.getpid(), signal.SIGSTOP)
def spin():
    for _ in range(10_000):
        pass
print("ready", flush=True)
while True:
    stop()
    spin()
"""
    started = pid, _, _ = start(text)

    for _ in range(30):
        until(lambda: facts.of(pid).is_stopped)
        frames = until(lambda: stack_of(*started))
        assert frames[0].function == "stop"


def test_who_answers_goes_on_as_if_nobody_had_asked(start, tmp_path):
    pid, file, _ = start("import time\nprint('ready', flush=True)\ntime.sleep(0.5)\nopen(__file__ + '.done', 'w')\n")

    while not facts.of(pid).is_gone:
        stacks.ask(pid)
        stacks.collect({0: file})

    assert (tmp_path / "0.py.done").exists()


def test_what_it_answered_before_is_not_taken_for_what_it_does_now(start, tmp_path):
    text = f"""
import os, time
def first():
    while not os.path.exists({str(tmp_path / "go")!r}):
        time.sleep(0.005)
def second():
    time.sleep(60)
print("ready", flush=True)
first()
second()
"""
    started = start(text)
    until(lambda: "first" in [frame.function for frame in stack_of(*started)])

    (tmp_path / "go").touch()

    until(lambda: [frame.function for frame in stack_of(*started)][:1] == ["second"])


def test_who_never_said_that_it_answers_is_not_asked_which_would_end_it(programs):
    pid = programs.start(DOING["sleeps"][0], attach=False)

    assert not stacks.ask(pid)
    assert not facts.of(pid).is_gone


def test_one_that_has_ended_is_not_asked(start):
    pid, file, _ = start("print('ready', flush=True)")
    until(lambda: facts.of(pid).is_gone)

    assert not stacks.ask(pid)
    assert stacks.collect({0: file}) == {0: ""}


# --- read ---

DUMP = """Thread 0x00007f0000000001 (most recent call first):
  File "/usr/lib/python3.11/threading.py", line 320 in wait
  File "/home/me/reader.py", line 5 in read

Current thread 0x00007f0000000002 (most recent call first):
  File "/x/lib/python3.11/site-packages/torch/nn/functional.py", line 7 in conv
  File "/home/me/my model.py", line 12 in forward
  File "/x/lib/python3.11/site-packages/torch/nn/module.py", line 1 in __call__
  File "<frozen runpy>", line 88 in _run_code
  File "<string>", line 1 in <module>
"""


def frames_of(*places):
    return [Frame(file, line, "f") for file, line in places]


def test_the_threads_of_a_dump_are_told_apart():
    assert [frame.line for frame in stacks.main_thread(DUMP, 0x7F0000000001)] == [320, 5]
    main = stacks.main_thread(DUMP, 0x7F0000000002)
    assert str(main[1]) == "/home/me/my model.py:12 in forward"
    assert len(main) == 5
    assert stacks.main_thread(DUMP, 0x7F) == [] == stacks.main_thread("", 1)


def test_of_several_dumps_the_last_counts():
    later = DUMP.replace("line 12", "line 99")

    assert [frame.line for frame in stacks.main_thread(DUMP + later, 0x7F0000000002)] == [7, 99, 1, 88, 1]


def test_only_the_innermost_frames_may_be_those_of_libraries():
    main = stacks.main_thread(DUMP, 0x7F0000000002)

    assert [frame.line for frame in stacks.without_libraries(main)] == [7, 12]


def test_where_all_frames_are_those_of_libraries_all_are_told():
    """distdl may be one itself, installed and not from a clone."""
    frames = frames_of(("/x/lib/python3.11/site-packages/distdl/trainer/loop.py", 3), ("<frozen runpy>", 88))

    assert stacks.without_libraries(frames) == frames


def test_the_caller_of_a_collective_of_torch():
    torch = "/x/site-packages/torch/distributed/"
    frames = frames_of((torch + "distributed_c10d.py", 1), (torch + "c10d_logger.py", 2), ("/home/me/train.py", 3))

    assert stacks.in_collective(frames).line == 3
    assert stacks.in_collective(frames[2:]) is None
    assert stacks.in_collective(frames[:2]) is None  # nobody knows who called it


def test_a_reader_looks_for_their_own_code_then_for_what_called_the_library():
    def line(*places):
        return stacks.place(frames_of(*places)).line

    package = str(Path(stacks.__file__).parents[1])
    library, mine = ("/x/site-packages/torch/a.py", 1), ("/home/me/model.py", 2)
    trainer, comm, main = (
        (package + "/trainer/step.py", 3),
        (package + "/comm/sums.py", 4),
        (package + "/__main__.py", 5),
    )

    assert line(library, mine, trainer, main) == 2
    assert line(library, comm, trainer, main) == 3
    assert line(library, main) == 1
    assert stacks.place([]) is None
