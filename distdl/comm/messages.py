"""What workers tell each other besides tensors: JSON, and actions that rank 0 takes for all. On the CPU, outside steps.

JSON and not pickle: nothing that arrives is executed.
"""

import json
from collections.abc import Callable
from typing import Any, TypeVar

import torch

from distdl.comm.collectives import broadcast_, rank, sum_, world_size
from distdl.errors import UserError

T = TypeVar("T")


def broadcast_json(value: Any) -> Any:
    """Rank 0's value, on all ranks."""
    if world_size() == 1:
        return value
    content = json.dumps(value).encode() if rank() == 0 else b""
    size = torch.tensor([len(content)])
    broadcast_(size)
    packed = torch.zeros(int(size), dtype=torch.uint8)
    if rank() == 0:
        packed.copy_(torch.frombuffer(bytearray(content), dtype=torch.uint8))
    broadcast_(packed)
    return json.loads(packed.numpy().tobytes())


def broadcast_tensors(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Rank 0's CPU tensors by name, on all ranks; what the others give is left aside."""
    listed = [[name, str(t.dtype).removeprefix("torch."), list(t.shape)] for name, t in tensors.items()]
    received = {}
    for name, dtype, shape in broadcast_json(listed):
        tensor = tensors[name] if rank() == 0 else torch.empty(shape, dtype=getattr(torch, dtype))
        received[name] = broadcast_(tensor)
    return received


def gather_json(value: Any) -> list[Any]:
    """Every rank's value, in rank order, on all ranks."""
    if world_size() == 1:
        return [value]
    content = json.dumps(value).encode()
    sizes = torch.zeros(world_size(), dtype=torch.int64)
    sizes[rank()] = len(content)
    sum_(sizes)
    packed = torch.zeros(world_size(), int(sizes.max()), dtype=torch.uint8)
    packed[rank(), : len(content)] = torch.frombuffer(bytearray(content), dtype=torch.uint8)
    sum_(packed)
    return [json.loads(packed[r, : int(sizes[r])].numpy().tobytes()) for r in range(world_size())]


def on_rank0(action: Callable[[], T]) -> T:
    """Runs `action` on rank 0 alone and hands its JSON-able result to all. A UserError in it is raised on all ranks."""
    outcome: dict[str, Any] = {}
    if rank() == 0:  # rank 0 only
        try:
            outcome = {"value": action()}
        except UserError as error:
            outcome = {"error": list(error.args)}
    outcome = broadcast_json(outcome)
    if "error" in outcome:
        what, where, fix = outcome["error"]
        raise UserError(what, where=where, fix=fix)
    return outcome["value"]


def rank0_first(action: Callable[[], T]) -> T:
    """Runs `action` on every rank, on rank 0 before the others: for what rank 0 leaves on disk for them."""
    failure: list[str] | None = None
    value: T | None = None
    if rank() == 0:
        try:
            value = action()
        except UserError as error:
            failure = list(error.args)
    failure = broadcast_json(failure)
    if failure:
        raise UserError(failure[0], where=failure[1], fix=failure[2])
    return action() if rank() != 0 else value  # type: ignore[return-value]
