"""`distdl bench comm`: the latency and bandwidth of the collectives by size, and of a copy in memory beside them.

    for each operation and size:  one call, whose numbers are checked  ->  a few to warm up  ->  batches of calls

The workers start a batch together (a barrier), and a batch takes as long as on the slowest of them. Batches, because
the workers leave a barrier some microseconds apart: of one small call alone, that would be most of the time.
"""

import math
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from distdl.bench import bandwidth
from distdl.bench.bandwidth import Row, Wanted
from distdl.comm import collectives, messages, probe, reduction
from distdl.comm.probe import Call, Prepare, Workers
from distdl.comm.world import WorldInfo
from distdl.errors import UserError
from distdl.trainer import setup
from distdl.trainer.loaders import share_of_cores

N_BATCHES = 20
_WARM_UP = 3  # calls
_LEAST, _MOST = 5, 20_000  # calls, where seconds are asked for
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


class WrongNumber(RuntimeError):
    """A collective gave another result than it should have."""


def measure(wanted: Wanted, world: WorldInfo, say: Callable[[str], None] = lambda text: None) -> Row:
    """The whole result, with a row for each operation and size. `say` gets the text of each part as it is measured.

    Raises UserError, and WrongNumber on all workers alike.
    """
    on = {"gloo": "cpu", "mpi": "cpu", "nccl": "cuda", "auto": "auto"}[wanted.backend]
    device = setup.pick_device(on, world, "command line --backend", "--backend gloo")
    torch.set_num_threads(share_of_cores(world))
    setup.keep_freed_memory()  # as in training
    with collectives.joined(world, wanted.backend, device):
        return _measure_all(wanted, world, device, say)


def _measure_all(wanted: Wanted, world: WorldInfo, device: torch.device, say: Callable[[str], None]) -> Row:
    per_node = reduction.workers_per_node(world)
    names = _operations(wanted, world, per_node)
    like = torch.empty(0, dtype=_DTYPES[wanted.dtype], device=device)
    workers = probe.find_workers(world, like, names, per_node)
    result: Row = {
        "date": time.strftime("%Y-%m-%d %H:%M:%S"),
        "host": world.host,
        "backend": collectives.backend_of(device),
        "device": torch.cuda.get_device_name() if device.type == "cuda" else device.type,
        "workers": world.world_size,
        "nodes": None if per_node is None else world.world_size // per_node,
        "workers_per_node": per_node,
        "threads": torch.get_num_threads(),
        "dtype": wanted.dtype,
        "torch": torch.__version__,
        "rows": [],
    }
    say(bandwidth.heading(result))
    copies_s = {size: _copy_s(workers, size, wanted) for size in wanted.sizes}
    for name in names:
        rows = _rows(name, workers, copies_s, wanted)
        say(bandwidth.table(rows))
        result["rows"] += rows
    return result


def _operations(wanted: Wanted, world: WorldInfo, per_node: int | None) -> list[str]:
    has_two_stages = per_node is not None and 1 < per_node < world.world_size
    if wanted.operations is None:
        return [name for name in probe.OPERATIONS if name != "hierarchical" or has_two_stages]
    if "hierarchical" in wanted.operations and not has_two_stages:
        raise UserError(
            "it needs several nodes with as many workers each, and more than one",
            where="command line --ops hierarchical",
            fix="Start it by torchrun on each of the nodes, or leave this operation out.",
        )
    return wanted.operations


def _rows(name: str, workers: Workers, copies_s: dict[int, float], wanted: Wanted) -> list[Row]:
    rows = []
    for size, copy_s in [(0, None)] if name == "barrier" else copies_s.items():
        batches_s, n_calls = _measure(name, probe.OPERATIONS[name], workers, size, wanted)
        size_bytes = _n_elements(size, workers) * workers.like.element_size()
        row = bandwidth.measured(name, size_bytes, workers.group.size, batches_s, copy_s)
        rows.append(row | {"iterations": n_calls})
    return rows


def _copy_s(workers: Workers, size: int, wanted: Wanted) -> float:
    batches_s, _ = _measure("copy", probe.copy, workers, size, wanted)
    return statistics.median(batches_s)


def _n_elements(size_bytes: int, workers: Workers) -> int:
    """Of the whole array: as many for each worker, and no fewer bytes than were asked for."""
    n_each = math.ceil(size_bytes / workers.like.element_size() / workers.group.size)
    return n_each * workers.group.size


def _measure(name: str, prepare: Prepare, workers: Workers, size_bytes: int, wanted: Wanted) -> tuple[list[float], int]:
    """Seconds of a call on the slowest worker, the mean of each batch; and the number of calls in all of them."""
    device = workers.like.device
    call = prepare(workers, _n_elements(size_bytes, workers))
    _slowest_s(call, 1, device)
    _check(call, name, size_bytes)
    for tensor in call.tensors:
        tensor.zero_()  # sums that are summed again would grow to infinity
    warm_up_s = _slowest_s(call, _WARM_UP, device)
    n_calls = wanted.iterations or min(max(math.ceil(wanted.seconds_each / warm_up_s), _LEAST), _MOST)
    n_batches = min(N_BATCHES, n_calls)
    counts = [n_calls // n_batches + (i < n_calls % n_batches) for i in range(n_batches)]
    return [_slowest_s(call, count, device) for count in counts], n_calls


def _slowest_s(call: Call, count: int, device: torch.device) -> float:
    """Seconds of a call on the slowest worker, the mean of `count` calls that all workers begin together."""
    _wait_for(device)
    collectives.barrier()
    began = time.perf_counter()
    for _ in range(count):
        call()
    _wait_for(device)
    seconds: list[float] = messages.gather_json((time.perf_counter() - began) / count)
    return max(seconds)


def _wait_for(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def _check(call: Call, name: str, size_bytes: int) -> None:
    are_right: list[Any] = messages.gather_json(call.is_right())
    wrong = [rank for rank, is_right in enumerate(are_right) if not is_right]
    if wrong:
        ranks = f"rank{'s' if len(wrong) > 1 else ''} {', '.join(map(str, wrong))}"
        raise WrongNumber(f"{name} of {bandwidth.show_size(size_bytes)} gave wrong numbers on {ranks}")
