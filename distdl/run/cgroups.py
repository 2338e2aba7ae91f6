"""What the control groups of a process allow it, and what the kernel has counted in them: memory, CPU time, processes.

A group's limits hold for the groups below it, so each question goes from the process's own group up to the topmost one
that is mounted here. Version 1 has a tree per controller, version 2 one for all, and a machine may have both. `proc` is
the process's folder in /proc; what can't be read (another system, a sandbox) counts as no limit.
"""

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

SELF = Path("/proc/self")

_NO_LIMIT = 1 << 60  # version 1 writes a number near 2**63 for "none"


def folders(controller: str, proc: Path = SELF) -> list[Path]:
    """Those of the process's group and of the groups above it, from the innermost on; none if it is not to be found."""
    versions: dict[str, str] = {}  # version -> the group's path
    for line in _lines(proc / "cgroup"):
        _, names, path = line.split(":", 2)
        if controller in names.split(","):
            versions["cgroup"] = path
        elif not names:
            versions["cgroup2"] = path
    for version, path in sorted(versions.items()):  # a controller that version 1 has, version 2 lacks
        for root, mounted_at in _mounts(controller, version, proc):
            return _upwards(path, root, mounted_at)
    return []


def memory_limit(proc: Path = SELF) -> int | None:
    """Bytes that the group may use, the tightest of its limits; None without one."""
    names = ("memory.max", "memory.limit_in_bytes")
    return min((limit for folder in folders("memory", proc) if (limit := _number(folder, names))), default=None)


def cpu_quota(proc: Path = SELF) -> float | None:
    """CPU seconds per second that the group may use: 2.5 is two and a half cores. None without a limit."""
    quotas = []
    for folder in folders("cpu", proc):
        words = [word for line in _lines(folder / "cpu.max") for word in line.split()]
        if not words:
            words = [*_lines(folder / "cpu.cfs_quota_us"), *_lines(folder / "cpu.cfs_period_us")]
        if len(words) == 2 and words[0].isdigit() and int(words[1]) > 0:  # not "max" and not -1
            quotas.append(int(words[0]) / int(words[1]))
    return min(quotas, default=None)


def most_processes(proc: Path = SELF) -> int | None:
    """Processes and threads that the group may have; None without a limit."""
    return min((limit for folder in folders("pids", proc) if (limit := _number(folder, ("pids.max",)))), default=None)


def n_out_of_memory_kills(proc: Path = SELF) -> int | None:
    """Processes of the group that the kernel has killed for want of memory; None where it doesn't count them."""
    for folder in folders("memory", proc)[:1]:
        for name in ("memory.events", "memory.oom_control"):
            for line in _lines(folder / name):
                if line.startswith("oom_kill "):
                    return int(line.split()[1])
    return None


def _mounts(controller: str, version: str, proc: Path) -> Iterator[tuple[str, str]]:
    """(the group that is mounted, where) of each file system of groups: see proc(5), mountinfo."""
    for line in _lines(proc / "mountinfo"):
        mount, _, of_system = line.partition(" - ")
        root, mounted_at = mount.split()[3:5]
        kind, _, options = of_system.split()[:3]
        if kind == version and (version == "cgroup2" or controller in options.split(",")):
            yield root, mounted_at


def _upwards(path: str, root: str, mounted_at: str) -> list[Path]:
    """A container may see its own group alone, and below another path than the one that the kernel tells."""
    inside = os.path.relpath(path, root)
    top = Path(mounted_at)
    own = top if inside.startswith("..") else top / inside
    return [own, *(folder for folder in own.parents if folder == top or PurePosixPath(top) in folder.parents)]


def _number(folder: Path, names: tuple[str, ...]) -> int | None:
    for name in names:
        for word in _lines(folder / name):
            if word.isdigit() and int(word) < _NO_LIMIT:
                return int(word)
    return None


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except (OSError, UnicodeDecodeError):
        return []
