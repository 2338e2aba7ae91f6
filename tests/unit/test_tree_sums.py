"""The tree over the leaves: who has which, what subtrees they make, and that no grouping changes a bit."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from distdl.comm.tree import LeafSums, added_up, leaves_of, maximal


def by_definition(leaves):
    """The root's sum: left half plus right half."""
    if len(leaves) == 1:
        return leaves[0]
    middle = len(leaves) // 2
    return by_definition(leaves[:middle]) + by_definition(leaves[middle:])


def awkward(n_leaves, n=50):
    """Numbers of very different size: almost every other order of additions rounds otherwise."""
    draws = torch.Generator().manual_seed(n_leaves)
    return torch.randn(n_leaves, n, generator=draws) * 10.0 ** torch.randint(-4, 5, (n_leaves, n), generator=draws)


@pytest.mark.parametrize("n_leaves", [1, 2, 8, 16])
def test_every_leaf_has_one_worker_and_workers_have_consecutive_ones(n_leaves):
    for world_size in range(1, n_leaves + 1):
        ranges = [leaves_of(rank, world_size, n_leaves) for rank in range(world_size)]
        assert [leaf for each in ranges for leaf in each] == list(range(n_leaves))
        assert max(map(len, ranges)) - min(map(len, ranges)) <= 1


@pytest.mark.parametrize(
    ("leaves", "subtrees"),
    [
        (range(0, 8), [(3, 0)]),
        (range(0, 4), [(2, 0)]),
        (range(2, 5), [(1, 1), (0, 4)]),
        (range(5, 8), [(0, 5), (1, 3)]),
        (range(1, 7), [(0, 1), (1, 1), (1, 2), (0, 6)]),
    ],
)
def test_leaves_make_the_largest_subtrees_that_lie_within_them(leaves, subtrees):
    assert maximal(leaves) == subtrees


@given(n_leaves=st.sampled_from([1, 2, 4, 8, 16]), data=st.data())
def test_the_bits_of_the_sum_do_not_depend_on_who_adds_what(n_leaves, data):
    world_size = data.draw(st.integers(1, n_leaves))
    leaves = awkward(n_leaves)
    nodes, subtrees = [], []
    for rank in range(world_size):
        mine = leaves_of(rank, world_size, n_leaves)
        flat = torch.zeros(52)  # two elements behind are not the leaves'
        sums = LeafSums(flat, 50)
        for leaf in mine:
            flat[:50] = leaves[leaf]
            flat[50:] = rank
            if leaf != mine[-1]:
                sums.keep(leaf)
                flat.zero_()
        nodes += maximal(mine)
        subtrees += sums.close(mine[-1])

    (root,) = added_up(nodes, subtrees)

    assert torch.equal(root[:50], by_definition(leaves))
    assert root[50:].tolist() == [sum(range(world_size))] * 2


def test_an_order_of_another_shape_would_round_otherwise():
    leaves = awkward(8)

    assert not torch.equal(by_definition(leaves), leaves.sum(dim=0))


def test_the_last_subtree_is_where_the_leaves_appear_and_nothing_is_kept_for_the_next_step():
    flat = torch.ones(3)
    sums = LeafSums(flat, 3)
    sums.keep(0)

    (root,) = sums.close(1)

    assert root is flat and flat.tolist() == [2, 2, 2]
    assert sums.close(0)[0].tolist() == [2, 2, 2]
