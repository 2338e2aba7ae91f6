"""Groups of workers, and every call to torch.distributed that moves data. With one worker each does nothing.

The workers of a group have to call the same collectives in the same order; libraries answer it with a wrong sum, an
abort or a hang if they don't. So what is called outside of steps is compared before it begins, and what is called in a
step goes into a digest, which the workers compare in the next one (comm/status.py).

A collective that fails because a worker is gone raises PeerLost: an echo of the failure elsewhere.
CPU tensors travel by gloo, CUDA tensors by the device's library: the process group is joined for both. Over MPI all of
them do (distdl/comm/mpi).
"""

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from functools import partial
from zlib import crc32

import torch
import torch.distributed as dist
from torch import Tensor

from distdl.comm import interface, mpi_library, rendezvous
from distdl.comm.world import TIMEOUT, WorldInfo
from distdl.errors import PeerLost, UserError
from distdl.watch import pulse

Work = dist.Work

_DESCRIPTION_BYTES = 200  # of a call, as the workers compare it
_all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor  # its name up to torch 2.12
_reduce_scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor  # likewise
_groups: list["Group"] = []  # the first is that of all workers
_timeout = TIMEOUT  # of every group
_digest = 0


class Pending:
    """A collective under way. `wait` returns once its tensor may be used (on CUDA: by the current stream)."""

    __slots__ = ("_call", "_number", "_work")

    def __init__(self, work: Work | None, call: str = "", number: int = 0) -> None:
        """`number`: of the call, for those who watch this worker."""
        self._work, self._call, self._number = work, call, number

    def wait(self) -> None:
        if self._work is not None:
            pulse.mine.wait(self._number)
            try:
                with _echoes(self._call):
                    self._work.wait()
            finally:
                pulse.mine.go_on()
            self._work = None

    def test(self) -> bool:
        return self._work is None or self._work.is_completed()


class Group:
    """Some of the workers, or all, in the order of `ranks`. Two groups of the same workers don't wait for each other.

    `start_...` begins a collective; until it was waited for, its tensors belong to it.
    """

    def __init__(self, ranks: Sequence[int], handle: dist.ProcessGroup | None, number: int = 0) -> None:
        """`number`: by which all its workers know it, for those who watch them."""
        self.ranks, self.size = list(ranks), len(ranks)
        self.handle = handle
        self._key = crc32(repr((number, self.ranks)).encode())

    def start_sum(self, tensor: Tensor, name: str = "") -> Pending:
        """Begins summing `tensor` over the group, in place. `name`: what it is, for errors."""
        if self.size == 1:
            return Pending(None)
        start = partial(dist.all_reduce, tensor, group=self.handle, async_op=True)
        return self._begin(described("all_reduce", tensor, name), start)

    def start_max(self, tensor: Tensor, told_as: str) -> Pending:
        """Begins replacing `tensor` by the largest of the group's, element by element. `told_as`: for errors."""
        if self.size == 1:
            return Pending(None)
        start = partial(dist.all_reduce, tensor, dist.ReduceOp.MAX, group=self.handle, async_op=True)
        return self._begin(told_as, start)

    def start_all_to_all(
        self, received: Tensor, sent: Tensor, rows_from: Sequence[int], rows_to: int, name: str = ""
    ) -> Pending:
        """Begins sending `sent[i]`, shape (rows_to, n), to member i, for `sent` of shape (size, rows_to, n).

        `received`, shape (sum(rows_from), n), gets `rows_from[i]` rows from member i, in the members' order.
        """
        n = received.shape[1]
        start = partial(
            dist.all_to_all_single,
            received.view(-1),
            sent.view(-1),
            [rows * n for rows in rows_from],
            [rows_to * n] * self.size,
            group=self.handle,
            async_op=True,
        )
        return self._begin(described("all_to_all", received, name), start, alike=f"all_to_all {name}")

    def start_all_gather(self, whole: Tensor, part: Tensor, name: str = "") -> Pending:
        """Begins putting every member's `part`, shape (n,), one behind the other into `whole`, shape (size * n,)."""
        start = partial(_all_gather, whole, part, group=self.handle, async_op=True)
        return self._begin(described("all_gather", part, name), start)

    def start_broadcast(self, tensor: Tensor, source: int, name: str = "") -> Pending:
        """Begins overwriting `tensor` by that of member `source`. It has to be contiguous."""
        if self.size == 1:
            return Pending(None)
        start = partial(dist.broadcast, tensor, self.ranks[source], group=self.handle, async_op=True)
        return self._begin(described(f"broadcast from {source}", tensor, name), start)

    def start_reduce(self, tensor: Tensor, destination: int) -> Pending:
        """Begins summing `tensor` over the group, in that of member `destination`; the others' is overwritten."""
        start = partial(dist.reduce, tensor, self.ranks[destination], group=self.handle, async_op=True)
        return self._begin(described(f"reduce to {destination}", tensor), start)

    def start_reduce_scatter(self, part: Tensor, whole: Tensor) -> Pending:
        """Begins summing `whole`, shape (size * n,), over the group; member i gets the i-th part of it, shape (n,)."""
        start = partial(_reduce_scatter, part, whole, group=self.handle, async_op=True)
        return self._begin(described("reduce_scatter", part), start)

    def start_gather(self, whole: Tensor | None, part: Tensor, destination: int) -> Pending:
        """Begins putting every member's `part`, shape (n,), one behind the other into `whole`, shape (size * n,), of
        member `destination`, who alone gives one."""
        parts = None if whole is None else list(whole.chunk(self.size))
        start = partial(dist.gather, part, parts, self.ranks[destination], self.handle, async_op=True)
        return self._begin(described(f"gather to {destination}", part), start)

    def start_scatter(self, part: Tensor, whole: Tensor | None, source: int) -> Pending:
        """Begins giving member i the i-th `part`, shape (n,), of `whole`, shape (size * n,), of member `source`, who
        alone gives one."""
        parts = None if whole is None else list(whole.chunk(self.size))
        start = partial(dist.scatter, part, parts, self.ranks[source], self.handle, async_op=True)
        return self._begin(described(f"scatter from {source}", part), start)

    def start_barrier(self, device: torch.device) -> Pending:
        """Begins the library's own barrier, by way of `device`: it is over when all members have come to it."""
        index = None if device.type == "cpu" else [device.index]
        return self._begin("barrier", partial(dist.barrier, group=self.handle, async_op=True, device_ids=index))

    def _begin(self, call: str, start: Callable[[], Work], alike: str | None = None) -> Pending:
        """`alike`: what the members' calls have in common, if it is less than the whole."""
        number = pulse.mine.call(self._key, self.size, call, call if alike is None else alike)
        with _echoes(call):
            return Pending(start(), call, number)


def described(operation: str, tensor: Tensor, name: str = "") -> str:
    return f"{operation} of {list(tensor.shape)} {tensor.dtype}{name and f' ({name})'}"


# --- joining ---


def join(info: WorldInfo, backend: str, device: torch.device, timeout: timedelta = TIMEOUT) -> None:
    """Starts the process group of this job. `backend`: auto, nccl, gloo or mpi, of which auto takes the last where MPI
    has started the workers and has no GPUs to serve."""
    if info.world_size == 1:
        return
    if backend == "nccl" and device.type != "cuda":
        raise UserError("nccl needs CUDA devices", where="dist.backend: nccl", fix="Use dist.backend: auto or gloo.")
    name = "cpu:gloo,cuda:nccl" if device.type == "cuda" and backend in ("auto", "nccl") else "gloo"
    if mpi_library.is_started() or backend == "mpi":
        from distdl.comm import mpi  # registers it, and tells the others' address

        name = mpi.NAME if backend == "mpi" or (backend == "auto" and name == "gloo") else name
    for warning in interface.settle(info):
        if info.local_rank == 0:
            print(f"warning: {info.host}: {warning}", file=sys.stderr)
    try:
        with _echoes("rendezvous"):
            dist.init_process_group(
                name,
                **rendezvous.arguments(info, timeout),
                rank=info.rank,
                world_size=info.world_size,
                timeout=timeout,
            )
    except (ValueError, KeyError) as error:  # torch names the missing variable
        raise UserError(
            str(error), where="environment", fix="Start with `distdl train CONFIG --nproc N` or torchrun."
        ) from error
    global _timeout
    _timeout = timeout
    # Not the default group: what else calls torch.distributed in this process must not come between our calls.
    _groups.clear()
    new_group([range(info.world_size)])


@contextlib.contextmanager
def joined(info: WorldInfo, backend: str, device: torch.device) -> Iterator[None]:
    """`join`, and `leave` at the end: after an error too, since what the group has running would then abort the
    interpreter on its way out, and its exit code be lost. But for MPI, of whose groups all leave or none does."""
    join(info, backend, device)
    try:
        yield
        barrier()
    except BaseException:
        if backend_name() != "mpi":
            leave()
        raise
    leave()


def leave() -> None:
    global _digest
    _groups.clear()
    _digest = 0
    if dist.is_initialized():
        dist.destroy_process_group()


def leave_new_groups() -> None:
    """Leaves all groups but that of everyone."""
    while len(_groups) > 1:
        if (handle := _groups.pop().handle) is not None:
            dist.destroy_process_group(handle)


def everyone() -> Group:
    """All workers."""
    return _groups[0] if _groups else Group([0], None)


def new_group(members: Sequence[Sequence[int]]) -> Group:
    """This worker's one of some groups that share no rank. All workers call it alike, also those that are in none."""
    mine = Group([rank()], None)
    for ranks in members:
        if len(ranks) > 1 and dist.is_initialized():
            with _echoes("new_group"):
                handle = dist.new_group(list(ranks), timeout=_timeout)
            if rank() in ranks:
                mine = Group(ranks, handle, len(_groups))
    _groups.append(mine)
    return mine


def backend_of(device: torch.device) -> str:
    """The library that carries tensors of this device."""
    return "mpi" if backend_name() == "mpi" else "nccl" if device.type == "cuda" else "gloo"


def backend_name() -> str | None:
    """The library that carries the gradients; None with one worker."""
    return dist.get_backend().removeprefix("distdl_") if dist.is_initialized() else None


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def note(call: str) -> None:
    """Adds a call of all workers, which they are to make in one order, to the digest."""
    global _digest
    _digest = crc32(call.encode(), _digest)


def digest() -> int:
    """Of all calls that were noted so far."""
    return _digest


@contextlib.contextmanager
def _echoes(call: str) -> Iterator[None]:
    try:
        yield
    except (RuntimeError, ConnectionError) as error:  # DistBackendError, DistNetworkError and gloo's are RuntimeErrors
        if isinstance(error, torch.OutOfMemoryError):
            raise
        reason = str(error).partition("\n")[0] or type(error).__name__
        if "Timed out" in reason or "timeout" in reason:
            raise PeerLost(
                f"not all workers came to this {call} in time: one of them hangs, or does something else ({reason})"
            ) from error
        raise PeerLost(f"lost contact with the other workers in {call}: {reason}") from error


# --- what all workers call ---


def start_sum(tensor: Tensor, name: str = "") -> Pending:
    """Begins summing `tensor` over all workers, in place. It is noted for the next step's status."""
    note(described("all_reduce", tensor, name))
    return everyone().start_sum(tensor, name)


def sum_(tensor: Tensor) -> Tensor:
    """Sums `tensor` over the workers, in place. Raises RuntimeError if they called something else."""
    if world_size() > 1:
        _compare(described("all_reduce", tensor))
        everyone().start_sum(tensor).wait()
    return tensor


def broadcast_(tensor: Tensor) -> Tensor:
    """Rank 0's values, in place. Any strides. Raises RuntimeError if the workers called something else."""
    if world_size() > 1:
        _compare(described("broadcast", tensor))
        packed = tensor.contiguous()
        everyone().start_broadcast(packed, 0).wait()
        if packed is not tensor:
            tensor.copy_(packed)
    return tensor


def barrier() -> None:
    sum_(torch.zeros(1))


def _compare(call: str) -> None:
    """Raises RuntimeError on all workers if they are not about to call the same."""
    code = crc32(call.encode())
    extremes = torch.tensor([code, -code])
    everyone().start_max(extremes, call).wait()
    most, least = extremes.tolist()
    if most == -least:
        return
    calls = torch.zeros(world_size(), _DESCRIPTION_BYTES, dtype=torch.uint8)
    described = call.encode()[:_DESCRIPTION_BYTES]
    calls[rank(), : len(described)] = torch.frombuffer(bytearray(described), dtype=torch.uint8)
    everyone().start_sum(calls).wait()
    told = [bytes(row.tolist()).rstrip(b"\0").decode(errors="replace") for row in calls]
    raise RuntimeError(
        "the workers call unlike collectives: " + ", ".join(f"rank {i} {each}" for i, each in enumerate(told))
    )
