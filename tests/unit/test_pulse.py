"""What a worker tells of itself, as another process reads it."""

import inspect
import os
import time
from types import SimpleNamespace
from zlib import crc32

import pytest
from watched import Programs, hand

from distdl.watch import pulse
from distdl.watch.pulse import N_CALLS_KEPT, Board


@pytest.fixture
def board():
    made = Board(2)
    for number in range(2):
        pulse.prepare(made.slot(number))
    yield made
    made.close()


@pytest.fixture
def mine(board):
    return hand(board.descriptor)


@pytest.fixture
def clock(monkeypatch):
    """Of the pulse; `clock.s` may be moved on."""
    clock = SimpleNamespace(s=100.0)
    monkeypatch.setattr(pulse, "time", SimpleNamespace(monotonic_ns=lambda: int(clock.s * 1e9)))
    return clock


def state_of(board, number=0):
    return pulse.read(board.slot(number))


# --- phases and steps ---


def test_a_worker_that_was_only_prepared_is_in_its_start(board):
    state = state_of(board)

    assert not state.attached
    assert (state.phase, state.step, state.is_first, state.is_long) == ("start", None, True, True)
    assert state.beat_age_s < 5  # and not since the machine was started
    assert state.calls == [] and state.waits_in is None


def test_a_worker_tells_who_it_is_in_its_own_slot_alone(board):
    hand(board.descriptor, 1).enter("input")

    assert not state_of(board, 0).attached
    assert state_of(board, 1).attached and state_of(board, 1).pid == os.getpid()
    assert state_of(board, 1).phase == "input"


def test_phases_and_the_seconds_spent_in_them(board, clock):
    mine = hand(board.descriptor)
    for phase, seconds in [("input", 2.0), ("forward", 0.5), ("input", 3.0), ("backward", 0.25)]:
        mine.enter(phase)
        clock.s += seconds

    state = state_of(board)
    assert (state.phase, state.phase_age_s, state.beat_age_s) == ("backward", 0.25, 0.25)
    spent = {name: seconds for name, seconds in state.spent_s.items() if seconds}
    assert spent == {"input": 5.0, "forward": 0.5}  # without the phase that it is in


def test_a_phase_within_another_one_ends_with_it_also_by_an_error(board, mine):
    mine.enter("log")
    with pytest.raises(KeyError), mine.phase("evaluate"):
        assert state_of(board).phase == "evaluate"
        raise KeyError

    assert state_of(board).phase == "log"


def test_a_beat_is_progress_within_a_phase(board, clock):
    mine = hand(board.descriptor)
    mine.enter("evaluate")
    clock.s += 9
    assert state_of(board).beat_age_s == 9

    mine.beat()

    assert (state_of(board).beat_age_s, state_of(board).phase_age_s) == (0, 9)


def test_steps_and_which_of_them_may_take_long(board, mine):
    mine.enter("forward")
    mine.step(0, is_first=True)
    assert (state_of(board).step, state_of(board).is_long) == (0, True)

    mine.step(1)
    assert (state_of(board).step, state_of(board).is_long) == (1, False)

    for phase in ("start", "evaluate", "save", "end"):
        mine.enter(phase)
        assert state_of(board).is_long


# --- collectives ---


def test_a_collective_has_its_text_its_key_and_the_line_that_called_it(board, mine):
    number = mine.call(7, 2, "all_reduce of [10] torch.float32 (counts)", "all_reduce")
    line = inspect.currentframe().f_lineno - 1

    (call,) = state_of(board).calls
    assert number == state_of(board).n_calls == 1
    assert (call.group, call.size, call.text) == (7, 2, "all_reduce of [10] torch.float32 (counts)")
    assert call.key == crc32(b"all_reduce")
    assert call.line == f"test_pulse.py:{line}"
    assert str(call) == f"all_reduce of [10] torch.float32 (counts), called at test_pulse.py:{line}"


@pytest.mark.parametrize(("folder", "is_told"), [("project/torch", True), ("lib/site-packages/torch", False)])
def test_the_line_is_that_of_who_called_it_not_of_what_passes_it_on(board, mine, folder, is_told):
    """`torch` may also be a folder of the user's own."""
    source = "def call(mine):\n    mine.call(0, 2, 'barrier', 'barrier')\n"
    called: dict = {}
    exec(compile(source, f"/home/somebody/{folder}/passing.py", "exec"), called)

    called["call"](mine)

    assert (state_of(board).calls[0].line == "passing.py:2") is is_told


def test_a_long_text_leaves_room_for_the_line(board, mine):
    mine.call(0, 2, "all_reduce of " + "x" * 1000, "")

    (call,) = state_of(board).calls
    assert call.text.startswith("all_reduce of xxx") and len(call.text) > 200
    assert call.line.startswith("test_pulse.py:")


def test_places_count_in_each_group_and_in_groups_of_a_size(board, mine):
    for group, size in [(1, 2), (5, 4), (2, 2), (1, 2)]:
        mine.call(group, size, "barrier", "")

    assert [call.place for call in state_of(board).calls] == [1, 1, 1, 2]
    assert [call.place_in_size for call in state_of(board).calls] == [1, 1, 2, 3]


def test_the_last_collectives_are_kept_in_their_order(board, mine):
    for number in range(1, 201):
        mine.call(0, 2, f"call {number}", "")

    calls = state_of(board).calls
    assert len(calls) == N_CALLS_KEPT - 1  # the oldest may be about to be overwritten
    assert [call.text for call in calls] == [f"call {number}" for number in range(138, 201)]
    assert [call.place for call in calls] == list(range(138, 201))


def test_it_waits_for_a_collective_until_it_goes_on(board, clock):
    mine = hand(board.descriptor)
    first, _ = (mine.call(0, 2, text, "") for text in ("first", "second"))
    mine.wait(first)
    clock.s += 4

    assert (state_of(board).waits_in.text, state_of(board).waits_s) == ("first", 4)

    mine.go_on()
    assert (state_of(board).waits_in, state_of(board).waits_s, state_of(board).beat_age_s) == (None, 0, 0)

    mine.wait()  # for all so far
    assert state_of(board).waits_in.text == "second"


def test_it_waits_also_for_a_collective_that_many_others_came_after(board, mine):
    """Or it would count as one that the others wait for."""
    first = mine.call(0, 2, "first", "")
    for _ in range(100):
        mine.call(0, 2, "more", "")
    mine.wait(first)

    assert state_of(board).waits_in is not None


def test_a_slot_that_is_read_while_it_is_written_shows_no_mixed_calls(board, tmp_path):
    programs = Programs(tmp_path)
    text = """
print("ready", flush=True)
number = 0
while True:
    number += 1
    pulse.mine.call(0, 2, f"call {number}", f"call {number}")
    if number % 50 == 0:  # now and then the reader comes through
        import time; time.sleep(0.0005)
"""
    try:
        programs.start(text, {"DISTDL_PULSE": f"{board.descriptor}:0:2"}, (board.descriptor,))
        until, n_seen = time.monotonic() + 0.5, 0
        while time.monotonic() < until:
            calls = state_of(board).calls
            assert [call.text for call in calls] == [f"call {call.place}" for call in calls]
            assert [call.key for call in calls] == [crc32(call.text.encode()) for call in calls]
            assert [call.place for call in calls] == sorted(call.place for call in calls)
            n_seen += len(calls)
    finally:
        programs.close()
    assert n_seen > 1000


# --- where nobody watches ---


def test_what_nobody_watches_may_be_told_all_the_same():
    silent = pulse.Silent()

    silent.enter("input")
    silent.step(3, is_first=True)
    with silent.phase("save"):
        silent.beat()
    silent.wait(silent.call(0, 2, "barrier", ""))
    silent.go_on()


def test_every_hand_has_the_same_methods():
    names = {name for name in vars(pulse.Pulse) if not name.startswith("_")}

    assert names == {name for name in vars(pulse.Silent) if not name.startswith("_")}
