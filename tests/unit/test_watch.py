"""The watch over real processes that tell of themselves; none of them has torch."""

import gc
import itertools
import os
import re
import signal
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from watched import Programs, hands, until

from distdl.watch import facts
from distdl.watch import watch as watching
from distdl.watch.watch import Watch

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="there is no /proc")

STALL_S = 0.4
READY = "import time\npulse.mine.step(3)\npulse.mine.enter('forward')\nprint('ready', flush=True)\n"
CALL = "def meet(name):\n    pulse.mine.wait(pulse.mine.call(0, 2, name, name))\n"
WAITS = READY + CALL + "meet('all_reduce')\ntime.sleep(60)\n"
SLEEPS = READY + "def rest():\n    time.sleep(60)\nrest()\n"
COUNTS = (
    READY
    + """
import itertools, os, signal
for n in itertools.count(4):
    pulse.mine.step(n)
    if n == 7:
        os.kill(os.getpid(), signal.SIGSTOP)
"""
)
STEPS = READY + "while True:\n    pulse.mine.enter('input')\n    pulse.mine.enter('forward')\n    time.sleep(0.01)\n"


@pytest.fixture
def programs(tmp_path):
    made = Programs(tmp_path)
    yield made
    made.close()


@pytest.fixture
def over(programs, monkeypatch):
    """Call it with the workers' texts: their watch, and their pids."""
    monkeypatch.setattr(watching, "_QUESTIONS_S", 0.3)
    made = []

    def start(*texts, stall_s=STALL_S):
        made.append(Watch(range(len(texts)), stall_s, host="node-a"))
        return made[-1], programs.under(made[-1], *texts)

    yield start
    for watch in made:
        watch.close()


def look(watch, pids, ended=()):
    return watch.look(pids, [number in ended for number in range(len(pids))])


def found_by(watch, pids, ended=()):
    return until(lambda: look(watch, pids, ended), 4)


def nothing_found_by(watch, pids, seconds=2 * STALL_S):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        assert look(watch, pids) is None
        time.sleep(0.02)


# --- nobody is missing ---


def test_workers_that_get_on_are_left_alone(over):
    watch, pids = over(STEPS, STEPS)

    nothing_found_by(watch, pids)

    assert [watch.state_of(rank).step for rank in (0, 1)] == [3, 3]
    assert [os.fstat(file).st_size for file in watch._stacks] == [0, 0]  # nobody was asked for anything


def test_workers_in_a_long_phase_are_left_alone(over):
    text = "import time\npulse.mine.enter('save')\nprint('ready', flush=True)\ntime.sleep(60)\n"

    nothing_found_by(*over(text, WAITS))


def test_all_wait_and_bytes_move(over):
    """A slow network: they are asked for their stacks now and then, not in every look."""
    moves = READY + CALL + "meet('all_reduce')\nnull = open('/dev/null', 'wb', buffering=0)\n"
    moves += "while True:\n    null.write(bytes(50_000))\n    time.sleep(0.01)\n"
    watch, pids = over(moves, moves)
    asked = []
    watch.ask = lambda seen, ask=watch.ask: asked.append(time.monotonic()) or ask(seen)

    nothing_found_by(watch, pids, 1.0)

    assert asked and all(later - earlier > 0.2 for earlier, later in itertools.pairwise(asked))


def test_where_nothing_is_to_be_watched_nothing_is(over):
    watch = Watch(range(2), None)

    assert watch.environment(0) == {} and watch.descriptors(0) == ()
    assert watch.look([os.getpid()] * 2, [False] * 2) is None
    watch.close()


# --- one is missing ---


def test_one_that_does_not_arrive_and_where_it_stands(over):
    watch, pids = over(WAITS, SLEEPS)

    verdict, texts = found_by(watch, pids)

    assert (verdict.cause, verdict.ranks) == ("not arrived", [1])
    assert "(it does nothing), in forward" in verdict.what
    assert STALL_S < verdict.after_s < STALL_S + 15
    assert re.fullmatch(r"rank 0 on node-a: waiting in all_reduce, called at 0\.py:\d+", verdict.others[0])
    assert re.fullmatch(r".*/1\.py:\d+ in rest", watch.place_of(1, texts[1]))
    outer, inner = watch.short_stack(1, texts[1]).splitlines()
    assert outer.endswith("in <module>") and inner.endswith("in rest")


def test_one_that_is_busy(over):
    watch, pids = over(WAITS, READY + "while True: pass\n")

    # Again and again, for on a loaded machine it may have had no processor.
    until(lambda: (found := look(watch, pids)) and "(its processor is busy)" in found[0].what, 40)


def test_one_that_holds_the_interpreter(over):
    watch, pids = over(WAITS, READY + "import re\nre.match('(a+)+$', 'a' * 40 + 'b')\n")

    verdict, texts = found_by(watch, pids)

    assert verdict.ranks == [1]
    assert "1.py" in watch.place_of(1, texts[1]) and "in match" in watch.short_stack(1, texts[1])


def test_one_that_is_stopped(over):
    watch, pids = over(WAITS, STEPS)
    os.kill(pids[1], signal.SIGSTOP)

    verdict, texts = found_by(watch, pids)

    assert (verdict.cause, verdict.ranks) == ("stopped", [1])
    assert "1.py" in watch.place_of(1, texts[1])  # it was woken to tell


def test_one_that_is_stopped_is_told_with_the_step_in_which_it_was(over):
    watch, pids = over(WAITS, COUNTS)

    found_by(watch, pids)

    assert watch.state_of(1).step == 7


def test_one_that_gets_no_batch(over):
    watch, pids = over(WAITS, SLEEPS.replace("'forward'", "'input'"))

    assert found_by(watch, pids)[0].cause == "input"


def test_one_that_has_ended(over):
    watch, pids = over(WAITS, READY)
    until(lambda: facts.of(pids[1]).is_gone)

    verdict, texts = found_by(watch, pids, ended=[1])

    assert (verdict.cause, verdict.ranks) == ("ended", [1])
    assert list(texts) == [0]


def test_nothing_gets_through(over):
    verdict, _ = found_by(*over(WAITS, WAITS))

    assert (verdict.cause, verdict.ranks) == ("link", [])


def test_unlike_collectives(over):
    three = "for name in ('first', 'second', 'third'):\n    pulse.mine.call(0, 2, name, name)\n"
    watch, pids = over(
        READY + CALL + three * 2 + "meet('first')\ntime.sleep(60)\n",
        READY + CALL + three * 2 + "meet('second')\ntime.sleep(60)\n",
    )

    verdict, _ = found_by(watch, pids)

    assert (verdict.cause, verdict.ranks) == ("mismatched", [1])
    assert verdict.what.startswith("rank 1 called second, called at 1.py:")
    assert watch.parting().text == verdict.what


def test_one_in_a_collective_of_its_own_waits(over, tmp_path):
    """Its stack shows it: torch's functions, which nobody here tells of."""
    module = tmp_path / "torch" / "distributed" / "distributed_c10d.py"
    module.parent.mkdir(parents=True)
    module.write_text("import time\ndef all_reduce():\n    time.sleep(60)\n")
    own = READY + f"import sys; sys.path.insert(0, {str(module.parent)!r})\nimport distributed_c10d\n"
    own += "def forward():\n    distributed_c10d.all_reduce()\nforward()\n"

    watch, pids = over(own, own, SLEEPS)
    verdict, _ = found_by(watch, pids)

    assert (verdict.cause, verdict.ranks) == ("not arrived", [2])
    assert all("waiting in a collective, called at" in line and "in forward" in line for line in verdict.others)


# --- the watcher itself ---


def test_after_it_was_stopped_itself_it_judges_nobody_for_a_while(over, monkeypatch):
    clock = SimpleNamespace(s=time.monotonic())
    monkeypatch.setattr(watching, "time", SimpleNamespace(monotonic=lambda: clock.s))
    watch, pids = over(WAITS, SLEEPS)
    time.sleep(1.5 * STALL_S)  # it has been missing for long

    clock.s += 5
    assert look(watch, pids) is None
    clock.s += 0.9 * STALL_S
    assert look(watch, pids) is None
    clock.s += 0.2 * STALL_S
    assert look(watch, pids)[0].ranks == [1]


def test_ranks_of_another_host_begin_where_it_says():
    watch = Watch([6, 7], 5.0, host="node-d")

    first, second = hands(watch)
    first.step(1)
    second.step(2)

    assert list(watch.ranks) == [6, 7]
    assert [watch.state_of(rank).step for rank in (6, 7)] == [1, 2]
    watch.close()


def test_nothing_is_left_of_a_watch_that_was_closed():
    def descriptors():
        return len(list(Path("/proc/self/fd").iterdir()))

    gc.collect()  # what tests before this one have left to be closed
    before = descriptors()
    for _ in range(3):
        watch = Watch(range(4), 5.0)
        assert descriptors() > before
        watch.look([os.getpid()] * 4, [False] * 4)
        watch.close()
        del watch
    assert descriptors() == before
