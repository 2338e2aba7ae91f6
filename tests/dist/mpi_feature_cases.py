"""What torch.distributed promises beyond the collectives themselves, and what is built upon it, over MPI: a case in
every worker. Training is compared with gloo, or with one process that gets the batches of all workers."""

import copy
import functools
import operator
import os
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from mpi_cases import gloo
from torch import Tensor, nn
from torch.distributed._functional_collectives import (
    all_gather_tensor,
    all_reduce,
    all_to_all_single,
    reduce_scatter_tensor,
)
from torch.distributed.algorithms.join import Join
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from distdl.comm import collectives, mpi
from distdl.comm.world import detect

N_STEPS = 3


def _mine(n: int = 4) -> Tensor:
    return torch.arange(float(n)) + 10 * dist.get_rank()


# --- futures, objects, groups ---


def mpi_futures() -> Any:
    """One that is asked for while its collective runs, and one that is asked for later."""
    early, late = _mine(100_000), _mine()
    future = dist.all_reduce(early, async_op=True).get_future().then(lambda of: of.value()[0] * 2)
    work = dist.all_reduce(late, async_op=True)
    work.wait()
    then = work.get_future().then(lambda of: of.value()[0] * 3)
    return [future.wait()[:4].tolist(), then.wait().tolist(), work.is_completed(), work.is_success()]


def mpi_objects() -> Any:
    rank, n = dist.get_rank(), dist.get_world_size()
    mine = {"rank": rank, "text": "x" * (1000 * rank)}
    gathered: list[Any] = [None] * n
    at_root = [None] * n if rank == n - 1 else None
    told = [mine, rank] if rank == 1 else [None, None]
    given: list[Any] = [None]
    dist.all_gather_object(gathered, mine)
    dist.gather_object(mine, at_root, dst=n - 1)
    dist.broadcast_object_list(told, src=1)
    dist.scatter_object_list(given, [f"for {i}" for i in range(n)] if rank == 0 else None, src=0)
    return [
        [[each["rank"], len(each["text"])] for each in gathered],
        at_root and [each["rank"] for each in at_root],
        [told[0]["rank"], told[1]],
        given[0],
    ]


def mpi_sub_groups() -> Any:
    """The sums over the even ranks and the odd ones, and over gloo's first three beside them."""
    rank, n = dist.get_rank(), dist.get_world_size()
    halves = [dist.new_group(list(range(first, n, 2))) for first in (0, 1)]
    three = dist.new_group([0, 1, 2], backend="gloo")
    number, by_gloo = torch.tensor([float(rank)]), torch.tensor([float(rank)])
    dist.all_reduce(number, group=halves[rank % 2])
    if rank < 3:
        dist.all_reduce(by_gloo, group=three)
    last = torch.tensor([float(rank)])
    dist.broadcast(last, n - 2 + rank % 2, group=halves[rank % 2])
    for group in (halves[rank % 2], *([three] if rank < 3 else [])):
        dist.destroy_process_group(group)
    return [number.item(), by_gloo.item(), last.item()]


def mpi_threads(n_rounds: int) -> Any:
    """Two groups, each used by a thread of its own, in whatever order the threads come to run."""
    groups = [dist.new_group(), dist.new_group()]
    sums: list[list[float]] = [[], []]

    def use(number: int) -> None:
        for i in range(n_rounds):
            tensor = torch.full((1000 if i % 2 else 100_000,), float(i + number))
            dist.all_reduce(tensor, group=groups[number])
            sums[number].append(tensor.max().item())

    threads = [threading.Thread(target=use, args=[number]) for number in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for group in groups:
        dist.destroy_process_group(group)
    return sums


def mpi_mesh() -> Any:
    """Sums along each dimension of 2x2 workers, and of all of them as one dimension."""
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("outer", "inner"))
    sums = []
    for group in (mesh["outer"].get_group(), mesh["inner"].get_group(), mesh["outer", "inner"]._flatten().get_group()):
        number = torch.tensor([2.0 ** dist.get_rank()])
        dist.all_reduce(number, group=group)
        sums.append(number.item())
    return sums


def mpi_functional() -> Any:
    rank, n = dist.get_rank(), dist.get_world_size()
    group = dist.group.WORLD
    return [
        all_reduce(torch.tensor([rank + 1.0]), "sum", group).tolist(),
        all_gather_tensor(torch.tensor([[rank]]), 1, group).tolist(),
        reduce_scatter_tensor(torch.arange(n) + rank, "sum", 0, group).tolist(),
        all_to_all_single(torch.arange(n) + 10 * rank, [1] * n, [1] * n, group).tolist(),
    ]


def mpi_coalesced(is_async: bool) -> Any:
    rank, n = dist.get_rank(), dist.get_world_size()
    sums = [torch.tensor([float(rank + i)]) for i in range(3)]
    wholes, parts = [torch.empty(n), torch.empty(2 * n)], [torch.tensor([float(rank)]), _mine(2)]
    shares = [torch.empty(1), torch.empty(2)]
    with dist._coalescing_manager(async_ops=is_async) as reductions:
        for each in sums:
            dist.all_reduce(each)
    with dist._coalescing_manager(async_ops=is_async) as gathers:
        for whole, part in zip(wholes, parts):
            dist.all_gather_into_tensor(whole, part)
    with dist._coalescing_manager(async_ops=is_async) as scatters:
        for share in shares:
            dist.reduce_scatter_tensor(share, torch.arange(float(len(share) * n)))
    for each in (reductions, gathers, scatters) if is_async else ():
        each.wait()
    return [[each.tolist() for each in tensors] for tensors in (sums, wholes, shares)]


def mpi_premultiplied(factor: float) -> Any:
    op = dist._make_nccl_premul_sum(factor)
    whole, part = _mine(dist.get_world_size()), torch.empty(1)
    dist.reduce_scatter_tensor(part, whole, op=op)
    dist.all_reduce(whole, op=op)
    return [whole.tolist(), part.item()]


def mpi_sparse() -> Any:
    """An entry of each worker's own, which gives it twice, and one that all have; the last worker has none at all."""
    rank, n = dist.get_rank(), dist.get_world_size()
    indices = [[rank, rank, n]] if rank < n - 1 else [[]]
    values = torch.ones(len(indices[0]), 2)
    tensor = torch.sparse_coo_tensor(torch.tensor(indices, dtype=torch.int64), values, (n + 1, 2))
    dist.all_reduce(tensor)
    return tensor.to_dense()[:, 0].tolist()


def mpi_barrier() -> Any:
    """When each worker came to it, and when it went on. The last comes late."""
    time.sleep(0.1 * dist.get_rank())
    came = time.monotonic()
    dist.barrier()
    return [came, time.monotonic()]


def mpi_unlike(n: int, n_more: int) -> Any:
    """Collectives that rank 0 calls synchronously and the others don't; rank i has `n + i * n_more` numbers to give.
    What each got, summed."""
    rank, size = dist.get_rank(), dist.get_world_size()
    numbers = [n + each * n_more for each in range(size)]
    whole, part = torch.ones(n), torch.empty(n)
    parts = [torch.empty(n) for _ in range(size)]
    unlike = [torch.empty(each) for each in numbers]
    came = torch.empty(size * numbers[rank])
    calls = [
        lambda **how: dist.all_reduce(whole, **how),
        lambda **how: dist.scatter(part, [torch.full((n,), float(i)) for i in range(size)] if rank == 0 else None, **how),
        lambda **how: dist.gather(part, parts if rank == 0 else None, **how),
        lambda **how: dist.all_gather(unlike, torch.full((numbers[rank],), float(rank)), **how),
        lambda **how: dist.all_to_all_single(came, torch.ones(sum(numbers)), [numbers[rank]] * size, numbers, **how),
    ]
    for call in calls:
        work = call(async_op=rank > 0)
        if work is not None:
            work.wait()
    own = [each.sum().item() for each in (whole, part, torch.cat(unlike), came)]
    return [*own, torch.cat(parts).sum().item() if rank == 0 else None]


def mpi_sum_of_some() -> Any:
    """Of all but the last worker, which does something else."""
    some = dist.new_group(list(range(dist.get_world_size() - 1)))
    number = torch.tensor([2.0 ** dist.get_rank()])
    if dist.get_rank() < dist.get_world_size() - 1:
        dist.all_reduce(number, group=some)
    return number.item()


# --- messages ---


def mpi_messages() -> Any:
    """To rank 0: from anyone, then by tag in the other order. From rank 0: to all at once."""
    rank, n = dist.get_rank(), dist.get_world_size()
    if rank == 0:
        begun = [dist.isend(torch.full((3,), float(to)), to) for to in range(1, n)]
        sources, values = [], []
        for _ in range(1, n):
            tensor = torch.empty(1)
            sources.append(dist.recv(tensor))
            values.append(tensor.item())
        by_tag = []
        for tag in (7, 5):
            tensor = torch.empty(1)
            dist.recv(tensor, 1, tag=tag)
            by_tag.append(tensor.item())
        for each in begun:
            each.wait()
        return [sorted(sources), [value == 10 * source for source, value in zip(sources, values)], by_tag]
    dist.send(torch.tensor([10.0 * rank]), 0)
    if rank == 1:
        for tag in (5, 7):
            dist.send(torch.tensor([float(tag)]), 0, tag=tag)
    came = torch.empty(3)
    dist.irecv(came, 0).wait()
    return came.tolist()


def mpi_batch() -> Any:
    """Everyone to everyone, of unlike sizes, in one batch."""
    rank, n = dist.get_rank(), dist.get_world_size()
    others = [each for each in range(n) if each != rank]
    came = {each: torch.empty(each + 1) for each in others}
    sends = [dist.P2POp(dist.isend, torch.full((rank + 1,), float(10 * rank + to)), to) for to in others]
    for each in dist.batch_isend_irecv([*sends, *(dist.P2POp(dist.irecv, came[each], each) for each in others)]):
        each.wait()
    return {each: tensor.tolist() for each, tensor in came.items()}


def mpi_large(form: str) -> Any:
    """More than 2^31 bytes, of which a few are not zero: those, and how many others aren't either."""
    n_bytes = (1 << 31) + 5
    marks = [0, 1 << 30, (1 << 31) - 1, 1 << 31, n_bytes - 1]
    found = mine = torch.zeros(n_bytes, dtype=torch.uint8)
    mine[marks] = torch.arange(1, 6, dtype=torch.uint8) + 10 * dist.get_rank()
    match form:
        case "all_reduce":
            dist.all_reduce(mine)
        case "broadcast":
            dist.broadcast(mine, 1)
        case "all_gather":
            found = torch.empty(dist.get_world_size() * n_bytes, dtype=torch.uint8)
            dist.all_gather_into_tensor(found, mine)
        case "send" if dist.get_rank() == 0:
            dist.send(mine, 1)
        case "send":
            dist.recv(mine, 0)
    return [[each[marks].tolist(), int(each.count_nonzero()) - len(marks)] for each in found.split(n_bytes)]


# --- training ---


def _network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 4))


def _batches(rank: int, n_steps: int = N_STEPS) -> list[Tensor]:
    return list(torch.randn(n_steps, 8, 16, generator=torch.Generator().manual_seed(rank)))


def _loss(network: nn.Module, inputs: Tensor) -> Tensor:
    return network(inputs).float().square().mean()


def _trained(group: dist.ProcessGroup | None, n_steps: int, is_joined: bool, **options: Any) -> list[Tensor]:
    # Buckets of 1 KiB: several all-reduces in flight.
    network = DistributedDataParallel(_network(), process_group=group, bucket_cap_mb=1 / 1024, **options)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    with Join([network], enable=is_joined):
        for inputs in _batches(dist.get_rank(), n_steps):
            optimizer.zero_grad()
            _loss(network, inputs).backward()
            optimizer.step()
    return [each.detach() for each in network.parameters()]


def mpi_ddp(form: str) -> Any:
    """How far the weights are from gloo's, and from those before."""
    n_steps = N_STEPS + 2 * dist.get_rank() if form == "uneven" else N_STEPS
    options = {"static_graph": True} if form == "static graph" else {}
    found, by_gloo = (_trained(group, n_steps, form == "uneven", **options) for group in (None, gloo()))
    return [_farthest(found, by_gloo), _farthest(found, list(_network().parameters()))]


def mpi_fsdp(is_hybrid: bool, is_half: bool) -> Any:
    """How far the weights are from those of one process, and whether each worker holds a part of them alone."""
    rank, n = dist.get_rank(), dist.get_world_size()
    network, alone = _network(), _network()
    shape = {"same": 2, "parts": n // 2} if is_hybrid else {"parts": n}
    mesh = init_device_mesh("cpu", tuple(shape.values()), mesh_dim_names=tuple(shape))
    options: dict[str, Any] = {"mesh": mesh}
    if is_half:
        options["mp_policy"] = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.bfloat16)
    for layer in network[::2]:
        fully_shard(layer, **options)
    fully_shard(network, **options)
    optimizers = [torch.optim.AdamW(each.parameters(), lr=1e-3) for each in (network, alone)]
    for step in range(N_STEPS):
        for optimizer in optimizers:
            optimizer.zero_grad()
        _loss(network, _batches(rank)[step]).backward()
        _loss(alone, torch.cat([_batches(each)[step] for each in range(n)])).backward()
        for optimizer in optimizers:
            optimizer.step()
    weights = [_sharded(each) for each in network.parameters()]
    n_mine = sum(each.to_local().numel() for each in weights)
    return [_farthest([each.full_tensor() for each in weights], list(alone.parameters())), n_mine]


def mpi_checkpoint(folder: str, is_async: bool) -> Any:
    """Whether what was saved is what comes back, and whether that differs from what was there."""
    networks = [_network(seed) for seed in (0, 1)]
    for network in networks:
        fully_shard(network, mesh=init_device_mesh("cpu", (dist.get_world_size(),)))
    saved, loaded = (network.state_dict() for network in networks)
    before = copy.deepcopy(loaded)
    if is_async:
        dcp.async_save(saved, checkpoint_id=Path(folder)).result()
    else:
        dcp.save(saved, checkpoint_id=Path(folder))
    dcp.load(loaded, checkpoint_id=Path(folder))
    return [_is_equal(saved, loaded), _is_equal(before, loaded)]


def _is_equal(ours: dict[str, Any], others: dict[str, Any]) -> bool:
    pairs = [(ours[name].to_local(), others[name].to_local()) for name in ours]
    return all(torch.equal(a, b) for a, b in pairs)


def _sharded(weight: Tensor) -> DTensor:
    assert isinstance(weight, DTensor)
    return weight


def _farthest(ours: list[Tensor], others: list[Tensor]) -> float:
    return max((a - b).abs().max().item() for a, b in zip(ours, others, strict=True))


# --- how they meet, and part ---


def mpi_meeting(backend: str, options: dict[str, Any]) -> Any:
    """Everyone leaves, meets in another way, and comes back to this one."""
    timeout = timedelta(seconds=float(os.environ["TIMEOUT_S"]))
    collectives.leave()
    gloo.cache_clear()
    dist.init_process_group(backend, **options)
    total = torch.tensor([2.0 ** dist.get_rank()])
    dist.all_reduce(total)
    met = [dist.get_backend(), dist.get_world_size(), total.item()]
    dist.destroy_process_group()
    world = detect()
    assert world is not None
    collectives.join(world, "mpi", torch.device("cpu"), timeout)
    return [*met, dist.get_backend() == mpi.NAME, functools.reduce(operator.add, _ranks())]


def _ranks() -> list[int]:
    gathered: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(gathered, dist.get_rank())
    return gathered


def mpi_timeouts(seconds: float) -> Any:
    """Collectives that the last worker does not come to: what each raises, after how long, and what the next one of its
    group does. They are all broken afterwards."""
    limit = timedelta(seconds=seconds)
    few, many = torch.ones(4), torch.ones(1 << 18)
    calls = {
        "asynchronous": lambda group: dist.all_reduce(few, group=group, async_op=True).wait(),
        "large": lambda group: dist.all_reduce(many, group=group),
        "barrier": lambda group: dist.barrier(group),
        "the wait alone": lambda group: dist.all_reduce(few, group=group, async_op=True).wait(limit),
        "receive": lambda group: dist.irecv(few, dist.get_world_size() - 1, group=group).wait(limit),
    }
    minutes = timedelta(minutes=5)
    by_call = ("the wait alone", "receive")
    groups = {name: dist.new_group(timeout=minutes if name in by_call else limit) for name in calls}
    found = {}
    for name, call in calls.items() if dist.get_rank() < dist.get_world_size() - 1 else ():
        start = time.monotonic()
        error = _error(lambda call=call, group=groups[name]: call(group))
        found[name] = [error, time.monotonic() - start]
        if name not in by_call:
            found[name].append(_error(lambda group=groups[name]: dist.all_reduce(few, group=group)))
            dist.destroy_process_group(groups[name])
    return found


def _error(call: Callable[[], Any]) -> str:
    try:
        call()
    except dist.DistBackendError as error:
        return str(error)
    return "nothing"
