"""What the kernel tells of a process, whether or not the process itself gets to say anything. Linux only."""

import os
import re
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")

_ESTABLISHED = "01"
_MUCH_BYTES = 1 << 14


@dataclass(frozen=True, slots=True)
class Facts:
    state: str  # R, S, D, T, ... as /proc shows it; X: gone
    cpu_s: float  # that it has used
    moved_bytes: int  # that it has read and written by system calls, also from and to sockets

    @property
    def is_stopped(self) -> bool:
        return self.state in "Tt"

    @property
    def is_gone(self) -> bool:
        return self.state in "XZ"

    @property
    def is_on_disk(self) -> bool:
        """In a wait that nothing interrupts: of a disk, or of a file system over the network."""
        return self.state == "D"


GONE = Facts("X", 0.0, 0)
UNKNOWN = Facts("?", 0.0, 0)  # where there is no /proc


def of(pid: int, proc: Path = PROC) -> Facts:
    if not proc.exists():
        return UNKNOWN
    try:
        stat = (proc / str(pid) / "stat").read_text()
    except OSError:
        return GONE
    after = stat[stat.rindex(")") + 2 :].split()  # behind the name, which may contain anything
    cpu_s = (int(after[11]) + int(after[12])) / os.sysconf("SC_CLK_TCK")
    return Facts(after[0], cpu_s, _moved_bytes(pid, proc))


def catches(pid: int, number: int, proc: Path = PROC) -> bool:
    """Whether a process handles this signal, so that it may be sent without ending it."""
    try:
        status = (proc / str(pid) / "status").read_text()
    except OSError:
        return False
    caught = re.search(r"^SigCgt:\s*([0-9a-f]+)", status, re.MULTILINE)
    return bool(caught and int(caught[1], 16) >> (number - 1) & 1)


def of_session(session: int, proc: Path = PROC) -> list[int]:
    """The processes of a session: a worker, which leads it, and those that it has started."""
    found = []
    for path in proc.glob("[0-9]*"):
        try:
            stat = (path / "stat").read_text()
        except OSError:
            continue
        if int(stat[stat.rindex(")") + 2 :].split()[3]) == session:
            found.append(int(path.name))
    return sorted(found)


def has_full_sockets(pid: int, proc: Path = PROC) -> tuple[bool, bool]:
    """Whether a process's TCP connections hold much that the other side has not taken, and that it has not taken."""
    try:
        links = [str(path.readlink()) for path in (proc / str(pid) / "fd").iterdir()]
        rows = [
            row for name in ("tcp", "tcp6") for row in (proc / str(pid) / "net" / name).read_text().splitlines()[1:]
        ]
    except OSError:
        return False, False
    own = {link[len("socket:[") : -1] for link in links if link.startswith("socket:[")}
    unsent = unread = 0
    for row in rows:
        fields = row.split()
        if fields[9] in own and fields[3] == _ESTABLISHED:
            waiting = [int(each, 16) for each in fields[4].split(":")]
            unsent, unread = max(unsent, waiting[0]), max(unread, waiting[1])
    return unsent > _MUCH_BYTES, unread > _MUCH_BYTES


def _moved_bytes(pid: int, proc: Path) -> int:
    try:
        text = (proc / str(pid) / "io").read_text()
    except OSError:
        return 0
    return sum(int(value) for value in re.findall(r"^[rw]char: (\d+)", text, re.MULTILINE))
