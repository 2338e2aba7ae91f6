"""Who is missing, and why: from what can be seen of the workers."""

from dataclasses import replace
from zlib import crc32

import pytest

from distdl.watch import judge
from distdl.watch.facts import GONE, Facts
from distdl.watch.judge import Seen
from distdl.watch.pulse import LONG_PHASES, PHASES, Call, State

STALL_S = 10.0
RUNNING = Facts("S", 1.0, 0)
SUM = "all_reduce of [10] torch.float32 (gradient bucket 0)"


def calls_of(*texts):
    return [
        Call(0, 2, place, place, crc32(text.encode()), text, "exchange.py:210", 60.0)
        for place, text in enumerate(texts, 1)
    ]


def works(rank, for_s=1.0, phase="forward", host="node-a", facts=RUNNING, calls=(SUM,), is_first=False, **seen):
    """A worker that last told anything `for_s` seconds ago, and does not wait for others."""
    told = calls_of(*calls)
    of_state = {name: seen.pop(name) for name in ("is_patient", "longest_s") if name in seen}
    state = State(
        pid=100 + rank,
        attached=True,
        phase=phase,
        beat_age_s=for_s,
        phase_age_s=for_s,
        step=7,
        is_first=is_first,
        waits_in=None,
        waits_s=0.0,
        n_calls=len(told),
        calls=told,
        **of_state,
    )
    return Seen(rank=rank, host=host, state=state, facts=facts, **seen)


def waits(rank, for_s=60.0, **options):
    """A worker that has waited in its last collective for so long."""
    each = works(rank, for_s, **{"phase": "exchange", **options})
    return replace(each, state=replace(each.state, waits_in=each.state.calls[-1], waits_s=for_s))


def ended(rank):
    return works(rank, 60.0, phase="end", facts=GONE, has_ended=True)


def verdict_on(*seen):
    found = judge.judge(seen, STALL_S)
    assert judge.is_stalled(seen, STALL_S) or found is None  # what is judged was found to be stalled before
    return found


# --- nobody ---


@pytest.mark.parametrize(
    "seen",
    [
        [],
        [works(0), works(1)],
        [works(0, for_s=9.9), waits(1, for_s=9.9)],
        [waits(0, for_s=60), works(1, for_s=9.9)],  # it comes late, but not too late
        [waits(0, for_s=9.9), waits(1, for_s=60)],
        [ended(0), ended(1)],
        [ended(0), works(1)],
        [works(0, facts=Facts("T", 0, 0)), works(1)],  # stopped a moment ago
    ],
)
def test_nobody_is_missing(seen):
    assert verdict_on(*seen) is None


@pytest.mark.parametrize(("phase", "times"), [("start", 60), ("evaluate", 20), ("save", 20), ("end", 20)])
def test_in_a_long_phase_one_is_late_later(phase, times):
    assert verdict_on(works(0, for_s=times * STALL_S - 1, phase=phase), waits(1)) is None
    assert verdict_on(works(0, for_s=times * STALL_S + 1, phase=phase), waits(1)).ranks == [0]


def test_who_reads_from_elsewhere_waits_longer_for_its_input():
    assert verdict_on(works(0, for_s=20 * STALL_S - 1, phase="input", is_patient=True), waits(1)) is None
    assert verdict_on(works(0, for_s=20 * STALL_S + 1, phase="input", is_patient=True), waits(1)).cause == "input"
    assert verdict_on(works(0, for_s=STALL_S + 1, phase="forward", is_patient=True), waits(1)).ranks == [0]


def test_a_run_of_long_steps_is_late_by_its_own_pace():
    assert verdict_on(works(0, for_s=3 * 40 - 1, longest_s=40), waits(1)) is None
    assert verdict_on(works(0, for_s=3 * 40 + 1, longest_s=40), waits(1)).ranks == [0]


@pytest.mark.parametrize("phase", [phase for phase in PHASES if phase not in LONG_PHASES])
def test_in_a_first_step_one_is_late_later(phase):
    assert verdict_on(works(0, for_s=20 * STALL_S - 1, phase=phase, is_first=True), waits(1)) is None
    assert verdict_on(works(0, for_s=STALL_S + 1, phase=phase), waits(1)).ranks == [0]


def test_who_waits_for_one_in_a_long_phase_waits_as_long_as_it_takes():
    """Rank 0 saves; to wait for it is not to be late."""
    seen = [works(0, for_s=100, phase="save"), waits(1, for_s=100), waits(2, for_s=100)]

    assert not judge.is_stalled(seen, STALL_S)
    assert verdict_on(*seen) is None


def test_all_wait_but_bytes_move():
    """A slow network: not as long as a long phase may take, though."""
    assert verdict_on(waits(0, has_moved=True), waits(1)) is None
    assert verdict_on(waits(0, 20 * STALL_S + 1, has_moved=True), waits(1, 20 * STALL_S + 1)).cause == "link"


# --- who, and why ---


def test_one_that_is_stopped():
    stopped = Facts("T", 0, 0)

    found = verdict_on(works(0), works(1, 11, facts=stopped), waits(2, 11))

    assert (found.cause, found.ranks) == ("stopped", [1])
    assert found.what == "rank 1 on node-a stopped by a signal (SIGSTOP or alike), in forward"
    assert found.after_s == 11


def test_one_that_is_stopped_is_the_cause_also_if_it_waits_and_others_are_late():
    assert verdict_on(works(0, 12), waits(1, 11, facts=Facts("t", 0, 0))).ranks == [1]


def test_one_whose_input_is_stalled():
    found = verdict_on(works(1, 30, phase="input"), waits(0))

    assert (found.cause, found.ranks) == ("input", [1])
    assert "got no batch for 30.0 s" in found.what


@pytest.mark.parametrize(
    ("facts", "for_s", "phase"),
    [(Facts("D", 0, 0), 30, "input"), (RUNNING, 201, "save")],
    ids=["a wait that nothing interrupts", "a save"],
)
def test_one_that_is_held_up_by_a_disk(facts, for_s, phase):
    found = verdict_on(works(1, for_s, phase=phase, facts=facts), waits(0, 300))

    assert (found.cause, found.ranks) == ("disk", [1])


@pytest.mark.parametrize(("is_busy", "how"), [(True, "its processor is busy"), (False, "it does nothing")])
def test_one_that_has_not_arrived(is_busy, how):
    found = verdict_on(waits(0), works(1, 30, phase="backward", is_busy=is_busy, host="node-b"))

    assert (found.cause, found.ranks) == ("not arrived", [1])
    assert found.what == f"rank 1 on node-b got no further for 30.0 s ({how}), in backward"
    assert found.others == [f"rank 0 on node-a: waiting in {SUM}, called at exchange.py:210"]


def test_where_hosts_do_not_wait_the_one_with_the_fewest_collectives():
    """All are late: their devices wait, and only the order of what was begun tells for whom."""
    found = verdict_on(works(0, 30, calls=[SUM] * 5), works(1, 30, calls=[SUM] * 3), works(2, 30, calls=[SUM] * 5))

    assert found.ranks == [1]


def test_where_hosts_do_not_wait_unlike_collectives_come_first():
    orders = [[SUM, "barrier"], [SUM, "barrier"], [SUM, "all_to_all", SUM]]

    found = verdict_on(*(works(rank, 30, calls=order) for rank, order in enumerate(orders)))

    assert (found.cause, found.ranks) == ("mismatched", [2])


def test_unlike_collectives():
    orders = [[SUM, "barrier"], [SUM, "barrier"], [SUM, "all_to_all"]]

    found = verdict_on(*(waits(rank, 30, calls=order) for rank, order in enumerate(orders)))

    assert (found.cause, found.ranks) == ("mismatched", [2])
    assert found.what.startswith("rank 2 called all_to_all") and found.after_s == 30
    assert found.others == ["ranks 0, 1 on node-a: waiting in barrier, called at exchange.py:210"]


def test_unlike_collectives_in_groups_of_their_own():
    found = verdict_on(*(in_group(rank, 2 if rank == 2 else 1) for rank in range(3)))

    assert (found.cause, found.ranks) == ("mismatched", [2])


def in_group(rank, group):
    """One that waits in the second collective of its life, in a group of three."""
    first = Call(0, 3, 1, 1, 5, SUM, "", 60.0)
    call = Call(group, 3, 1, 2, 6, "barrier", "", 60.0)
    each = waits(rank)
    return replace(each, state=replace(each.state, calls=[first, call], waits_in=call, n_calls=2))


def test_collectives_that_they_call_without_telling_of_it():
    """Of torch, as their stacks show it."""
    alike = [works(rank, 31, own_collective="train.py:12 in forward") for rank in range(2)]
    other = works(2, 30, own_collective="train.py:99 in report")

    assert verdict_on(*alike, other).cause == "mismatched"
    assert verdict_on(*alike).cause == "link"
    assert verdict_on(*alike, works(2, 30)).ranks == [2]


def test_one_that_is_in_a_collective_of_its_own():
    """That no other worker has come to: they wait in one that is told of."""
    found = verdict_on(waits(0, 31), works(1, 31, own_collective="mine.py:12 in report"), waits(2, 31))

    assert (found.cause, found.ranks) == ("mismatched", [1])
    assert found.what.endswith(
        "waiting in a collective that the others have not come to, called at mine.py:12 in report"
    )


def test_one_that_has_ended_while_the_others_wait_for_it():
    found = verdict_on(waits(0), ended(1), waits(2))

    assert (found.cause, found.ranks) == ("ended", [1])
    assert found.others == [f"ranks 0, 2 on node-a: waiting in {SUM}, called at exchange.py:210"]


def test_all_wait_in_the_same_and_nothing_moves():
    found = verdict_on(waits(0, host="node-a"), waits(1, host="node-b"))

    assert (found.cause, found.ranks) == ("link", [])
    assert "the network between node-a and node-b, or a device, is down" in found.what
    assert "the network on node-a, or a device, is down" in verdict_on(waits(0), waits(1)).what


def test_every_verdict_names_the_next_thing_to_do():
    verdicts = [verdict_on(waits(0), works(1, 30)), verdict_on(waits(0), waits(1)), verdict_on(waits(0), ended(1))]

    assert all(each.fix.endswith(("?", ".")) for each in verdicts)
    assert len({each.fix for each in verdicts}) == 3


# --- in words ---


def test_those_that_do_the_same_are_one_line_and_many_are_counted():
    seen = [works(0, 30), *(waits(rank, host="node-b" if rank > 6 else "node-a") for rank in range(1, 9))]

    (line,) = verdict_on(*seen).others

    assert line.startswith("ranks 1, 2, 3, 4, 2 more on node-a and ranks 7, 8 on node-b: waiting in ")


@pytest.mark.parametrize(
    ("phase", "is_first", "words"),
    [
        ("forward", True, "in forward of a first step"),
        ("start", True, "in its start"),
        ("log", False, "in its metrics"),
    ],
)
def test_phases_are_told_in_words(phase, is_first, words):
    found = verdict_on(works(0, 3000, phase=phase, is_first=is_first), waits(1, 3000))

    assert found.what.endswith(words)


def test_silence_alone_is_believed_late():
    """Where all wait alike: a machine may hold up the thread that carries the bytes for seconds."""
    assert verdict_on(waits(0, 3 * STALL_S - 1), waits(1, 3 * STALL_S - 1)) is None
    assert verdict_on(waits(0, 3 * STALL_S + 1), waits(1, 3 * STALL_S + 1)).cause == "link"
