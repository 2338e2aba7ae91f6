"""The collectives that `distdl bench comm` measures: name -> what prepares it on tensors of its own.

What a worker gives depends on its rank and on the position, so that a share that is missing, comes twice or goes to the
wrong place makes a wrong number. All are whole numbers below 251, which bf16 holds as well, and of the workers one
alone adds something at each position: so the sums are exact too, whatever their order and for any number of workers.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from distdl.comm import collectives, reduction, tree
from distdl.comm.collectives import Group, Pending
from distdl.comm.reduction import Steps
from distdl.comm.world import WorldInfo

_PRIME = 251  # of values: no size of a part is a multiple of it, unless somebody asks for one
_ROOT = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A collective that can be called again and again. `is_right`: after the first call, and with the first values."""

    tensors: list[Tensor]  # all that it reads and writes
    start: Callable[[], Iterable[Pending]]  # what has to be waited for, one after the other
    is_right: Callable[[], bool]  # of what this worker got

    def __call__(self) -> None:
        for pending in self.start():
            pending.wait()


@dataclass(frozen=True, slots=True, kw_only=True)
class Workers:
    group: Group  # all of them
    rank: int
    like: Tensor  # has the dtype and the device of what is sent
    own: Mapping[str, Steps]  # distdl's own all-reduces


Prepare = Callable[[Workers, int], Call]  # of n elements in the whole array, a multiple of the number of workers


def find_workers(world: WorldInfo, like: Tensor, names: Collection[str], per_node: int | None) -> Workers:
    """Makes the groups that the operations of these names need. All workers call it alike."""
    size = world.world_size
    own = {}
    if "tree" in names:
        own["tree"] = reduction.chunked(_leaves(size), world.rank, None, is_tree=True)
    if "hierarchical" in names:
        parts = [range(rank, rank + 1) for rank in range(size)]
        own["hierarchical"] = reduction.chunked(parts, world.rank, per_node, is_tree=False)
    return Workers(group=collectives.everyone(), rank=world.rank, like=like, own=own)


def n_leaves(world_size: int) -> int:
    """The fewest leaves that dist.reduction: tree takes for so many workers."""
    return 1 << (world_size - 1).bit_length()


def _leaves(world_size: int) -> list[range]:
    return [tree.leaves_of(rank, world_size, n_leaves(world_size)) for rank in range(world_size)]


# --- operations ---


def all_reduce(workers: Workers, n: int) -> Call:
    flat = _addend(workers, n)
    return Call(
        tensors=[flat],
        start=lambda: [workers.group.start_sum(flat)],
        is_right=lambda: torch.equal(flat, _values(workers, n)),
    )


def in_chunks(name: str, workers: Workers, n: int) -> Call:
    """An all-reduce of distdl's own. A worker with several subtrees of the tree has something in the last."""
    flat = _addend(workers, n)
    n_parts = len(tree.maximal(_leaves(workers.group.size)[workers.rank])) if name == "tree" else 1
    parts = [*(torch.zeros_like(flat) for _ in range(n_parts - 1)), flat]
    return Call(
        tensors=parts,
        start=lambda: workers.own[name](parts, ""),
        is_right=lambda: torch.equal(flat, _values(workers, n)),
    )


def reduce(workers: Workers, n: int) -> Call:
    flat = _addend(workers, n)
    return Call(
        tensors=[flat],
        start=lambda: [workers.group.start_reduce(flat, _ROOT)],
        is_right=lambda: workers.rank != _ROOT or torch.equal(flat, _values(workers, n)),
    )


def broadcast(workers: Workers, n: int) -> Call:
    flat = _values(workers, n) if workers.rank == _ROOT else workers.like.new_zeros(n)
    return Call(
        tensors=[flat],
        start=lambda: [workers.group.start_broadcast(flat, _ROOT)],
        is_right=lambda: torch.equal(flat, _values(workers, n)),
    )


def all_gather(workers: Workers, n: int) -> Call:
    part, whole = _part(workers, n), workers.like.new_zeros(n)
    return Call(
        tensors=[part, whole],
        start=lambda: [workers.group.start_all_gather(whole, part)],
        is_right=lambda: torch.equal(whole, _values(workers, n)),
    )


def reduce_scatter(workers: Workers, n: int) -> Call:
    whole, part = _addend(workers, n), workers.like.new_zeros(n // workers.group.size)
    return Call(
        tensors=[whole, part],
        start=lambda: [workers.group.start_reduce_scatter(part, whole)],
        is_right=lambda: torch.equal(part, _part(workers, n)),
    )


def all_to_all(workers: Workers, n: int) -> Call:
    size, rank, m = workers.group.size, workers.rank, n // workers.group.size

    def row(source: int, destination: int) -> Tensor:
        return _values(workers, m, 17 * source + 29 * destination)

    sent = torch.stack([row(rank, destination) for destination in range(size)]).view(size, 1, m)
    received = workers.like.new_zeros(size, m)
    return Call(
        tensors=[sent, received],
        start=lambda: [workers.group.start_all_to_all(received, sent, [1] * size, 1)],
        is_right=lambda: all(torch.equal(received[source], row(source, rank)) for source in range(size)),
    )


def gather(workers: Workers, n: int) -> Call:
    part, whole = _part(workers, n), workers.like.new_zeros(n) if workers.rank == _ROOT else None
    return Call(
        tensors=[part] if whole is None else [part, whole],
        start=lambda: [workers.group.start_gather(whole, part, _ROOT)],
        is_right=lambda: whole is None or torch.equal(whole, _values(workers, n)),
    )


def scatter(workers: Workers, n: int) -> Call:
    whole = _values(workers, n) if workers.rank == _ROOT else None
    part = workers.like.new_zeros(n // workers.group.size)
    return Call(
        tensors=[part] if whole is None else [part, whole],
        start=lambda: [workers.group.start_scatter(part, whole, _ROOT)],
        is_right=lambda: torch.equal(part, _part(workers, n)),
    )


def barrier(workers: Workers, n: int) -> Call:
    """`n` is not used: nothing is sent."""
    device = workers.like.device
    return Call(tensors=[], start=lambda: [workers.group.start_barrier(device)], is_right=lambda: True)


def copy(workers: Workers, n: int) -> Call:
    """No collective: a copy of the whole array inside the worker's memory, the bound of what moves by it."""
    source, target = _values(workers, n), workers.like.new_zeros(n)

    def start() -> list[Pending]:
        target.copy_(source)
        return []

    return Call(tensors=[source, target], start=start, is_right=lambda: torch.equal(target, source))


OPERATIONS: dict[str, Prepare] = {
    "all_reduce": all_reduce,
    "tree": partial(in_chunks, "tree"),
    "hierarchical": partial(in_chunks, "hierarchical"),
    "reduce": reduce,
    "broadcast": broadcast,
    "all_gather": all_gather,
    "reduce_scatter": reduce_scatter,
    "all_to_all": all_to_all,
    "gather": gather,
    "scatter": scatter,
    "barrier": barrier,
}


# --- values ---


def _values(workers: Workers, n: int, offset: int = 0) -> Tensor:
    """What the whole array, shape (n,), should hold: offset, offset + 1, ... modulo a prime."""
    positions = torch.arange(n, dtype=torch.int32, device=workers.like.device)
    return positions.add_(offset).remainder_(_PRIME).to(workers.like.dtype)


def _addend(workers: Workers, n: int) -> Tensor:
    """This worker's share in the sum `_values`: the values at every size-th position, and 0 elsewhere."""
    flat = workers.like.new_zeros(n)
    mine = slice(workers.rank, None, workers.group.size)
    flat[mine] = _values(workers, n)[mine]
    return flat


def _part(workers: Workers, n: int) -> Tensor:
    """This worker's part of `_values`, shape (n // size,)."""
    m = n // workers.group.size
    return _values(workers, m, workers.rank * m)
