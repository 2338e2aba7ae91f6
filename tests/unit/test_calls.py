"""Where the workers' orders of collectives part, and whose fault it is."""

from zlib import crc32

import pytest

from distdl.watch import calls
from distdl.watch.pulse import Call

A, B, C = (f"all_reduce of [{size}] torch.float32 ({name})" for size, name in [(10, "a"), (20, "b"), (30, "c")])
LINES = {A: "model.py:1", B: "model.py:2", C: "model.py:3"}


def told(*texts, group=0, size=2, first=1, age_s=1.0):
    """A worker's calls in one group, the first of them at the place `first`."""
    return [
        Call(group, size, place, place, crc32(text.encode()), text, LINES.get(text, ""), age_s)
        for place, text in enumerate(texts, first)
    ]


STEPS = [A, B, C] * 2  # what all have called before


def parting_of(*orders, before=STEPS):
    """Of the workers that called this in one group, after what all have called alike."""
    return calls.find({rank: told(*before, *order, size=len(orders)) for rank, order in enumerate(orders)})


# --- none ---


@pytest.mark.parametrize(
    "orders",
    [
        [[A, B, C], [A, B, C]],
        [[A, B, C], [A]],  # one has not come as far
        [[], [A, B], [A]],
        [[]],
    ],
)
def test_alike_as_far_as_they_have_come_is_no_parting(orders):
    assert parting_of(*orders) is None


def test_nobody_has_called_anything():
    assert calls.find({0: [], 1: []}) is None
    assert calls.find({}) is None


def test_calls_that_are_no_longer_kept_are_not_compared():
    assert calls.find({0: told(A, B), 1: told(C, A, first=101)}) is None


def test_each_group_has_an_order_of_its_own():
    """Two pairs of workers, and what the leaders of both call."""
    of_leaders = told(C, C, group=3)
    by_rank = {
        0: [*told(A, group=1), *of_leaders, *told(B, group=1, first=2)],
        1: told(A, B, group=1),
        2: [*of_leaders, *told(B, A, group=2)],
        3: told(B, A, group=2),
    }

    assert calls.find(by_rank) is None


# --- who ---


@pytest.mark.parametrize("odd", [0, 1, 2])
@pytest.mark.parametrize(
    ("other_order", "how"),
    [
        ([A, C], "it left one out"),
        ([A, A, B], "it called one more, or another one"),
        ([A, "barrier", B, C], "it called one more, or another one"),
        ([A, C, B], "it calls them in another order"),
        ([A, B.replace("20", "27")], "the shapes or dtypes differ"),
        ([A, B.replace("float32", "float64")], "the shapes or dtypes differ"),
    ],
)
def test_the_one_that_differs_from_most(odd, other_order, how):
    orders = [[A, B, C]] * 3
    orders[odd] = other_order

    parting = parting_of(*orders)

    assert (parting.ranks, parting.is_known) == ([odd], True)
    others = " and ".join(str(rank) for rank in range(3) if rank != odd).replace(" and", ",")
    assert parting.text.startswith(f"rank {odd} called {other_order[1]}")
    assert f", where ranks {others} called {B}, called at model.py:2: " in parting.text
    assert how in parting.text


@pytest.mark.parametrize("odd", [0, 1])
@pytest.mark.parametrize("other_order", [[A, C], [A, "barrier"], [A, C, B], [A, B.replace("20", "27")]])
def test_of_two_the_one_that_did_not_do_what_once_followed(odd, other_order):
    orders = [[A, B], [A, B]]
    orders[odd] = other_order

    parting = parting_of(*orders)

    assert (parting.ranks, parting.is_known) == ([odd], True)
    assert f"where rank {1 - odd} called {B}" in parting.text


def test_of_two_that_have_called_nothing_alike_nobody_is_to_blame():
    parting = calls.find({0: told(A), 1: told(B)})

    assert (parting.ranks, parting.is_known) == ([0, 1], False)
    assert parting.text.startswith("the workers called unlike collectives: rank 0 called ")
    assert A in parting.text and B in parting.text


def test_of_two_pairs_that_do_not_agree_what_once_followed_decides():
    parting = parting_of([A, B], [A, C], [A, B], [A, C])

    assert parting.ranks == [1, 3]


def test_where_the_others_still_wait_the_steps_before_tell_what_was_left_out():
    """They got no further than the call that it left out: what follows there is known from the step before."""
    parting = parting_of([A, B], [A, B], [A, C])

    assert parting.ranks == [2]
    assert parting.text.endswith("it left one out, or has another order")


def test_calls_without_a_name_in_another_order_are_not_taken_for_other_shapes():
    first, second = "all_reduce of [10] torch.float32", "all_reduce of [20] torch.float32"

    parting = parting_of([first, second], [first, second], [second, first], before=[first, second, C] * 2)

    assert parting.ranks == [2]
    assert parting.text.endswith("it calls them in another order")


def test_the_first_place_where_they_differ_counts():
    parting = parting_of([A, B, C], [A, B, C], [A, C, "barrier"])

    assert f"rank 2 called {C}" in parting.text


def test_of_several_groups_the_oldest_parting_counts():
    by_rank = {
        rank: [*told(A if rank else B, group=1, size=3, age_s=2.0), *told(C if rank else B, group=2, size=3, age_s=9.0)]
        for rank in range(3)
    }

    parting = calls.find(by_rank)

    assert parting.ranks == [0] and f"called {C}" in parting.text


def test_many_workers_are_counted_not_listed():
    parting = parting_of(*[[A, B]] * 9, [A, C])

    assert "where ranks 0, 1, 2, 3 and 5 more called" in parting.text


# --- across groups ---


def test_who_waits_in_another_group_of_all_differs_from_those_that_wait_together():
    """Two groups of all workers: in each for itself, nothing differs."""
    by_rank = {
        rank: [*told(A, group=1, size=3), *told(A if rank < 2 else B, group=1 if rank < 2 else 2, size=3, first=2)]
        for rank in range(3)
    }
    for rank, of_rank in by_rank.items():  # places as each group counts them
        if rank == 2:
            of_rank[1] = Call(2, 3, 1, 2, of_rank[1].key, B, "model.py:2", 1.0)

    assert calls.find(by_rank) is None
    parting = calls.find_across_groups(by_rank, 3)

    assert parting.ranks == [2] and f"rank 2 called {B}" in parting.text


def test_groups_of_some_workers_are_not_compared_across():
    by_rank = {0: told(A, group=1, size=2), 1: told(B, group=2, size=2)}

    assert calls.find_across_groups(by_rank, 4) is None
