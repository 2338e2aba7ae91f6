"""Sums and other reductions of contiguous tensors in host memory, on a communicator.

What MPI can't calculate with, bfloat16 and float16, is sent to whoever reduces it: each process gets its part from all,
reduces it in float32, rounds once, and sends it on.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from distdl.comm import mpi_library as library
from distdl.comm.mpi import moves
from distdl.comm.mpi.moves import Comm, memory

MPI = library.load()
Op: Any = dist.ReduceOp.RedOpType  # whose members its stubs don't list

PIECE_BYTES = 4 << 20  # what stays in the caches between the steps of an all-reduce
_MOST_BYTES = 1 << 30  # MPI counts by 32 bits

_HALVES = (torch.bfloat16, torch.float16)
_TYPES = {
    torch.float32: MPI.FLOAT,
    torch.float64: MPI.DOUBLE,
    torch.int8: MPI.INT8_T,
    torch.int16: MPI.INT16_T,
    torch.int32: MPI.INT32_T,
    torch.int64: MPI.INT64_T,
    torch.uint8: MPI.UINT8_T,
    torch.uint16: MPI.UINT16_T,
    torch.uint32: MPI.UINT32_T,
    torch.uint64: MPI.UINT64_T,
    torch.bool: MPI.C_BOOL,
    torch.complex64: MPI.C_FLOAT_COMPLEX,
    torch.complex128: MPI.C_DOUBLE_COMPLEX,
}
_OPS = {Op.SUM: MPI.SUM, Op.AVG: MPI.SUM, Op.PRODUCT: MPI.PROD, Op.MIN: MPI.MIN, Op.MAX: MPI.MAX}
_BITWISE = {Op.BAND: MPI.BAND, Op.BOR: MPI.BOR, Op.BXOR: MPI.BXOR}
_OF_TRUTH = {  # as if True were 1
    Op.SUM: MPI.LOR,
    Op.MAX: MPI.LOR,
    Op.BOR: MPI.LOR,
    Op.PRODUCT: MPI.LAND,
    Op.MIN: MPI.LAND,
    Op.BAND: MPI.LAND,
    Op.BXOR: MPI.LXOR,
}


class Reduction:
    """One of torch's, of tensors of one dtype. Raises ValueError where there is no such thing."""

    def __init__(self, op: Any, dtype: torch.dtype) -> None:
        self.op, self.dtype = _kind(op), dtype
        self._factor = _factor(op)
        self._is_half = dtype in _HALVES
        known = _OF_TRUTH if dtype == torch.bool else _OPS
        if not dtype.is_floating_point and not dtype.is_complex:
            known = _BITWISE | known
        if dtype.is_complex:
            known = {each: known[each] for each in (Op.SUM, Op.AVG, Op.PRODUCT)}
        kind = Op.SUM if self.op == Op.PREMUL_SUM else self.op
        if (dtype not in _TYPES and not self._is_half) or kind not in known:
            raise ValueError(f"{self.op.name} of {dtype} is not possible")
        self._mpi_op = known[kind]

    def all_reduce(self, comm: Comm, tensor: Tensor) -> None:
        """In place; flat and contiguous."""
        self._begin(tensor)
        # Who waits without a core of his own, and takes another's, does so at the end of each piece.
        size = PIECE_BYTES if library.has_a_core_each() or library.yields() else _MOST_BYTES
        for piece in tensor.split(size // tensor.element_size()) or ():
            if self._is_half:
                self._all_reduce_half(comm, piece)
            else:
                comm.Allreduce(MPI.IN_PLACE, self._numbers(piece), self._mpi_op)
        self._end(tensor, comm.size)

    def reduce(self, comm: Comm, tensor: Tensor, root: int) -> None:
        """In place on the root; what the others have is undefined afterwards."""
        self._begin(tensor)
        for piece in tensor.split(_MOST_BYTES // tensor.element_size()):
            if self._is_half:
                self._all_reduce_half(comm, piece)
            elif comm.rank == root:
                result = torch.empty_like(piece)  # in place MPICH 4.0 crashes from some size on, unless the root is 0
                comm.Reduce(self._numbers(piece), self._numbers(result), self._mpi_op, root)
                piece.copy_(result)
            else:
                comm.Reduce(self._numbers(piece), None, self._mpi_op, root)
        if comm.rank == root:
            self._end(tensor, comm.size)

    def reduce_scatter(self, comm: Comm, part: Tensor, whole: Tensor) -> None:
        """`whole`: shape (size * n,), which may be changed; `part`: (n,), the reduced i-th part of process i."""
        self._begin(whole)
        n = part.numel()
        if self._is_half:
            received = torch.empty_like(whole)
            moves.all_to_all(comm, received, whole)
            self._reduce_rows(received.view(comm.size, n), part)
        elif n * part.element_size() < _MOST_BYTES:
            comm.Reduce_scatter_block([memory(whole), n, _TYPES[self.dtype]], self._numbers(part), self._mpi_op)
        else:
            for root, each in enumerate(whole.view(comm.size, n)):
                self.reduce(comm, each, root)
            part.copy_(whole.view(comm.size, n)[comm.rank])
            return
        self._end(part, comm.size)

    def _all_reduce_half(self, comm: Comm, tensor: Tensor) -> None:
        n = -(-tensor.numel() // comm.size)
        sent = tensor
        if n * comm.size != tensor.numel():
            sent = tensor.new_zeros(n * comm.size)
            sent[: tensor.numel()] = tensor
        received = torch.empty_like(sent)
        moves.all_to_all(comm, received, sent)
        self._reduce_rows(received.view(comm.size, n), sent.view(comm.size, n)[comm.rank])
        comm.Allgather(MPI.IN_PLACE, [memory(sent), *moves.bytes_of(n * sent.element_size())])
        if sent is not tensor:
            tensor.copy_(sent[: tensor.numel()])

    def _reduce_rows(self, rows: Tensor, result: Tensor) -> None:
        match self.op:
            case Op.MAX:
                result.copy_(rows.amax(0))
            case Op.MIN:
                result.copy_(rows.amin(0))
            case Op.PRODUCT:
                result.copy_(rows.prod(0, dtype=torch.float32))
            case Op.AVG:
                result.copy_(rows.sum(0, dtype=torch.float32).div_(len(rows)))
            case _ if len(rows) == 2:
                torch.add(rows[0], rows[1], out=result)  # it rounds once as well
            case _:
                result.copy_(rows.sum(0, dtype=torch.float32))

    def _numbers(self, tensor: Tensor) -> list[object]:
        return [memory(tensor), tensor.numel(), _TYPES[self.dtype]]

    def _begin(self, tensor: Tensor) -> None:
        if self._factor is not None:
            tensor.mul_(self._factor)

    def _end(self, tensor: Tensor, size: int) -> None:
        if self.op == Op.AVG and not self._is_half:
            is_whole = not tensor.is_floating_point() and not tensor.is_complex()
            tensor.copy_(tensor.div(size, rounding_mode="trunc")) if is_whole else tensor.div_(size)


_made: dict[tuple[Any, torch.dtype], Reduction] = {}


def reduction(op: Any, dtype: torch.dtype) -> Reduction:
    """Raises ValueError where there is no such thing."""
    kind = _kind(op)
    if kind == Op.PREMUL_SUM:
        return Reduction(op, dtype)
    if (kind, dtype) not in _made:
        _made[kind, dtype] = Reduction(op, dtype)
    return _made[kind, dtype]


def _kind(op: Any) -> Any:
    """`op`: a ReduceOp, or its kind alone."""
    return getattr(op, "op", op)


def _factor(op: Any) -> "float | Tensor | None":
    """Of a premultiplied sum."""
    if _kind(op) != Op.PREMUL_SUM:
        return None
    factor: float | Tensor = op.__getstate__()[1]
    return factor
