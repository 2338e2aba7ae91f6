"""Whether a process that SIGKILL has ended was the victim of the kernel's out-of-memory killer.

    before = oom.count()      beside the start of the process
    oom.judge(pid, before)    after its end

The kernel counts these kills, for each control group and for the machine, and logs each with the process's number; not
everybody may read the log. A count that stands still clears the kernel; that of the own group, risen, convicts it.
"""

import contextlib
import os
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from distdl.run import cgroups

_KILLED = re.compile(r"(?P<group>[Mm]emory cgroup )?[Oo]ut of memory.*: Killed process (?P<pid>\d+)\b(?P<rest>.*)")
_RESIDENT = re.compile(r"(?:anon|file|shmem)-rss:(\d+)kB")
_LOG_IS_LATE_S = 1.0  # its clock and ours count from the machine's start, and are read at two moments

Verdict = Literal["yes", "no", "perhaps"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Kills:
    """How many there have been so far; None where the kernel doesn't tell."""

    in_group: int | None
    on_machine: int | None
    time_s: float  # on the kernel's clock


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    verdict: Verdict
    limit: str = ""
    """what was used up, as far as it is known"""
    resident_bytes: int | None = None
    """what the process had of it, by the kernel's log"""

    @property
    def message(self) -> str:
        """How it reads: what happened, and for want of memory what to do about it."""
        if self.verdict == "no":
            return "killed by SIGKILL (not by the kernel's out-of-memory killer: something or someone else sent it)"
        if self.verdict == "perhaps":
            return "killed by SIGKILL, perhaps out of memory"
        had = f", of which it had {mib(self.resident_bytes)}" if self.resident_bytes else ""
        return f"out of memory: killed by the kernel ({self.limit}{had})"

    @property
    def of_unseen(self) -> str:
        """How it reads where nobody has seen what ended the process."""
        if self.verdict == "yes":
            return self.message
        killer = "the out-of-memory killer's as well" if self.verdict == "perhaps" else "not the out-of-memory killer's"
        return f"it ended in the middle of a step without a word: by SIGKILL ({killer}), another signal, or os._exit"


def count(proc: Path = Path("/proc")) -> Kills:
    """As they are now, for this process's group, which is that of the processes it starts."""
    on_machine = None
    with contextlib.suppress(OSError, ValueError):
        counters = dict(line.split() for line in (proc / "vmstat").read_text().splitlines())
        on_machine = int(counters["oom_kill"]) if "oom_kill" in counters else None
    in_group = cgroups.n_out_of_memory_kills(proc / "self")
    return Kills(in_group=in_group, on_machine=on_machine, time_s=time.monotonic())


def judge(pid: int, before: Kills, proc: Path = Path("/proc"), log: Path = Path("/dev/kmsg")) -> Judgement:
    """What can be said of process `pid`, which SIGKILL has ended since `before`."""
    now = count(proc)
    group_has_risen = _has_risen(before.in_group, now.in_group)
    machine_has_risen = _has_risen(before.on_machine, now.on_machine)
    if logged := _logged(pid, before.time_s - _LOG_IS_LATE_S, log):
        resident = 1024 * sum(map(int, _RESIDENT.findall(logged["rest"])))
        limit = _limit(proc) if logged["group"] else _of_machine()
        return Judgement(verdict="yes", limit=limit, resident_bytes=resident)
    if group_has_risen:
        return Judgement(verdict="yes", limit=_limit(proc))
    if machine_has_risen is False:
        return Judgement(verdict="no")
    return Judgement(verdict="perhaps")


def mib(n_bytes: int) -> str:
    return f"{n_bytes / 2**20:,.0f} MiB"


def _has_risen(before: int | None, now: int | None) -> bool | None:
    return None if before is None or now is None else now > before


def _limit(proc: Path) -> str:
    limit = cgroups.memory_limit(proc / "self")
    return _of_machine() if limit is None else f"cgroup limit {mib(limit)}"


def _of_machine() -> str:
    return f"the machine's {mib(os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES'))}"


def _logged(pid: int, since_s: float, log: Path) -> re.Match[str] | None:
    """The kernel's line about the end of this process, out of its log; None without one, or without leave to read."""
    try:
        descriptor = os.open(log, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        while True:
            try:
                lines = os.read(descriptor, 1 << 13)  # of the kernel: one line, and what explains it
            except BrokenPipeError:
                continue  # it was overwritten meanwhile; the next read goes on behind it
            except OSError:
                return None
            if not lines:
                return None
            for line in lines.decode(errors="replace").splitlines():
                about, _, text = line.partition(";")
                found = _KILLED.search(text)
                if found and int(found["pid"]) == pid and _microseconds(about) >= since_s * 1e6:
                    return found
    finally:
        os.close(descriptor)


def _microseconds(about: str) -> int:
    """Of `6,339,5140900,-`: priority, number, time, flags."""
    fields = about.split(",")
    return int(fields[2]) if len(fields) > 2 and fields[2].isdigit() else 0
