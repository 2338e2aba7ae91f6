"""Moving contiguous tensors in host memory over a communicator, as bytes, without a copy."""

from collections.abc import Sequence
from functools import cache
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from distdl.comm import mpi_library as library

MPI = library.load()
Comm = Any  # MPI.Intracomm

_MOST = (1 << 31) - 1  # MPI counts by 32 bits
_BLOCK_BYTES = 1 << 30


def memory(tensor: Tensor) -> Any:
    """The memory of a contiguous tensor, to be read or written now."""
    if tensor.is_cuda:  # for an MPI that is aware of it
        torch.cuda.current_stream(tensor.device).synchronize()
    return MPI.memory.fromaddress(tensor.data_ptr(), tensor.numel() * tensor.element_size())


def bytes_of(n_bytes: int) -> tuple[int, Any]:
    """(count, datatype) for so many bytes."""
    return (n_bytes, MPI.BYTE) if n_bytes <= _MOST else (1, _many_bytes(n_bytes))


def as_bytes(tensor: Tensor) -> list[Any]:
    return [memory(tensor), *bytes_of(tensor.numel() * tensor.element_size())]


@cache
def _many_bytes(n_bytes: int) -> Any:
    block = MPI.BYTE.Create_contiguous(_BLOCK_BYTES)
    n_blocks, rest = divmod(n_bytes, _BLOCK_BYTES)
    made = MPI.Datatype.Create_struct([n_blocks, rest], [0, n_blocks * _BLOCK_BYTES], [block, MPI.BYTE])
    return made.Commit()


def broadcast(comm: Comm, tensor: Tensor, root: int) -> None:
    comm.Bcast(as_bytes(tensor), root)


def all_gather(comm: Comm, whole: Tensor, part: Tensor) -> None:
    """`part`, n elements of every process, one behind the other into `whole`, of which it may be one."""
    n_bytes = part.numel() * part.element_size()
    to = [memory(whole), *bytes_of(n_bytes)]
    in_place = part.data_ptr() == whole.data_ptr() + comm.rank * n_bytes
    comm.Allgather(MPI.IN_PLACE if in_place else as_bytes(part), to)


def gather(comm: Comm, whole: Tensor | None, part: Tensor, root: int) -> None:
    """Likewise, into the root's `whole` alone."""
    n_bytes = part.numel() * part.element_size()
    comm.Gather(as_bytes(part), None if whole is None else [memory(whole), *bytes_of(n_bytes)], root)


def scatter(comm: Comm, part: Tensor, whole: Tensor | None, root: int) -> None:
    """The i-th part of the root's `whole` into the `part` of process i."""
    n_bytes = part.numel() * part.element_size()
    comm.Scatter(None if whole is None else [memory(whole), *bytes_of(n_bytes)], as_bytes(part), root)


def all_to_all(comm: Comm, received: Tensor, sent: Tensor) -> None:
    """The i-th part of `sent` to process i."""
    to_each = bytes_of(sent.numel() * sent.element_size() // comm.size)
    comm.Alltoall([memory(sent), *to_each], [memory(received), *to_each])


def all_to_all_rows(
    comm: Comm, received: Tensor, sent: Tensor, n_received: Sequence[int], n_sent: Sequence[int], row_bytes: int
) -> None:
    """`n_sent[i]` rows of so many bytes to process i, and `n_received[i]` from it."""
    row = MPI.BYTE.Create_contiguous(row_bytes).Commit()  # counted in rows there are fewer than 2^31
    try:
        comm.Alltoallv([memory(sent), *_placed(n_sent), row], [memory(received), *_placed(n_received), row])
    finally:
        row.Free()


def all_gather_rows(comm: Comm, whole: Tensor, part: Tensor, n_rows: Sequence[int], row_bytes: int) -> None:
    """`n_rows[i]` rows of process i, one behind the other into `whole`."""
    row = MPI.BYTE.Create_contiguous(row_bytes).Commit()
    try:
        comm.Allgatherv([memory(part), n_rows[comm.rank], row], [memory(whole), *_placed(n_rows), row])
    finally:
        row.Free()


def _placed(counts: Sequence[int]) -> tuple[list[int], list[int]]:
    """The counts, and where each begins."""
    return list(counts), [0, *accumulate(counts[:-1])]
