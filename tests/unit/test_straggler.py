"""Which worker makes the others wait, with what, and when that is told."""

import pytest

from distdl.watch import straggler
from distdl.watch.straggler import Spent, Straggler, Teller


def history(compute_s=0.1, input_s=0.0, exchange_s=0.0, unsent=False, unread=False, step_s=1.0, n=20):
    """Of `n` steps, a look at each."""
    return [
        Spent(step * step_s, step, step * compute_s, step * input_s, step * exchange_s, unsent, unread)
        for step in range(n)
    ]


def find(*histories, hosts=("a", "a", "b", "b")):
    return straggler.find([(rank, hosts[rank], each) for rank, each in enumerate(histories)])


@pytest.mark.parametrize(("slow", "cause"), [({"compute_s": 0.9}, "compute"), ({"input_s": 0.8}, "input")])
def test_the_one_that_is_slow_in_something_of_its_own(slow, cause):
    found = find(history(), history(**slow), history())

    assert (found.rank, found.host, found.cause) == (1, "a", cause)
    assert found.cost == pytest.approx(0.8, abs=0.01) and found.step_s == pytest.approx(1.0)


def test_of_two_workers_it_is_the_slower_one():
    assert find(history(), history(compute_s=0.9)).rank == 1


@pytest.mark.parametrize("slow_s", [0.12, 0.2])
def test_a_little_slower_or_cheap_is_not_told(slow_s):
    assert find(history(), history(compute_s=slow_s), history()) is None


def test_a_worker_that_was_seen_too_little_leaves_all_open():
    assert find(history(), history(compute_s=0.9), history(n=3)) is None
    assert find(history(n=1), []) is None


def test_all_equally_slow_is_nobody():
    assert find(history(compute_s=0.9), history(compute_s=0.9)) is None


@pytest.mark.parametrize(("held", "cause"), [("unsent", "send"), ("unread", "receive")])
def test_a_link_of_one_worker(held, cause):
    waiting = history(exchange_s=0.8)

    found = find(waiting, waiting, history(exchange_s=0.8, **{held: True}))

    assert (found.rank, found.cause) == (2, cause) and found.cost == pytest.approx(0.8)


def test_a_link_of_a_host_with_several_workers():
    waiting, held_up = history(exchange_s=0.8), history(exchange_s=0.8, unsent=True)

    assert find(waiting, waiting, held_up, held_up).host == "b"
    assert find(waiting, held_up, held_up, waiting) is None, "two hosts"


def test_full_sockets_that_cost_nothing_are_not_told():
    assert find(history(exchange_s=0.1), history(exchange_s=0.1, unsent=True)) is None


def one(rank=1, cost=0.5, cause="compute"):
    return Straggler(rank, "a", cause, cost, 1.0, 0.1, 1.0)


def test_it_is_told_once_it_lasts_and_again_when_its_cost_changes():
    teller = Teller()

    assert teller.news(one(), 0.0) is None and teller.news(one(), 0.5) is None
    assert teller.news(one(), 1.1) == one()
    assert teller.news(one(cost=0.52), 1.4) is None
    assert teller.news(one(cost=0.7), 1.6) == one(cost=0.7)


def test_it_is_over_when_it_has_not_stood_out_for_long():
    teller = Teller()
    for now in (0.0, 1.1):
        teller.news(one(), now)

    assert teller.news(None, 5.0) is None
    assert teller.news(one(), 6.0) is None, "the same one, still"
    assert teller.news(None, 15.0) is None
    assert teller.news(None, 16.5) == "over"
    assert teller.news(None, 17.0) is None


def test_another_one_takes_its_place_once_it_lasts():
    teller = Teller()
    for now in (0.0, 1.1):
        teller.news(one(), now)

    assert teller.news(one(rank=2), 2.0) is None
    assert teller.news(one(rank=2), 3.1) == one(rank=2)
