"""The folders of the runs and of the data: space, inodes, quota, and how fast a few megabytes go and come back."""

import os
import shutil
import subprocess
import time
import uuid
from pathlib import Path
from typing import Any

from distdl.doctor import check
from distdl.doctor.check import Check, State

_MEASURED_BYTES = 8 << 20
_SLOW_BYTES_PER_S = 20e6
_LITTLE_BYTES, _TOO_LITTLE_BYTES = 5 << 30, 256 << 20
_FEW_INODES = 10_000
_QUOTA_TIMEOUT_S = 3.0
_GIB = 1 << 30


def check_runs(folder: Path) -> Check:
    """Where checkpoints go: it has to be written to, and fast."""
    place = _nearest(folder)
    name, shown = "runs", f"{folder}/" if place == folder else f"{folder}/ (not there yet; in {place.absolute()})"
    try:
        write, read = write_and_read(place)
    except OSError as error:
        return check.failed(name, f"{shown} can't be written: {error.strerror}", "Start from a folder that is yours.")
    return _judged(name, f"{shown}, writes {_speed(write)}, reads {_speed(read)}", place, write, is_written=True)


def check_data(folder: Path) -> Check:
    """Where shards are: it has to be read, and may be read-only."""
    if not folder.is_dir():
        return check.failed("data", f"there is no folder {folder}", "Name the folder of your data: --data FOLDER.")
    try:
        if (file := _some_file(folder)) is not None:
            speed = read_file(file)
        else:
            _, speed = write_and_read(folder)
    except OSError as error:
        return check.failed("data", f"{folder} can't be read: {error.strerror}", "Whose is it? ls -la shows it.")
    return _judged("data", f"{folder}/, reads {_speed(speed)}", folder, speed, is_written=False)


def check_quota(program: str | None = None) -> Check:
    """What `quota` says, where there is one."""
    program = program or shutil.which("quota")
    if program is None:
        return check.ok("quota", "no program `quota` here, so probably none")
    try:
        said = subprocess.run([program, "-wp"], capture_output=True, text=True, timeout=_QUOTA_TIMEOUT_S).stdout
    except (OSError, subprocess.TimeoutExpired):
        return check.ok("quota", "`quota` does not answer")
    over = over_quota(said)
    if over:
        fix = "Delete what is not needed: a write will fail when the grace period is over, or at once."
        return check.warning("quota", f"over the limit on {', '.join(over)}", fix)
    return check.ok("quota", "none, or kept")


def over_quota(said: str) -> list[str]:
    """The file systems that `quota -w` marks: an asterisk behind the blocks or files used."""
    rows = [line.split() for line in said.splitlines()]
    return [row[0] for row in rows if len(row) > 4 and any(word[:-1].isdigit() and word[-1] == "*" for word in row)]


# --- measuring ---


def write_and_read(folder: Path, n_bytes: int = _MEASURED_BYTES) -> tuple[float, float]:
    """Bytes a second: to the disk itself (fsync), and back from it as far as the system lets its cache be emptied."""
    path = folder / f".distdl-doctor-{uuid.uuid4().hex}"
    content = os.urandom(1 << 20)  # so that no file system makes it smaller
    try:
        began = time.perf_counter()
        with path.open("wb", buffering=0) as file:
            for _ in range(n_bytes >> 20):
                file.write(content)
            os.fsync(file.fileno())
        written_s = time.perf_counter() - began
        return n_bytes / written_s, read_file(path)
    finally:
        path.unlink(missing_ok=True)


def read_file(path: Path, n_bytes: int = _MEASURED_BYTES) -> float:
    """Bytes a second, of the first megabytes of a file."""
    with path.open("rb", buffering=0) as file:
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(file.fileno(), 0, n_bytes, os.POSIX_FADV_DONTNEED)
        began, n_read = time.perf_counter(), 0
        while n_read < n_bytes and (part := file.read(1 << 20)):
            n_read += len(part)
        return n_read / (time.perf_counter() - began)


def _some_file(folder: Path, most_looked_at: int = 1000) -> Path | None:
    """A large one of those that come first."""
    found: list[tuple[int, str]] = []
    n_seen = 0
    for here, _, names in os.walk(folder):
        for name in names:
            path = Path(here) / name
            n_seen += 1
            if path.is_file():
                found.append((path.stat().st_size, str(path)))
        if n_seen >= most_looked_at or any(size >= _MEASURED_BYTES for size, _ in found):
            break
    size, largest = max(found, default=(0, ""))
    return Path(largest) if size >= 1 << 20 else None


# --- judging ---


def _judged(name: str, text: str, place: Path, speed: float, *, is_written: bool) -> Check:
    space = os.statvfs(place)
    free, inodes = space.f_bavail * space.f_frsize, space.f_favail if space.f_files else None
    values = {"folder": str(place), "free_bytes": free, "free_inodes": inodes, "bytes_per_s": round(speed)}
    return judge(name, f"{text}, free {free / _GIB:,.1f} GiB", values, is_written=is_written)


def judge(name: str, text: str, values: dict[str, Any], *, is_written: bool) -> Check:
    """`values`: free_bytes, free_inodes (None where the file system does not count them) and bytes_per_s."""
    faults: list[tuple[State, str, str]] = []
    free, inodes = values["free_bytes"], values["free_inodes"]
    if is_written and free < _LITTLE_BYTES:
        state: State = "failed" if free < _TOO_LITTLE_BYTES else "warning"
        fix = "Make room, or start from a folder on another disk: a checkpoint of a ResNet-50 takes 0.3 GiB."
        faults.append((state, text, fix))
    if is_written and inodes is not None and inodes < _FEW_INODES:
        faults.append(("warning", f"{inodes:,} more files can be made", "Delete small files that are not needed."))
    if values["bytes_per_s"] < _SLOW_BYTES_PER_S:
        fix = "Saving is done in the background." if is_written else "Copy the shards to a disk of this machine."
        faults.append(("warning", text, fix))
    return check.worst(name, text, faults, values=values)


def _nearest(folder: Path) -> Path:
    """The folder, or the one around it in which it would be made."""
    absolute = folder.absolute()
    return next(each for each in (absolute, *absolute.parents) if each.is_dir()) if not folder.is_dir() else folder


def _speed(bytes_per_s: float) -> str:
    return f"{bytes_per_s / 1e6:,.0f} MB/s"
