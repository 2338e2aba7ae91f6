"""Every call to torch.distributed that moves data. With one worker each does nothing.

A collective that fails because a worker is gone raises PeerLost: an echo of the failure elsewhere.
CPU tensors travel by gloo, CUDA tensors by the device's library: the process group is joined for both.
"""

import contextlib
import json
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from distdl.comm.world import TIMEOUT, WorldInfo
from distdl.errors import PeerLost, UserError

T = TypeVar("T")
Work = dist.Work


def join(info: WorldInfo, backend: str, device: torch.device) -> None:
    """Starts the process group of this job. `backend`: auto, nccl or gloo; the rendezvous is torch's env://."""
    if info.world_size == 1:
        return
    if backend == "nccl" and device.type != "cuda":
        raise UserError("nccl needs CUDA devices", where="dist.backend: nccl", fix="Use dist.backend: auto or gloo.")
    use_nccl = device.type == "cuda" and backend in ("auto", "nccl")
    try:
        with _echoes():
            dist.init_process_group(
                "cpu:gloo,cuda:nccl" if use_nccl else "gloo",
                init_method="env://",
                rank=info.rank,
                world_size=info.world_size,
                timeout=TIMEOUT,
            )
    except ValueError as error:  # torch names the missing variable
        raise UserError(
            str(error), where="environment", fix="Start with `distdl train CONFIG --nproc N` or torchrun."
        ) from error


def leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def backend_name() -> str | None:
    """The library that carries the gradients; None with one worker."""
    return dist.get_backend() if dist.is_initialized() else None


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


@contextlib.contextmanager
def _echoes() -> Iterator[None]:
    try:
        yield
    except (RuntimeError, ConnectionError) as error:  # DistBackendError, DistNetworkError and gloo's are RuntimeErrors
        if isinstance(error, torch.OutOfMemoryError):
            raise
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise PeerLost(f"lost contact with the other workers: {reason}") from error


class Pending:
    """A collective under way. `wait` returns once its tensor may be used (on CUDA: by the current stream)."""

    __slots__ = ("_work",)

    def __init__(self, work: Work | None) -> None:
        self._work = work

    def wait(self) -> None:
        if self._work is not None:
            with _echoes():
                self._work.wait()
            self._work = None

    def test(self) -> bool:
        return self._work is None or self._work.is_completed()


def start_sum(tensor: torch.Tensor) -> Pending:
    """Begins summing `tensor` over the workers, in place."""
    if world_size() == 1:
        return Pending(None)
    with _echoes():
        return Pending(dist.all_reduce(tensor, async_op=True))


def sum_(tensor: torch.Tensor) -> torch.Tensor:
    """Sums `tensor` over the workers, in place."""
    start_sum(tensor).wait()
    return tensor


def broadcast_(tensor: torch.Tensor) -> torch.Tensor:
    """Rank 0's values, in place. Any strides."""
    if world_size() > 1:
        with _echoes():
            if tensor.is_contiguous():
                dist.broadcast(tensor, 0)
            else:
                packed = tensor.contiguous()
                dist.broadcast(packed, 0)
                tensor.copy_(packed)
    return tensor


def broadcast_json(value: Any) -> Any:
    """Rank 0's value, on all ranks. JSON and not pickle: nothing that arrives is executed."""
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


def barrier() -> None:
    sum_(torch.zeros(1))


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
