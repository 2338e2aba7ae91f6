"""How a flat tensor is summed over all workers, and which parts of a batch each of them computes.

`fast`: by the library's all-reduce, a part for each worker. `tree`: a part is a leaf (comm/tree.py); chunks of the
workers' subtrees go to the chunk's owner (all-to-all), are added there in the tree's order, and go back (all-gather).
That is a ring's traffic where the workers are a power of two. Hierarchical: in two stages, chunks inside the node first
and then between the workers of equal local rank, so that between two nodes each value travels once. Where order can't
matter, the last stage is the library's all-reduce, which has fewer steps.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from distdl.comm import collectives, messages, tree
from distdl.comm.collectives import Group, Pending
from distdl.comm.world import WorldInfo
from distdl.config.schema import Config
from distdl.errors import UserError

# steps(parts, name): sums the last of `parts` over the workers, in place, where `parts` are what this worker has to
# add, all of one shape (n,). Yields what has to be waited for before the next step. `name`: what it is, for errors.
Steps = Callable[[list[Tensor], str], Iterator[Pending]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reduction:
    parts: range  # of a batch, which this worker computes
    n_parts: int  # of a batch
    steps: Steps
    multiple: int = 1  # of which n has to be
    is_tree: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """The members of a group become owners of a chunk each. `there` and `back` are two groups of the same workers:
    all members of a group call in one order, and which of the two steps a worker comes to first is chance."""

    there: Group
    back: Group
    rows_from: list[int]  # how many addends each member brings
    add: Callable[[Tensor], list[Tensor]]  # addends of a chunk, (rows, n) -> their sums, or the subtrees', each (n,)


def build(config: Config, world: WorldInfo, device: torch.device) -> Reduction:
    """Raises UserError where the config can't be met with these workers."""
    rank, world_size, is_tree = world.rank, world.world_size, config.dist.reduction == "tree"
    if is_tree:
        _check_tree(config, world_size)
    n_parts = config.n_leaves if is_tree else world_size
    parts = [tree.leaves_of(each, world_size, n_parts) for each in range(world_size)]
    make = partial(Reduction, parts=parts[rank], n_parts=n_parts, is_tree=is_tree)
    per_node = _per_node(config, world, device)
    if per_node is None and not is_tree:
        return make(steps=partial(by_library, collectives.new_group([range(world_size)])))
    in_chunks = chunked(parts, rank, per_node, is_tree)
    steps = in_chunks if device.type == "cpu" else partial(on_a_stream_of_its_own, in_chunks, torch.Stream(device))
    return make(steps=steps, multiple=world_size)


def chunked(parts: Sequence[range], rank: int, per_node: int | None, is_tree: bool) -> Steps:
    """In one stage; with `per_node` workers on each node in two. `parts`: of each worker. All workers call it alike."""
    world_size = len(parts)
    if per_node is None:
        groups, addends = [[range(world_size)]], [parts]
    else:
        nodes = [range(first, first + per_node) for first in range(0, world_size, per_node)]
        of_nodes = [range(parts[node[0]].start, parts[node[-1]].stop) for node in nodes]
        across = [range(place, world_size, per_node) for place in range(per_node)]
        groups, addends = [nodes, across], [[parts[each] for each in nodes[rank // per_node]], of_nodes]
    between: Group | None = None
    if not is_tree or _have_one_sum(addends[-1]):
        between = collectives.new_group(groups.pop())
    stages = [_stage(*each, is_tree) for each in zip(groups, addends)]
    return partial(by_chunks, [stage for stage in stages if stage.there.size > 1], between)


def _have_one_sum(addends: Sequence[range]) -> bool:
    """Whether there are two addends, a subtree each: a + b has the same bits whoever adds."""
    return len(addends) == 2 and all(len(tree.maximal(each)) == 1 for each in addends)


def by_library(group: Group, parts: list[Tensor], name: str = "") -> Iterator[Pending]:
    """One all-reduce, in the library's order."""
    (flat,) = parts
    yield group.start_sum(flat, name)


def by_chunks(stages: Sequence[Stage], between: Group | None, parts: list[Tensor], name: str = "") -> Iterator[Pending]:
    """All-to-all and all-gather, in stages: each adds up what its group has, of the chunk that the ones before left.

    What is left then is summed by the library, over the group `between`, if there is one.
    """
    flat = parts[-1]
    chunks = []
    for stage in stages:
        chunks.append(parts[-1])
        size = stage.there.size
        sent = parts[0].view(size, 1, -1) if len(parts) == 1 else torch.stack([p.view(size, -1) for p in parts], dim=1)
        received = flat.new_empty(sum(stage.rows_from), sent.shape[2])
        yield stage.there.start_all_to_all(received, sent, stage.rows_from, len(parts), name)
        parts = stage.add(received)
    if between:
        yield between.start_sum(parts[0], name)
    for stage, whole in zip(reversed(stages), reversed(chunks)):
        yield stage.back.start_all_gather(whole, parts[0], name)
        parts = [whole]


def on_a_stream_of_its_own(steps: Steps, stream: torch.Stream, parts: list[Tensor], name: str) -> Iterator[Pending]:
    """For a device: all steps are queued at once, in the same order on all workers, beside what backward computes."""
    stream.wait_stream(torch.accelerator.current_stream())
    with stream:
        for pending in steps(parts, name):
            pending.wait()  # queues the waiting
        done = stream.record_event()
    yield OnDevice(done)


class OnDevice(Pending):
    """What an event of a stream stands for: `wait` has the current stream wait for it."""

    __slots__ = ("_event",)

    def __init__(self, event: torch.Event) -> None:
        super().__init__(None)
        self._event = event

    def wait(self) -> None:
        torch.accelerator.current_stream().wait_event(self._event)

    def test(self) -> bool:
        return self._event.query()


def _stage(members: Sequence[Sequence[int]], parts: Sequence[range], is_tree: bool) -> Stage:
    """`members`: ranks of all groups of the stage; `parts`: what each member of this worker's group has the sum of."""
    there, back = collectives.new_group(members), collectives.new_group(members)
    if not is_tree:
        return Stage(there=there, back=back, rows_from=[1] * len(parts), add=lambda rows: [rows.sum(dim=0)])
    nodes = [tree.maximal(each) for each in parts]
    add = partial(tree.added_up, [node for each in nodes for node in each])
    return Stage(there=there, back=back, rows_from=[len(each) for each in nodes], add=add)


def workers_per_node(world: WorldInfo) -> int | None:
    """None if the nodes have unlike numbers, or their ranks don't follow one another. All workers call it alike."""
    places = messages.gather_json([world.local_rank, world.local_world_size])
    per_node = world.local_world_size
    is_regular = places == [[rank % per_node, per_node] for rank in range(world.world_size)]
    return per_node if is_regular and world.world_size % per_node == 0 else None


def _per_node(config: Config, world: WorldInfo, device: torch.device) -> int | None:
    """Where the sum is to be made in two stages; None otherwise."""
    wanted = config.dist.hierarchical
    if wanted is False or world.world_size == 1:
        return None
    if wanted == "auto" and config.dist.reduction == "fast" and device.type != "cpu":
        return None  # the device's library knows the nodes, and has more ways than these two stages
    per_node = workers_per_node(world)
    if per_node is not None:
        return per_node if 1 < per_node < world.world_size else None
    if wanted is True:
        raise UserError(
            "the nodes have unlike numbers of workers, or their ranks don't follow one another",
            where="dist.hierarchical: true",
            fix="Start as many workers on every node, or use dist.hierarchical: auto.",
        )
    return None


def _check_tree(config: Config, world_size: int) -> None:
    train, leaves = config.train, config.n_leaves
    if world_size > leaves:
        least = 1 << (world_size - 1).bit_length()
        fix = f"A run needs as many leaves as the most workers it gets: {least} or more here."
        if train.global_batch % least:
            fix += f" They divide the global batch, so choose a train.global_batch that is a multiple of {least}."
        raise UserError(
            f"{world_size} workers have only {leaves} {'leaf' if leaves == 1 else 'leaves'} to share",
            where=f"dist.leaves: {leaves}",
            fix=fix,
        )
    if train.global_batch % leaves:
        raise UserError(
            f"{leaves} leaves don't divide a global batch of {train.global_batch}",
            where=f"dist.leaves: {leaves}",
            fix="Use a smaller power of two, or another train.global_batch.",
        )
    refused = {
        f"dist.engine: {config.dist.engine}": (
            config.dist.engine != "exchange",
            "it adds up in an order of its own",
            "dist.engine: exchange",
        ),
        "train.batch_norm: sync": (
            train.batch_norm == "sync",
            "its sums over all workers have no fixed order, and a leaf is normalised by itself",
            "train.batch_norm: local (each leaf by its own rows) or ghost",
        ),
        "train.micro_batch: auto": (
            train.micro_batch == "auto",
            "what fits into memory depends on the machine, and the numbers on it",
            "more dist.leaves, or a number of rows",
        ),
        "train.deterministic: false": (not train.deterministic, "kernels may then add up in any order", "true"),
    }
    for where, (is_so, why, instead) in refused.items():
        if is_so:
            raise UserError(f"does not go with dist.reduction: tree: {why}", where=where, fix=f"Use {instead}.")
