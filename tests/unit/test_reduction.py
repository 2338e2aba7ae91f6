"""Which parts of a batch a worker computes, and what a config can't ask for. (The sums themselves: tests/dist.)"""

import pytest
import tiny
import torch

from distdl.comm import reduction
from distdl.comm.world import WorldInfo
from distdl.errors import UserError

CPU = torch.device("cpu")


def build(corpus, overrides=(), **world):
    return reduction.build(tiny.config(corpus, dict(overrides)), WorldInfo(**world), CPU)


def test_fast_has_a_part_for_each_worker(corpus):
    found = build(corpus, rank=1, world_size=3, local_world_size=3)

    assert (found.parts, found.n_parts, found.is_tree) == (range(1, 2), 3, False)


def test_tree_shares_its_leaves(corpus):
    found = build(corpus, {"dist.reduction": "tree"}, rank=0, world_size=1)

    assert (found.parts, found.n_parts, found.is_tree) == (range(8), 8, True)


@pytest.mark.parametrize(("global_batch", "leaves"), [(64, 8), (12, 4), (6, 2), (7, 1)])
def test_there_are_as_many_leaves_as_divide_the_batch_up_to_eight(corpus, global_batch, leaves):
    assert tiny.config(corpus, {"train.global_batch": global_batch}).n_leaves == leaves


def test_leaves_are_a_power_of_two(corpus):
    with pytest.raises(ValueError, match="a power of two is needed, such as 16"):
        tiny.config(corpus, {"dist.leaves": 12})


def test_more_workers_than_leaves_are_refused(corpus):
    with pytest.raises(UserError, match="3 workers have only 2 leaves to share") as caught:
        build(corpus, {"dist": {"reduction": "tree", "leaves": 2}}, world_size=3, local_world_size=3)

    assert caught.value.where == "dist.leaves: 2"


def test_one_worker_alone_has_nothing_to_wait_for(corpus):
    flat = torch.ones(4)

    assert list(build(corpus, {"dist.reduction": "tree"}).steps([flat], "")) == []
    assert flat.tolist() == [1, 1, 1, 1]
