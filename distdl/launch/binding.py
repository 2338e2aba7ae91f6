"""Which cores a worker computes on, and with how many threads: `dist.bind`.

    cores()        those that this process was given: by its affinity mask and by the CPU quota of its control groups
    threads(...)   a worker's share of them, unless the user has said otherwise
    bind(...)      this worker to its part of the cores beside its GPU

A copy from memory of the other socket to a GPU takes the longer way through both, and a thread that the kernel moves
there leaves its caches behind. All of it is read from /proc and /sys, which tests replace by folders of files.
"""

import contextlib
import functools
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distdl.run import cgroups

_ROOT = Path("/")
_MARGIN = 2.0  # decoding and computing take turns: as many threads again as there are cores do no harm


@dataclass(frozen=True, slots=True, kw_only=True)
class Binding:
    """What was done. `cores`: those that the worker may run on now; `node`: of memory, None where it isn't known."""

    cores: tuple[int, ...]
    node: int | None
    reason: str
    """why these, or why it was left alone"""

    @property
    def is_bound(self) -> bool:
        return bool(self.cores)

    def noted(self) -> dict[str, Any]:
        """For environment.json."""
        return {"bound_to": as_list(self.cores) or None, "memory_node": self.node, "binding": str(self)}

    def __str__(self) -> str:
        if not self.is_bound:
            return f"not bound: {self.reason}"
        return f"bound to cores {as_list(self.cores)} of memory node {self.node}, {self.reason}"


def cores(proc: Path = cgroups.SELF) -> int:
    """How many cores this process may keep busy. A quota of two and a half is two: the threads of an operator wait for
    the slowest of them."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cgroups.cpu_quota(proc)
    return affinity if quota is None else max(1, min(affinity, int(quota)))


def share(n_local_workers: int) -> float:
    """Cores for each of the workers of this machine.

    A worker that its launcher has given cores of its own (mpirun --bind-to, srun --cpu-bind) shares them with nobody.
    """
    n_cores, is_alone = _given()
    return float(n_cores) if is_alone else n_cores / n_local_workers


@functools.cache
def _given() -> tuple[int, bool]:
    """How many cores this process was started with, and whether it has fewer than the process that started it: once
    and for all, since `bind` changes both."""
    try:
        is_alone = os.sched_getaffinity(0) < os.sched_getaffinity(os.getppid())
    except (AttributeError, OSError):  # another system; the parent is gone or in another container
        is_alone = False
    return cores(), is_alone


def threads(
    n_local_workers: int, environment: Mapping[str, str] = os.environ, parent: Path | None = None
) -> tuple[int, str]:
    """Threads for the operators of a worker, and who says so: OMP_NUM_THREADS, if the user has set it, or the share.

    Launchers set it as well: torchrun to 1, distdl's to the share. It is the user's if the launcher, the `parent`, was
    started with it; where that can't be seen, a 1 is taken for torchrun's.
    """
    by_share = max(1, int(share(n_local_workers))), "share of the cores"
    text = environment.get("OMP_NUM_THREADS", "").partition(",")[0]
    if not text.isdigit() or int(text) < 1:
        return by_share
    if "TORCHELASTIC_RESTART_COUNT" in environment:
        variables = _bytes((parent or Path(f"/proc/{os.getppid()}")) / "environ")
        is_users = b"\0OMP_NUM_THREADS=" in b"\0" + variables if variables else text != "1"
        if not is_users:
            return by_share
    return int(text), "OMP_NUM_THREADS"


def too_few(n_local_workers: int, n_threads: int, n_loading: int) -> str | None:
    """What to say where decoding and computing together need clearly more cores than there are; None if they don't."""
    mine = share(n_local_workers)
    if n_threads + n_loading <= _MARGIN * mine + 1:
        return None
    fitting = max(1, int(mine))
    if n_loading > fitting:
        fix = f"data.workers={fitting}"
    elif n_threads > fitting:
        fix = f"train.threads={fitting}"
    else:
        fix = f"--nproc {max(1, int(n_local_workers * mine))}"
    return (
        f"warning: data.workers: {n_loading} that decode and {n_threads} threads that compute, for each of "
        f"{n_local_workers} workers, on {n_local_workers * mine:g} cores; set {fix}, or ask for more cores"
    )


def bind(local_rank: int, gpus: Sequence[str | None], *, n_needed: int, root: Path = _ROOT) -> Binding:
    """Binds every thread of this process. `gpus`: the PCI address of each local worker's GPU, None where it has none.

    Workers with GPUs on one memory node share its cores, each with a part of its own if that is `n_needed` or more.
    """
    gpu = gpus[local_rank] if gpus else None
    if gpu is None:
        return _left_alone("no GPU")
    if _given()[1]:
        return _left_alone("the launcher has given this worker cores of its own")
    nodes = [node_of(each, root) if each else None for each in gpus]
    node = nodes[local_rank]
    if node is None:
        return _left_alone(f"the memory node of GPU {gpu} isn't known")
    given = os.sched_getaffinity(0)
    there = [[core for core in pair if core in given] for pair in _physical_cores(node, root)]
    beside = [rank for rank, each in enumerate(nodes) if each == node]
    part = _flat(_part(there, beside.index(local_rank), len(beside)))
    chosen = part if len(part) >= n_needed else _flat(there)
    if len(chosen) < n_needed:
        return _left_alone(f"{len(chosen)} of the cores given are beside GPU {gpu}, {n_needed} are needed", node)
    if set(chosen) == given:
        return _left_alone(f"all cores given are beside GPU {gpu}", node)
    for thread in _threads_of_this_process():
        with contextlib.suppress(OSError):  # it has ended meanwhile
            os.sched_setaffinity(thread, chosen)
    shared = f", shared by {len(beside)} workers" if len(chosen) > len(part) else ""
    return Binding(cores=tuple(sorted(chosen)), node=node, reason=f"beside GPU {gpu}{shared}")


def _left_alone(reason: str, node: int | None = None) -> Binding:
    return Binding(cores=(), node=node, reason=reason)


def node_of(gpu: str, root: Path = _ROOT) -> int | None:
    """The memory node of a PCI address such as 0000:3b:00.0; None where the system doesn't tell, or has only one."""
    text = _text(root / "sys/bus/pci/devices" / gpu.lower() / "numa_node").strip()
    return int(text) if text.isdigit() else None  # and not -1


def address_of(uuid: str, root: Path = _ROOT) -> str | None:
    """The PCI address of a GPU by its UUID, as NVIDIA's driver tells it; None if it doesn't."""
    for path in (root / "proc/driver/nvidia/gpus").glob("*/information"):
        found = re.search(r"^GPU UUID:\s*GPU-(\S+)", _text(path), re.MULTILINE)
        if found and found[1].lower() == uuid.lower().removeprefix("gpu-"):
            return path.parent.name
    return None


def as_list(numbers: Sequence[int]) -> str:
    """`0-3,8`, as the kernel writes it."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][-1] + 1:
            runs[-1][1:] = [number]
        else:
            runs.append([number])
    return ",".join("-".join(map(str, run)) for run in runs)


def of_list(text: str) -> list[int]:
    """The numbers of `0-3,8`."""
    ranges = (part.partition("-") for part in text.strip().split(",") if part)
    return [number for first, _, last in ranges for number in range(int(first), int(last or first) + 1)]


def _physical_cores(node: int, root: Path) -> list[list[int]]:
    """Of a memory node: the one or two cores, as the system counts them, that each of them is."""
    found = of_list(_text(root / f"sys/devices/system/node/node{node}/cpulist"))
    physical: dict[int, list[int]] = {}
    for core in found:
        siblings = _text(root / f"sys/devices/system/cpu/cpu{core}/topology/thread_siblings_list")
        physical.setdefault(min(of_list(siblings), default=core), []).append(core)
    return list(physical.values())


def _part(physical: list[list[int]], place: int, n_places: int) -> list[list[int]]:
    begin, end = (len(physical) * each // n_places for each in (place, place + 1))
    return physical[begin:end]


def _flat(physical: list[list[int]]) -> list[int]:
    return [core for pair in physical for core in pair]


def _threads_of_this_process() -> list[int]:
    """Libraries may have started some while they were imported; those to come inherit the mask of who starts them."""
    return [int(path.name) for path in Path("/proc/self/task").iterdir()]


def _text(path: Path) -> str:
    return _bytes(path).decode(errors="replace")


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""
