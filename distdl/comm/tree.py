"""A sum whose order never changes: gradients of V leaves of the batch, added up along a binary tree over the leaves.

Subtree (level, index) is the sum of the leaves index * 2^level ... (index + 1) * 2^level - 1: that of its left half and
that of its right half, added. A sum of two floats has one result, so the bits of the root don't depend on who adds
what. Worker r of W has leaves r V // W ... (r + 1) V // W - 1, for any W <= V; it adds up what it can, which leaves its
maximal subtrees.
"""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

Node = tuple[int, int]  # level, index


def leaves_of(rank: int, world_size: int, n_leaves: int) -> range:
    return range(rank * n_leaves // world_size, (rank + 1) * n_leaves // world_size)


def maximal(leaves: Iterable[int]) -> list[Node]:
    """The maximal subtrees of consecutive leaves, in order."""
    nodes: list[Node] = []
    for leaf in leaves:
        node, n_completed = _completed(nodes, (0, leaf))
        nodes = [*nodes[: len(nodes) - n_completed], node]
    return nodes


def added_up(nodes: Sequence[Node], values: Iterable[Tensor]) -> list[Tensor]:
    """Subtrees in order, put together to their maximal ones. Overwrites some of `values`."""
    kept: list[Node] = []
    sums: list[Tensor] = []
    for node, value in zip(nodes, values, strict=True):
        node, n_completed = _completed(kept, node)
        for _ in range(n_completed):
            kept.pop()
            value = sums.pop().add_(value)
        kept.append(node)
        sums.append(value)
    return sums


class LeafSums:
    """A worker's leaves, added up as they come, one after the other in the same memory.

    About log2(leaves of the worker) + 2 sums are kept at a time.
    """

    def __init__(self, flat: Tensor, n: int) -> None:
        """`flat`, shape (size,): every leaf's values appear in its first `n` elements. The others are left alone."""
        self._flat, self._n = flat, n
        self._nodes: list[Node] = []
        self._sums: list[Tensor] = []  # of shape (size,), 0 from element n on

    def keep(self, leaf: int) -> None:
        """Adds up a leaf that is not the worker's last: its values may be overwritten after that."""
        node, n_completed = _completed(self._nodes, (0, leaf))
        value = self._flat
        for left in self._take(n_completed):
            left[: self._n].add_(value[: self._n])
            value = left
        if not n_completed:
            value = torch.zeros_like(self._flat)
            value[: self._n] = self._flat[: self._n]
        self._nodes.append(node)
        self._sums.append(value)

    def close(self, leaf: int) -> list[Tensor]:
        """The maximal subtrees after the worker's last leaf, in order, each (size,). The last one is `flat`."""
        _, n_completed = _completed(self._nodes, (0, leaf))
        for left in self._take(n_completed):
            self._flat[: self._n].add_(left[: self._n])
        rest = self._sums
        self._nodes, self._sums = [], []
        return [*rest, self._flat]

    def _take(self, n: int) -> list[Tensor]:
        """The last `n` sums, the last one first."""
        taken = [self._sums.pop() for _ in range(n)]
        del self._nodes[len(self._nodes) - n :]
        return taken


def _completed(before: Sequence[Node], node: Node) -> tuple[Node, int]:
    """The subtree that `node` makes together with as many of those before it as it completes to larger ones."""
    level, index = node
    n = 0
    while index % 2 and n < len(before) and before[-1 - n] == (level, index - 1):
        level, index, n = level + 1, index // 2, n + 1
    return (level, index), n
