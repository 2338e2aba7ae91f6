"""Cores that are really given, NUMA, limits, shared memory: what a batch system or a container may have made small."""

import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path

from distdl.doctor import check
from distdl.doctor.check import Check, State
from distdl.launch.plan import cores

_LEAST_FILES = 4096  # a shard, a socket or a pipe for each of some hundred threads and workers
_LEAST_PROCESSES = 4096
_LEAST_SHM_BYTES = 512 << 20  # Docker gives 64 MiB
_MIB = 1 << 20


def all_checks() -> list[Check]:
    return [
        check_cores(cores(), os.cpu_count() or 1, cgroup_quota()),
        check_numa(numa_nodes(), gpu_nodes()),
        check_limits(limits(), has_infiniband=any(Path("/sys/class/infiniband").glob("*"))),
        check_shm(Path("/dev/shm")),
    ]


# --- cores ---


def check_cores(n_usable: int, n_machine: int, quota: float | None) -> Check:
    """`quota`: the cores' worth of time that the cgroup gives, None for no limit."""
    values = {"usable": n_usable, "machine": n_machine, "quota": quota}
    given = f"{n_usable} of {n_machine} cores"
    if quota is not None and quota < n_usable:
        return check.warning(
            "cores",
            f"{given}, but the cgroup gives time for {quota:g}: threads will be held up",
            f"Ask for more CPUs, or start with OMP_NUM_THREADS={max(1, int(quota))} and as many workers as fit.",
            values=values,
        )
    if n_usable == 1 and n_machine > 1:
        return check.warning(
            "cores",
            f"{given}: decoding and training will wait for each other",
            "Ask the batch system for more (Slurm: --cpus-per-task), or look at taskset and numactl.",
            values=values,
        )
    return check.ok(
        "cores", f"{given}, {'no cgroup quota' if quota is None else f'cgroup quota {quota:g}'}", values=values
    )


def cgroup_quota(root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> float | None:
    """Cores' worth of time, the least of this process's cgroup and those around it; v2 or v1; None for no limit."""
    found = []
    for line in _text(own).splitlines():
        _, controllers, path = (*line.split(":", 2), "", "")[:3]
        if not controllers:
            folders = [root]
        elif "cpu" in controllers.split(","):
            folders = [root / controllers, root / "cpu"]
        else:
            continue
        for folder in folders:
            inner = folder / path.lstrip("/")
            for each in (inner, *inner.parents):
                if each.is_relative_to(root):  # in a container, what is around it may not be there to see
                    found += [_quota_v1(each)] if controllers else [_quota_v2(each)]
    return min((quota for quota in found if quota is not None), default=None)


def _quota_v2(folder: Path) -> float | None:
    words = _text(folder / "cpu.max").split()
    return int(words[0]) / int(words[1]) if len(words) == 2 and words[0].isdigit() else None


def _quota_v1(folder: Path) -> float | None:
    quota, period = _text(folder / "cpu.cfs_quota_us").strip(), _text(folder / "cpu.cfs_period_us").strip()
    return int(quota) / int(period) if quota.isdigit() and period.isdigit() else None  # -1: no limit


# --- NUMA ---


def check_numa(nodes: Mapping[int, str], gpus: Mapping[str, int]) -> Check:
    """`nodes`: number -> its cores, as "0-15". `gpus`: PCI address -> node."""
    text = "one node" if len(nodes) < 2 else f"{len(nodes)} nodes: cores {' | '.join(nodes.values())}"
    if gpus:
        text += f"; GPUs on node {', '.join(map(str, gpus.values()))}"
    return check.ok("NUMA", text, values={"nodes": dict(nodes), "gpus": dict(gpus)})


def numa_nodes(system: Path = Path("/sys/devices/system/node")) -> dict[int, str]:
    found = {int(path.name.removeprefix("node")): _text(path / "cpulist").strip() for path in system.glob("node[0-9]*")}
    return dict(sorted(found.items()))


def gpu_nodes(
    driver: Path = Path("/proc/driver/nvidia/gpus"), devices: Path = Path("/sys/bus/pci/devices")
) -> dict[str, int]:
    """Of NVIDIA's; one whose node the machine does not say is left out."""
    found = {path.name: _text(devices / path.name / "numa_node").strip() for path in sorted(driver.glob("*:*"))}
    return {name: int(node) for name, node in found.items() if node.isdigit()}


# --- limits ---


def limits() -> dict[str, int | None]:
    """Soft ones; None for no limit."""
    if sys.platform == "win32":
        return {}
    import resource

    names = {"nofile": "RLIMIT_NOFILE", "nproc": "RLIMIT_NPROC", "memlock": "RLIMIT_MEMLOCK", "as": "RLIMIT_AS"}
    found = {name: resource.getrlimit(getattr(resource, each))[0] for name, each in names.items()}
    return {name: None if value == resource.RLIM_INFINITY else value for name, value in found.items()}


def check_limits(soft: Mapping[str, int | None], *, has_infiniband: bool) -> Check:
    """`soft`: of nofile, nproc (numbers), memlock and as (bytes)."""
    faults: list[tuple[State, str, str]] = []
    files, processes, locked, space = (soft.get(name) for name in ("nofile", "nproc", "memlock", "as"))
    if files is not None and files < _LEAST_FILES:
        faults.append(("warning", f"{files} open files", "ulimit -n 65536 (or in /etc/security/limits.conf)"))
    if processes is not None and processes < _LEAST_PROCESSES:
        faults.append(("warning", f"{processes} processes and threads", "ulimit -u unlimited"))
    if locked is not None and has_infiniband:
        what = f"{locked // _MIB} MiB of locked memory, and InfiniBand locks what it sends"
        faults.append(("warning", what, "ulimit -l unlimited (Docker: --ulimit memlock=-1)"))
    if space is not None:
        what = f"{space // _MIB:,} MiB of address space, of which CUDA takes far more than it uses"
        faults.append(("warning", what, "ulimit -v unlimited"))
    names = {"nofile": "files", "nproc": "processes", "memlock": "locked bytes", "as": "address space"}
    text = ", ".join(f"{names[name]} {'unlimited' if n is None else f'{n:,}'}" for name, n in soft.items())
    return check.worst("limits", text or "none on this system", faults, values=soft)


# --- shared memory ---


def check_shm(path: Path) -> Check:
    """Of worker processes that decode, and of NCCL within a machine."""
    if not path.is_dir():
        return check.warning(
            "shared memory", f"there is no {path}", f"Mount a tmpfs there: mount -t tmpfs tmpfs {path}"
        )
    space = os.statvfs(path)
    size, free = space.f_blocks * space.f_frsize, space.f_bavail * space.f_frsize
    text, values = f"{path} {size // _MIB:,} MiB, free {free // _MIB:,}", {"bytes": size, "free_bytes": free}
    if not os.access(path, os.W_OK):
        return check.failed("shared memory", f"{path} can't be written", f"chmod 1777 {path}", values=values)
    if size < _LEAST_SHM_BYTES:
        return check.warning(
            "shared memory", f"{text}: it is small", "Docker: --shm-size 8g, or --ipc host.", values=values
        )
    if free < _LEAST_SHM_BYTES // 4:
        fix = f"Whose files are in {path}? What killed programs left there can be deleted."
        return check.warning("shared memory", f"{text}: it is nearly full", fix, values=values)
    return check.ok("shared memory", text, values=values)


def _text(path: Path) -> str:
    try:
        return re.sub(r"\0", "", path.read_text(errors="replace"))
    except OSError:
        return ""
