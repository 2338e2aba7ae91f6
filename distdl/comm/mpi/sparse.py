"""Sums of sparse tensors, such as an embedding's gradients: each process gets the entries of all, and adds them up."""

import math

import torch
from torch import Tensor

from distdl.comm.mpi import moves
from distdl.comm.mpi.moves import Comm


def all_reduce(comm: Comm, tensor: Tensor) -> None:
    """In place; in host memory."""
    mine = tensor.coalesce()
    n_entries = comm.allgather(mine._nnz())
    indices = _all_gather(comm, mine.indices().t(), n_entries).t()
    values = _all_gather(comm, mine.values(), n_entries)
    tensor.copy_(torch.sparse_coo_tensor(indices, values, tensor.shape).coalesce())


def _all_gather(comm: Comm, rows: Tensor, n_rows: list[int]) -> Tensor:
    rows = rows.contiguous()
    whole = rows.new_empty(sum(n_rows), *rows.shape[1:])
    row_bytes = rows.element_size() * math.prod(rows.shape[1:])
    moves.all_gather_rows(comm, whole, rows, n_rows, row_bytes)
    return whole
