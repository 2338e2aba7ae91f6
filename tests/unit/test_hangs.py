"""From a verdict to the records and the last words of a run."""

import pytest
from watched import hands

from distdl.launch import hangs
from distdl.run import failures
from distdl.watch.judge import FIX, Verdict
from distdl.watch.watch import Watch

STACK = """Current thread {thread:#018x} (most recent call first):
  File "/home/me/model.py", line 12 in forward
  File "/home/me/train.py", line 3 in <module>
"""


@pytest.fixture
def watch():
    made = Watch(range(3), 5.0, host="node-a")
    for rank, hand in enumerate(hands(made)):
        hand.step(10 + rank)
    yield made
    made.close()


def stack_of(watch, rank):
    return STACK.format(thread=watch.state_of(rank).thread)


def verdict(cause="not arrived", ranks=(1,)):
    others = ["ranks 0, 2 on node-a: waiting in all_reduce"]
    return Verdict(cause=cause, ranks=list(ranks), what="rank 1 got no further", after_s=5.24, others=others)


def test_who_is_missing_has_the_cause_and_the_others_waited(watch):
    texts = {rank: stack_of(watch, rank) for rank in range(3)}

    records = hangs.records(watch, verdict(), texts, attempt=2)

    assert [record.kind for record in records] == ["peer_lost", "hang", "peer_lost"]
    assert [record.step for record in records] == [10, 11, 12]
    assert {(record.host, record.attempt) for record in records} == {("node-a", 2)}
    assert [record.traceback for record in records] == list(texts.values())
    assert failures.first_cause(records).rank == 1
    assert records[0].message == "waited for it, and was killed"


def test_the_last_words_go_from_where_it_stands_to_what_to_do(watch):
    lines = hangs.told(watch, verdict(), {1: stack_of(watch, 1)}).splitlines()

    assert lines == [
        "rank 1 stands at /home/me/model.py:12 in forward:",
        '  File "/home/me/train.py", line 3, in <module>',
        '  File "/home/me/model.py", line 12, in forward',
        "ranks 0, 2 on node-a: waiting in all_reduce",
        "rank 1 got no further (after 5.2 s; the stacks of all threads are in failures/)",
        f"  {FIX['not arrived']}",
    ]


def test_who_could_not_be_asked_has_no_stack(watch):
    (record,) = [each for each in hangs.records(watch, verdict("disk"), {}, 0) if each.kind == "hang"]

    assert record.traceback == ""
    assert record.message.startswith("ranks 0, 2 on node-a: waiting")


def test_with_nobody_to_blame_one_record_has_the_cause(watch):
    records = hangs.records(watch, verdict("link", ranks=()), {}, 0)

    assert [record.kind for record in records] == ["link", "peer_lost", "peer_lost"]
    assert FIX["link"] in records[0].message


def test_several_are_missing(watch):
    records = hangs.records(watch, verdict(ranks=(1, 2)), {}, 0)

    assert [record.kind for record in records] == ["peer_lost", "hang", "hang"]


def test_the_screen_ends_with_the_verdict(watch):
    cause, *others = sorted(hangs.records(watch, verdict(), {}, 0), key=lambda record: record.kind)

    text = failures.format_cause(cause, others)

    assert text.startswith("rank 1 on node-a hung after step 11; 2 other workers lost their peer because of it:")
    assert text.endswith(FIX["not arrived"])


# --- what libraries only call a broken connection ---


def records_of_an_abort(watch):
    return {
        rank: failures.describe_end(
            rank=rank, exit_code=-6, killed=False, last_lines=[f"gloo of {rank}"], step=None, attempt=1
        )
        for rank in range(3)
    }


def test_workers_that_failed_from_unlike_collectives_are_told_so(watch):
    for rank, hand in enumerate(hands(watch)):
        hand.call(0, 3, "sum of [9]" if rank == 2 else "sum of [5]", "9" if rank == 2 else "5")
    by_rank = records_of_an_abort(watch)

    record = hangs.mismatch(watch, by_rank, attempt=1)

    assert (record.kind, record.rank, record.attempt) == ("mismatched", 2, 1)
    assert record.message.startswith("rank 2 called sum of [9]") and FIX["mismatched"] in record.message
    assert record.traceback == "gloo of 2"
    assert record.time == min(each.time for each in by_rank.values())
    assert failures.first_cause([*by_rank.values(), record]).time == record.time


def test_the_odd_one_out_may_have_left_no_record(watch):
    for rank, hand in enumerate(hands(watch)):
        hand.call(0, 3, f"sum of [{rank == 2}]", str(rank == 2))
    by_rank = {rank: record for rank, record in records_of_an_abort(watch).items() if rank != 2}

    assert hangs.mismatch(watch, by_rank, 1).traceback == ""


def test_workers_that_called_the_same_failed_from_something_else(watch):
    for number, hand in enumerate(hands(watch), 1):
        for _ in range(number):  # one has come further than the other
            hand.call(0, 3, "barrier", "barrier")

    assert hangs.mismatch(watch, records_of_an_abort(watch), 1) is None
