"""What the tests of MPI have every worker do. A case returns what was wrong: against what one process calculates, and
against gloo, where gloo can do it at all."""

from collections.abc import Callable
from functools import cache, reduce
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

Op = dist.ReduceOp
PAIRS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "SUM": torch.add,
    "AVG": torch.add,
    "PRODUCT": torch.mul,
    "MIN": torch.minimum,
    "MAX": torch.maximum,
    "BAND": torch.bitwise_and,
    "BOR": torch.bitwise_or,
    "BXOR": torch.bitwise_xor,
}
TRUTH: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "SUM": torch.logical_or,
    "MAX": torch.logical_or,
    "PRODUCT": torch.logical_and,
    "MIN": torch.logical_and,
}


def made(dtype: torch.dtype, shape: list[int], layout: str, seed: int) -> Tensor:
    """Small whole numbers, of which every dtype has the sums and products exactly."""
    numbers = torch.randint(0, 4, shape, generator=torch.Generator().manual_seed(seed)).to(dtype)
    if layout == "transposed" and len(shape) > 1:
        return numbers.transpose(0, 1).contiguous().transpose(0, 1)
    if layout == "every second":
        return torch.stack([numbers, numbers], -1)[..., 0]
    return numbers


def reduced(tensors: list[Tensor], op: str) -> Tensor:
    dtype = tensors[0].dtype
    if dtype == torch.bool:
        return reduce(TRUTH.get(op, PAIRS[op]), tensors)
    total = reduce(PAIRS[op], tensors)
    if op == "AVG":
        if dtype.is_floating_point:
            return (total.double() / len(tensors)).to(dtype)
        return total.div(len(tensors), rounding_mode="trunc")
    return total


@cache
def gloo() -> dist.ProcessGroup:
    group = dist.new_group(backend="gloo")
    assert group is not None
    return group


def compared(do: Callable[[dist.ProcessGroup], list[Tensor]], expected: list[Tensor], layout: str) -> list[str]:
    found = do(dist.group.WORLD)
    wrong = _wrong("calculated", found, expected)
    if layout != "plain":
        return wrong  # gloo takes the memory as if it were contiguous
    try:
        by_gloo = do(gloo())
    except (RuntimeError, ValueError):  # not of this type, or not of this layout
        return wrong
    return wrong + _wrong("by gloo", found, by_gloo)


def mpi_reduction(form: str, dtype: str, op: str, shape: list[int], layout: str, is_async: bool, seed: int) -> list[str]:
    rank, n = dist.get_rank(), dist.get_world_size()
    kind, torch_op = getattr(torch, dtype), getattr(Op, op)
    root = seed % n
    options: dict[str, Any] = {"op": torch_op, "async_op": is_async}
    inputs = [[made(kind, shape, layout, seed + each * n + i) for i in range(n)] for each in range(n)]

    def do(group: dist.ProcessGroup) -> list[Tensor]:
        mine = made(kind, shape, layout, seed + rank * n)
        result = torch.empty_like(mine)
        match form:
            case "all_reduce":
                _over(dist.all_reduce(mine, **options, group=group))
                return [mine]
            case "reduce":
                _over(dist.reduce(mine, root, **options, group=group))
                return [mine] if rank == root else []
            case "reduce_scatter":
                _over(dist.reduce_scatter(result, inputs[rank], **options, group=group))
            case "reduce_scatter_tensor":
                whole = torch.stack([each.contiguous() for each in inputs[rank]])
                _over(dist.reduce_scatter_tensor(result, whole, **options, group=group))
        return [result]

    if form in ("all_reduce", "reduce"):
        expected = [reduced([each[0] for each in inputs], op)] if form == "all_reduce" or rank == root else []
    else:
        expected = [reduced([each[rank] for each in inputs], op)]
    return compared(do, expected, layout)


def mpi_move(form: str, dtype: str, shape: list[int], layout: str, is_async: bool, seed: int) -> list[str]:
    rank, n = dist.get_rank(), dist.get_world_size()
    kind, root = getattr(torch, dtype), seed % n
    inputs = [made(kind, shape, layout, seed + each) for each in range(n)]
    given = [made(kind, shape, layout, seed + 100 + each) for each in range(n)]

    def piece(source: int, to: int) -> Tensor:
        """Of an all-to-all: rank i sends i + j rows to rank j."""
        return made(kind, [source + to, *shape], layout, seed + source * n + to)

    def do(group: dist.ProcessGroup) -> list[Tensor]:
        options: dict[str, Any] = {"async_op": is_async, "group": group}
        mine = made(kind, shape, layout, seed + rank)
        outputs = [torch.empty_like(mine) for _ in range(n)]
        match form:
            case "broadcast":
                _over(dist.broadcast(mine, root, **options))
                return [mine]
            case "all_gather":
                _over(dist.all_gather(outputs, mine, **options))
                return outputs
            case "all_gather_into_tensor":
                whole = torch.empty(n, *shape, dtype=kind)
                _over(dist.all_gather_into_tensor(whole, mine, **options))
                return list(whole)
            case "gather":
                _over(dist.gather(mine, outputs if rank == root else None, root, **options))
                return outputs if rank == root else []
            case "scatter":
                _over(dist.scatter(mine, given if rank == root else None, root, **options))
                return [mine]
            case "all_to_all":
                outputs = [torch.empty_like(piece(each, rank)) for each in range(n)]
                _over(dist.all_to_all(outputs, [piece(rank, each) for each in range(n)], **options))
                return outputs
            case "all_to_all_single":
                sent = torch.cat([piece(rank, each) for each in range(n)])
                came = torch.empty([sum(each + rank for each in range(n)), *shape], dtype=kind)
                splits = ([each + rank for each in range(n)], [rank + each for each in range(n)])
                _over(dist.all_to_all_single(came, sent, *splits, **options))
                return list(came.split(splits[0]))
            case "ring":
                came = torch.empty_like(mine)
                there, back = (rank + 1) % n, (rank - 1) % n
                begun = [dist.P2POp(dist.isend, mine, there, group), dist.P2POp(dist.irecv, came, back, group)]
                for each in dist.batch_isend_irecv(begun):
                    each.wait()
                return [came]
        raise ValueError(form)

    by_form = {
        "broadcast": [inputs[root]],
        "gather": inputs if rank == root else [],
        "scatter": [given[rank]],
        "all_to_all": [piece(each, rank) for each in range(n)],
        "all_to_all_single": [piece(each, rank) for each in range(n)],
        "ring": [inputs[(rank - 1) % n]],
    }
    return compared(do, by_form.get(form, inputs), layout)


def _over(work: Any) -> None:
    if work is not None:
        work.wait()


def _wrong(against: str, found: list[Tensor], expected: list[Tensor]) -> list[str]:
    assert len(found) == len(expected)
    pairs = zip(found, expected)
    return [f"{a.tolist()} for {b.tolist()} ({against})" for a, b in pairs if not torch.equal(a, b)]
