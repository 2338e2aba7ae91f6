"""What the machine does while it trains: processors, memory, disks, network and GPUs of rank 0's host.

A daemon thread looks every `track.system_every`; the tracker takes the mean of what it saw and writes it with its next
row, of kind "system". Nothing is asked of the training thread or of CUDA: the numbers come from /proc and nvidia-smi.

    cpu_percent, job_cpu_percent          of all cores: everybody's, and that of this job's processes
    memory_used_bytes, job_memory_bytes   the job's is resident memory; pages that processes share count in each
    load_1min                             processes that run or wait for a core or a disk
    disk_*, network_*_bytes_per_s         local disks; a network disk and gloo are in the network's, RDMA in neither
    gpu0_utilisation_percent, gpu0_memory_bytes, gpu0_temperature_c, gpu0_power_w     and so on for each visible GPU
"""

import os
import queue
import shutil
import subprocess
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from distdl.config.values import parse_period

Sample = dict[str, float]

_SECTOR_BYTES = 512  # in /proc/diskstats, whatever the disk
_STACKED_DISKS = ("loop", "ram", "zram", "dm-", "md", "sr")  # none, or made of disks that are counted already
_SMI_TIMEOUT_S = 10.0
_GPU_FIELDS = {  # nvidia-smi's name -> ours, and what it is multiplied by
    "utilization.gpu": ("utilisation_percent", 1),
    "memory.used": ("memory_bytes", 1 << 20),
    "temperature.gpu": ("temperature_c", 1),
    "power.draw": ("power_w", 1),
}


def start(every: str | None) -> "SystemMeter | None":
    """Begins to sample; None where that is switched off, and on systems without /proc."""
    if every is None or not Path("/proc/stat").exists():
        return None
    # A worker's parent is what started all workers of this host.
    job = os.getppid() if "LOCAL_RANK" in os.environ else os.getpid()
    return SystemMeter(parse_period(every)[0], lambda: read_counters(job), read_gpus)


class SystemMeter:
    """Samples from a daemon thread until it is closed. A failure ends it and is kept as one sentence in `fault`."""

    def __init__(self, every_s: float, counters: "Callable[[], Counters]", gpus: Callable[[], Sample]) -> None:
        self.fault: str | None = None
        self._every_s, self._counters, self._gpus = every_s, counters, gpus
        self._samples: queue.SimpleQueue[Sample] = queue.SimpleQueue()
        self._closed = threading.Event()
        threading.Thread(target=self._run, name="track-system", daemon=True).start()

    def take(self) -> Sample:
        """The mean of the samples since the last call; {} if there were none. Never waits."""
        values: dict[str, list[float]] = defaultdict(list)
        while not self._samples.empty():
            for name, value in self._samples.get().items():
                values[name].append(value)
        return {name: round(sum(each) / len(each), 1) for name, each in values.items()}

    def close(self) -> None:
        self._closed.set()

    def _run(self) -> None:
        try:
            before = self._counters()
            while not self._closed.wait(self._every_s):
                now = self._counters()
                self._samples.put(sample(before, now) | self._gpus())
                before = now
        except Exception as error:  # whatever a kernel writes into /proc, training goes on
            self.fault = f"system metrics are off for the rest of this run: {type(error).__name__}: {error}"


# --- the host ---


@dataclass(frozen=True, slots=True, kw_only=True)
class Counters:
    """What the kernel has counted since it started, and what is so at the moment."""

    time_s: float
    cpu_ticks: tuple[int, int]  # busy, and all
    job_ticks: dict[tuple[int, int], int]  # by process (id, start time)
    job_memory_bytes: int
    memory_used_bytes: int
    load_1min: float
    bytes: dict[str, int]  # by where they went: disk_read, ...


def sample(before: Counters, now: Counters) -> Sample:
    """What went on between two looks."""
    seconds = max(now.time_s - before.time_s, 1e-9)
    busy, all_ticks = (new - old for new, old in zip(now.cpu_ticks, before.cpu_ticks))
    # A process that has ended takes what it did since the last look with it.
    job = sum(ticks - before.job_ticks.get(process, 0) for process, ticks in now.job_ticks.items())
    return {
        "cpu_percent": 100 * busy / max(1, all_ticks),
        "job_cpu_percent": 100 * job / max(1, all_ticks),
        "load_1min": now.load_1min,
        "memory_used_bytes": now.memory_used_bytes,
        "job_memory_bytes": now.job_memory_bytes,
        **{f"{name}_bytes_per_s": (count - before.bytes[name]) / seconds for name, count in now.bytes.items()},
    }


def read_counters(job: int, root: Path = Path("/")) -> Counters:
    """`job`: the process whose descendants, and itself, are this job. `root`: where proc and sys are."""
    proc = root / "proc"
    # user, nice, system, idle, iowait, irq, softirq, steal; what follows is part of user
    ticks = [int(word) for word in (proc / "stat").read_text().split("\n", 1)[0].split()[1:9]]
    memory = dict(line.split()[:2] for line in (proc / "meminfo").read_text().splitlines())
    job_ticks, job_memory_bytes = _processes(proc, job)
    return Counters(
        time_s=time.monotonic(),
        cpu_ticks=(sum(ticks) - ticks[3] - ticks[4], sum(ticks)),
        job_ticks=job_ticks,
        job_memory_bytes=job_memory_bytes,
        memory_used_bytes=1024 * (int(memory["MemTotal:"]) - int(memory["MemAvailable:"])),
        load_1min=float((proc / "loadavg").read_text().split()[0]),
        bytes=_disks(root) | _network(root),
    )


def _processes(proc: Path, job: int) -> tuple[dict[tuple[int, int], int], int]:
    """Ticks by process, and resident bytes of all, of `job` and its descendants."""
    found: dict[int, tuple[int, int, int, int]] = {}  # parent, start time, ticks, resident pages
    for path in proc.glob("[0-9]*/stat"):
        try:
            # The name, in parentheses, may hold anything; behind it: state, parent, ...
            words = path.read_text(errors="replace").rpartition(")")[2].split()
        except OSError:
            continue  # it ended meanwhile
        found[int(path.parent.name)] = (int(words[1]), int(words[19]), int(words[11]) + int(words[12]), int(words[21]))
    children = defaultdict(list)
    for pid, (parent, *_) in found.items():
        children[parent].append(pid)
    of_job, reached = {}, [job]
    while reached:
        pid = reached.pop()
        if pid in found:
            of_job[pid] = found[pid]
            reached += children[pid]
    ticks = {(pid, started): n_ticks for pid, (_, started, n_ticks, _) in of_job.items()}
    return ticks, os.sysconf("SC_PAGE_SIZE") * sum(pages for *_, pages in of_job.values())


def _disks(root: Path) -> dict[str, int]:
    whole = {path.name for path in root.glob("sys/block/*") if not path.name.startswith(_STACKED_DISKS)}
    disks = [words for line in _lines(root / "proc/diskstats") if (words := line.split())[2] in whole]
    return {
        "disk_read": _SECTOR_BYTES * sum(int(words[5]) for words in disks),
        "disk_write": _SECTOR_BYTES * sum(int(words[9]) for words in disks),
    }


def _network(root: Path) -> dict[str, int]:
    lines = (line.partition(":") for line in _lines(root / "proc/net/dev")[2:])
    interfaces = {name.strip(): [int(word) for word in rest.split()] for name, _, rest in lines}
    interfaces.pop("lo", None)
    # Bridges and tunnels count once more what passes a device. A container may have nothing else.
    devices = [name for name in interfaces if (root / "sys/class/net" / name / "device").exists()]
    counted = [interfaces[name] for name in devices or interfaces]
    return {
        "network_receive": sum(words[0] for words in counted),
        "network_send": sum(words[8] for words in counted),
    }


def _lines(path: Path) -> list[str]:
    """None where a container hides the file."""
    return path.read_text().splitlines() if path.exists() else []


# --- GPUs ---


def read_gpus() -> Sample:
    """What nvidia-smi says of the visible GPUs, by its numbers; {} without it or when it fails.

    A process of its own, which comes with every driver: a call that hangs in the driver hangs only there.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible in ("", "-1") or shutil.which("nvidia-smi") is None:
        return {}
    command = ["nvidia-smi", f"--query-gpu=index,{','.join(_GPU_FIELDS)}", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(
            [*command, *(["-i", visible] if visible else [])],
            capture_output=True,
            text=True,
            timeout=_SMI_TIMEOUT_S,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return {}
    found: Sample = {}
    for line in answer.stdout.splitlines():
        index, *values = line.split(", ")
        for (name, factor), value in zip(_GPU_FIELDS.values(), values):
            if value.replace(".", "", 1).isdigit():  # else "[N/A]"
                found[f"gpu{index}_{name}"] = float(value) * factor
    return found
