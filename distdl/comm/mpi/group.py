"""torch.distributed's process group on a communicator of MPI.

torch lets Python derive from ProcessGroup alone, so that a group is all MPI: what it is given on a device goes through
pinned memory of the host. Collectives run in the order of their calls; each group has a communicator of its own, so
that groups don't wait for each other.
"""

# torch's stubs give each collective several forms, for people: torch itself calls one of them, with its options.
# mypy: disable-error-code="override, assignment"

import threading
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from distdl.comm import mpi_library as library
from distdl.comm.mpi import moves, sparse, staging
from distdl.comm.mpi.arithmetic import Op, reduction
from distdl.comm.mpi.moves import Comm
from distdl.comm.mpi.work import Line, PointToPoint, Work, one_of, sleep_until, timed_out

MPI = library.load()

NAME = "distdl_mpi"

_ASLEEP_FROM_BYTES = 1 << 18  # who waits for the others of so much does it asleep: MPI would hold a core
_UNKNOWN = _ASLEEP_FROM_BYTES  # how much it is, where each process has as much as it likes


class MPIGroup(dist.ProcessGroup):
    """The processes of a communicator, which belongs to it from now on."""

    def __init__(self, comm: Comm, store: dist.Store | None, timeout: timedelta) -> None:
        super().__init__(comm.Get_rank(), comm.Get_size())  # type: ignore[call-arg]  # not with a store, which torch 2.13 refuses
        self._comm, self._store, self._timeout = comm, store, timeout
        self._messages = comm.Dup()  # point to point: its tags are the caller's
        self._name = self._description = ""
        self._line = Line(f"collectives over MPI {comm.Get_name()}")
        self._sent: list[PointToPoint] = []  # not known to have arrived
        self._lock = threading.Lock()

    # --- what torch asks of it ---

    def getBackendName(self) -> str:
        return NAME

    def name(self) -> str:
        return NAME

    def getRank(self) -> int:
        return int(self._comm.rank)

    def getSize(self) -> int:
        return int(self._comm.size)

    def rank(self) -> int:
        return int(self._comm.rank)

    def size(self) -> int:
        return int(self._comm.size)

    def setGroupName(self, name: str) -> None:
        self._name = name

    def getGroupName(self) -> str:
        return self._name

    def setGroupDesc(self, description: str) -> None:
        self._description = description

    def getGroupDesc(self) -> str:
        return self._description

    def get_group_store(self) -> dist.Store | None:
        return self._store

    @property
    def supports_splitting(self) -> bool:
        return False

    @property
    def _device_types(self) -> list[torch.device]:
        return [torch.device("cpu"), torch.device("cuda")]

    def shutdown(self) -> None:
        """Of all its processes. What hangs is left to hang: the job is to be ended."""
        if self._comm is not None:
            self._line.close(self._timeout)
            if not self._line.is_broken and not MPI.Is_finalized():
                self._messages.Free()
                self._comm.Free()
            self._comm = None

    def abort(self) -> None:
        """Nothing of MPI ends an operation: what hangs goes on hanging, and the job is to be ended."""

    # --- reductions ---

    def allreduce(self, tensors: Sequence[Tensor] | Tensor, opts: Any = None) -> Work:
        every = [tensors] if isinstance(tensors, Tensor) else list(tensors)
        reductions = [sparse if each.is_sparse else reduction(_op(opts), each.dtype) for each in every]
        if sparse in reductions and _op(opts) != Op.SUM:
            raise ValueError("sparse tensors have no reduction but the sum")

        def run(host: list[Tensor]) -> None:
            for each, how in zip(host, reductions):
                how.all_reduce(self._comm, each)

        return self._start("all_reduce", run, every, every, opts)

    def allreduce_coalesced(self, tensors: Sequence[Tensor], opts: Any = None) -> Work:
        return self.allreduce(tensors, opts)

    def reduce(self, tensors: Sequence[Tensor], opts: Any) -> Work:
        reductions = [reduction(_op(opts), each.dtype) for each in tensors]

        def run(host: list[Tensor]) -> None:
            for each, how in zip(host, reductions):
                how.reduce(self._comm, each, opts.rootRank)

        return self._start("reduce", run, tensors, tensors, opts)

    def reduce_scatter_single(self, part: Tensor, whole: Tensor, opts: Any = None) -> Work:
        return self.reduce_scatter_single_coalesced([part], [whole], opts)

    def reduce_scatter_single_coalesced(
        self, parts: Sequence[Tensor], wholes: Sequence[Tensor], opts: Any = None
    ) -> Work:
        reductions = [reduction(_op(opts), each.dtype) for each in wholes]
        for part, whole in zip(parts, wholes):
            _check_sizes(whole, part.numel() * self.size(), "reduce_scatter")

        def run(host: list[Tensor]) -> None:
            for part, whole, how in zip(host, host[len(parts) :], reductions):
                how.reduce_scatter(self._comm, part, whole.clone())

        return self._start("reduce_scatter", run, [*parts, *wholes], parts, opts)

    def reduce_scatter(self, parts: Sequence[Tensor], lists: Sequence[Sequence[Tensor]], opts: Any = None) -> Work:
        every = [each for tensors in lists for each in tensors]
        reductions = [reduction(_op(opts), each.dtype) for each in parts]
        n, size = len(parts), self.size()

        def run(host: list[Tensor]) -> None:
            for number, how in enumerate(reductions):
                tensors = host[n + number * size : n + (number + 1) * size]
                if len({each.numel() for each in tensors}) == 1:
                    how.reduce_scatter(self._comm, host[number], torch.cat(tensors))
                    continue
                for root, each in enumerate(tensors):  # of unlike sizes
                    summed = each.clone()
                    how.reduce(self._comm, summed, root)
                    if root == self._comm.rank:
                        host[number].copy_(summed)

        return self._start("reduce_scatter", run, [*parts, *every], parts, opts, _n_bytes(every))

    # --- moves ---

    def broadcast(self, tensors: Sequence[Tensor], opts: Any = None) -> Work:
        root = opts.rootRank if opts is not None else 0

        def run(host: list[Tensor]) -> None:
            for each in host:
                moves.broadcast(self._comm, each, root)

        return self._start("broadcast", run, tensors, tensors, opts)

    def all_gather_single(self, whole: Tensor, part: Tensor, opts: Any = None) -> Work:
        return self.all_gather_single_coalesced([whole], [part], opts)

    def all_gather_single_coalesced(self, wholes: Sequence[Tensor], parts: Sequence[Tensor], opts: Any = None) -> Work:
        for whole, part in zip(wholes, parts):
            _check_sizes(whole, part.numel() * self.size(), "all_gather")

        def run(host: list[Tensor]) -> None:
            for whole, part in zip(host, host[len(wholes) :]):
                moves.all_gather(self._comm, whole, part)

        return self._start("all_gather", run, [*wholes, *parts], wholes, opts)

    def allgather(self, lists: Sequence[Sequence[Tensor]], parts: Sequence[Tensor], opts: Any = None) -> Work:
        """Tensors of unlike sizes too, as long as all processes know them."""
        every = [each for tensors in lists for each in tensors]
        size = self.size()

        def run(host: list[Tensor]) -> None:
            for number, part in enumerate(host[len(every) :]):
                tensors = host[number * size : (number + 1) * size]
                n_rows = [each.numel() for each in tensors]
                whole = part.new_empty(sum(n_rows))
                if len(set(n_rows)) == 1:
                    moves.all_gather(self._comm, whole, part)
                else:
                    moves.all_gather_rows(self._comm, whole, part, n_rows, part.element_size())
                for each, gathered in zip(tensors, whole.split(n_rows)):
                    each.copy_(gathered)

        return self._start("all_gather", run, [*every, *parts], every, opts, _n_bytes(every))

    def allgather_coalesced(
        self, by_rank: Sequence[Sequence[Tensor]], parts: Sequence[Tensor], opts: Any = None
    ) -> Work:
        return self.allgather(list(zip(*by_rank)), parts, opts)

    def gather(self, lists: Sequence[Sequence[Tensor]], parts: Sequence[Tensor], opts: Any) -> Work:
        every = list(lists[0]) if lists else []

        def run(host: list[Tensor]) -> None:
            part = host[-1]
            whole = part.new_empty(part.numel() * self.size()) if every else None
            moves.gather(self._comm, whole, part, opts.rootRank)
            if whole is not None:
                for each, gathered in zip(host, whole.split(part.numel()) if part.numel() else ()):
                    each.copy_(gathered)

        return self._start("gather", run, [*every, *parts], every, opts, _n_bytes(parts))

    def scatter(self, parts: Sequence[Tensor], lists: Sequence[Sequence[Tensor]], opts: Any) -> Work:
        every = list(lists[0]) if lists else []

        def run(host: list[Tensor]) -> None:
            moves.scatter(self._comm, host[0], torch.cat(host[1:]) if every else None, opts.rootRank)

        return self._start("scatter", run, [*parts, *every], parts, opts, _n_bytes(parts))

    def all_to_all_single(
        self, received: Tensor, sent: Tensor, n_received: Sequence[int], n_sent: Sequence[int], opts: Any = None
    ) -> Work:
        """Rows of the first dimension; without their numbers as many to each."""
        size = self.size()

        def run(host: list[Tensor]) -> None:
            if not n_received and not n_sent:
                moves.all_to_all(self._comm, host[0], host[1])
                return
            rows_in, rows_out = (
                list(given) or [len(tensor) // size] * size
                for given, tensor in ((n_received, received), (n_sent, sent))
            )
            row_bytes = _row_bytes(received) or _row_bytes(sent)
            moves.all_to_all_rows(self._comm, host[0], host[1], rows_in, rows_out, row_bytes)

        n_bytes = _UNKNOWN if n_received or n_sent else _n_bytes([sent])
        return self._start("all_to_all", run, [received, sent], [received], opts, n_bytes)

    def alltoall(self, received: Sequence[Tensor], sent: Sequence[Tensor], opts: Any = None) -> Work:
        """Tensors of unlike sizes too."""
        n = len(received)

        def run(host: list[Tensor]) -> None:
            n_in, n_out = [each.numel() for each in host[:n]], [each.numel() for each in host[n:]]
            whole = host[0].new_empty(sum(n_in))
            moves.all_to_all_rows(self._comm, whole, torch.cat(host[n:]), n_in, n_out, whole.element_size())
            for each, came in zip(host, whole.split(n_in)):
                each.copy_(came)

        return self._start("all_to_all", run, [*received, *sent], received, opts, _UNKNOWN)

    def barrier(self, opts: Any = None) -> Work:
        return self._start("barrier", lambda host: None, [], [], opts, _UNKNOWN)

    # Names that torch 2.11 and 2.12 call them by.
    _allgather_base = all_gather_single
    allgather_into_tensor_coalesced = all_gather_single_coalesced
    _reduce_scatter_base = reduce_scatter_single
    reduce_scatter_tensor_coalesced = reduce_scatter_single_coalesced
    alltoall_base = all_to_all_single

    # --- point to point ---

    def send(self, tensors: Sequence[Tensor], to: int, tag: int = 0) -> Work:
        host = staging.to_host(tensors[0], is_read=True)
        request = self._messages.Isend(moves.as_bytes(host), to, tag)
        work = PointToPoint("send", list(tensors), self._timeout, request, host)
        with self._lock:  # MPI reads the memory also after the caller has forgotten it
            self._sent = [each for each in self._sent if not each.is_completed()] + [work]
        return work

    def recv(self, tensors: Sequence[Tensor], source: int, tag: int = 0) -> Work:
        host = staging.to_host(tensors[0], is_read=False)
        request = self._messages.Irecv(moves.as_bytes(host), source, tag)
        return PointToPoint("recv", list(tensors), self._timeout, request, host)

    def recv_anysource(self, tensors: Sequence[Tensor], tag: int = 0) -> Work:
        return self.recv(tensors, MPI.ANY_SOURCE, tag)

    # --- how all of them run ---

    def _start(
        self,
        name: str,
        run: Callable[[list[Tensor]], None],
        tensors: Sequence[Tensor],
        written: Sequence[Tensor],
        opts: Any,
        n_bytes: int | None = None,
    ) -> Work:
        """`run` gets all `tensors` flat, in the host's memory; what it does to those `written` goes back.

        `n_bytes`: how much it is, by what all processes know alike; they agree by it how they wait. Those of all
        `tensors` by default. Not by `opts`: it may be asynchronous for some of them.
        """
        is_async = getattr(opts, "asyncOp", True)
        timeout = one_of(getattr(opts, "timeout", None), self._timeout)
        n_bytes = _n_bytes(tensors) if n_bytes is None else n_bytes
        is_asleep = n_bytes >= _ASLEEP_FROM_BYTES or not library.has_a_core_each()
        staged = staging.Staged(tensors, written)

        def function() -> None:
            if is_asleep:
                self._sleep_until_all_are_here(name, timeout)
            with staged as host:
                run(host)

        work = Work(name, list(written), timeout, staged)
        return self._line.put(work, function) if is_async else self._line.run(work, function)

    def _sleep_until_all_are_here(self, name: str, timeout: timedelta) -> None:
        """Raises DistBackendError if they don't come in time: then the group can't be used any more."""
        arrived = self._comm.Ibarrier()
        if not sleep_until(arrived.Test, time.monotonic() + timeout.total_seconds()):
            raise timed_out(name, timeout)


def _n_bytes(tensors: Sequence[Tensor]) -> int:
    return sum(each.numel() * each.element_size() for each in tensors)


def _op(opts: Any) -> Any:
    return Op.SUM if opts is None else opts.reduceOp


def _row_bytes(tensor: Tensor) -> int:
    return tensor.element_size() * (tensor.numel() // len(tensor)) if len(tensor) else 0


def _check_sizes(whole: Tensor, n: int, name: str) -> None:
    if whole.numel() != n:
        raise ValueError(f"{name}: the whole has {whole.numel():,} elements, and the parts of all processes {n:,}")
