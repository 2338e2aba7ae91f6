"""With one worker every collective does nothing, so that the rest of the code has one path."""

import pytest
import torch

from distdl.comm import collectives, messages
from distdl.comm.world import WorldInfo
from distdl.errors import UserError


def test_one_worker_joins_nothing_and_is_rank_0_of_1():
    collectives.join(WorldInfo(), "auto", torch.device("cpu"))

    assert (collectives.rank(), collectives.world_size(), collectives.backend_name()) == (0, 1, None)
    collectives.barrier()
    collectives.leave()


def test_its_own_values_are_the_sum_and_the_broadcast():
    tensor = torch.arange(3.0)

    assert collectives.sum_(tensor) is tensor and tensor.tolist() == [0, 1, 2]
    assert collectives.broadcast_(tensor) is tensor and tensor.tolist() == [0, 1, 2]
    assert messages.broadcast_json({"a": [1]}) == {"a": [1]}
    assert messages.gather_json("mine") == ["mine"]


def test_a_sum_that_was_started_is_finished_at_once():
    pending = collectives.start_sum(torch.ones(2))

    assert pending.test()
    pending.wait()
    pending.wait()  # a second time changes nothing


@pytest.mark.parametrize("run", [messages.on_rank0, messages.rank0_first])
def test_what_rank_0_does_is_done_once_and_its_errors_are_raised(run):
    calls = []

    assert run(lambda: calls.append("called") or "result") == "result"
    assert calls == ["called"]

    def fail():
        raise UserError("what", where="where", fix="fix")

    with pytest.raises(UserError, match="where: what\n  fix"):
        run(fail)


def test_nccl_without_cuda_devices_is_the_users_mistake():
    with pytest.raises(UserError, match="nccl needs CUDA devices"):
        collectives.join(WorldInfo(world_size=2), "nccl", torch.device("cpu"))


def test_a_worker_that_can_not_find_the_others_says_which_variable_is_missing(monkeypatch):
    monkeypatch.delenv("MASTER_ADDR", raising=False)

    with pytest.raises(UserError, match="MASTER_ADDR"):
        collectives.join(WorldInfo(rank=0, world_size=2), "gloo", torch.device("cpu"))
