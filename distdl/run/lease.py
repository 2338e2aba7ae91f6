"""Who writes into a run folder: a lock that two launches can't hold at once, and a number that unmasks a stale one.

The lock is a flock on `lease`. It belongs to the open file, which the workers inherit, so it is held until the *last*
process of a launch is gone: an orphan of a killed supervisor keeps a new launch out. The file says who holds it, and
its `fence` grows at each taking: what commits something asks `still_ours` first. On a file system without flock, the
fence alone protects the run; and so it does where Slurm has queued a job again whose node it has lost: processes there
may hold the lock for as long as they like.
"""

import contextlib
import errno
import fcntl
import json
import os
import shlex
import socket
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from distdl.errors import UserError
from distdl.run.folder import RunFolder, write_atomic
from distdl.run.secrets import redact

_POLL_S = 0.05
_NO_FLOCK_HERE = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS)


class Lease:
    """The right to write into a run folder. It lasts until `close` and the end of every process given `fileno()`."""

    def __init__(self, descriptor: int, fence: int) -> None:
        self._descriptor: int | None = descriptor
        self.fence = fence

    def fileno(self) -> int:
        """For `pass_fds` of subprocess: who inherits it holds the lease as well."""
        if self._descriptor is None:
            raise ValueError("this lease was given back")
        return self._descriptor

    def close(self) -> None:
        """Gives up this process's hold. It doesn't unlock: a worker that is still alive keeps the lease."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def __enter__(self) -> "Lease":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def take(folder: RunFolder, wait_s: float = 5.0) -> Lease:
    """Takes the lease, waiting up to `wait_s` seconds for processes that are about to be gone.

    Raises UserError that names the holder if there still is one, or if the folder can't be written.
    """
    try:
        descriptor = _open(folder)
        try:
            try:
                _lock(descriptor, folder, wait_s)
            except UserError:
                before = _read(folder.lease)
                if not _was_queued_again(before):
                    raise
                os.close(descriptor)
                # Another file of that name: what holds the old one looks at this one before it commits.
                write_atomic(folder.lease, json.dumps(before).encode())
                descriptor = _open(folder)
                _lock(descriptor, folder, wait_s)
            # The clock is beyond every earlier fence, even of a lease file that was damaged or deleted.
            fence = max(_read(folder.lease).get("fence", 0) + 1, int(time.time() * 1000))
            _write(descriptor, _describe_myself(fence))
        except BaseException:
            os.close(descriptor)
            raise
    except OSError as error:
        raise UserError(f"can't take the lease: {error.strerror}", where=str(folder.lease)) from error
    return Lease(descriptor, fence)


def _open(folder: RunFolder) -> int:
    return os.open(folder.lease, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)


def _was_queued_again(there: Mapping[str, Any], environment: Mapping[str, str] = os.environ) -> bool:
    """Whether the holder is an earlier start of the job of Slurm's that this process belongs to."""
    job, start = _job(environment)
    return bool(job) and there.get("job") == job and isinstance(there.get("start"), int) and there["start"] < start


def _job(environment: Mapping[str, str] = os.environ) -> tuple[str, int]:
    """Which job of Slurm's, "" for none, and how often it was queued again."""
    number, restarts = environment.get("SLURM_JOB_ID", ""), environment.get("SLURM_RESTART_COUNT", "")
    job = f"{environment.get('SLURM_CLUSTER_NAME', '')}:{number}" if number else ""
    return job, int(restarts) if restarts.isdigit() else 0


def still_ours(folder: RunFolder, fence: int) -> bool:
    """Whether nobody has taken the lease since it was given out with `fence`. Raises OSError if it can't be read."""
    try:
        return _read(folder.lease).get("fence") == fence
    except FileNotFoundError:
        return False


def holder(folder: RunFolder) -> dict[str, Any] | None:
    """What the lease says of its holder, or None if nobody holds it (or this file system can't tell)."""
    try:
        descriptor = os.open(folder.lease, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)  # shared, so that two who ask don't see each other
    except BlockingIOError:
        return _read(folder.lease)
    except OSError as error:
        if error.errno not in _NO_FLOCK_HERE:
            raise
    finally:
        os.close(descriptor)
    return None


def _lock(descriptor: int, folder: RunFolder, wait_s: float) -> None:
    deadline = time.monotonic() + wait_s
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise _held(folder) from None
            time.sleep(_POLL_S)
        except OSError as error:
            if error.errno in _NO_FLOCK_HERE:
                return
            raise


def _held(folder: RunFolder) -> UserError:
    there = _read(folder.lease)
    pid, host = there.get("pid", "?"), there.get("host", "?")
    since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(there.get("time", 0)))
    if (host, there.get("boot_id")) == (socket.gethostname(), _boot_id()) and not _is_alive(pid):
        return UserError(
            f"a worker of an earlier launch is still alive (its launcher, pid {pid} on {host} since {since}, is not)",
            where=str(folder.path),
            fix=f"`fuser {shlex.quote(str(folder.lease))}` names it; end it, or choose another --name.",
        )
    return UserError(
        f"another launch is writing here: pid {pid} on {host} since {since}",
        where=str(folder.path),
        fix=f"Wait for it, stop it (`kill {pid}` on {host}), or choose another --name.",
    )


def _describe_myself(fence: int) -> dict[str, Any]:
    job, start = _job()
    return {
        **({"job": job, "start": start} if job else {}),
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "boot_id": _boot_id(),
        "time": time.time(),
        "command": redact(shlex.join(sys.argv)),
        "fence": fence,
    }


def _read(path: Path) -> dict[str, Any]:
    """The content, or an empty one if it is damaged or being written at this moment."""
    with contextlib.suppress(ValueError):
        content = json.loads(path.read_text())
        if isinstance(content, dict) and isinstance(content.get("fence"), int):
            return content
    return {}


def _write(descriptor: int, content: dict[str, Any]) -> None:
    """In place and not by a rename: the lock is on this very file."""
    packed = (json.dumps(content, indent=2) + "\n").encode()
    os.pwrite(descriptor, packed, 0)
    os.ftruncate(descriptor, len(packed))
    os.fsync(descriptor)


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _is_alive(pid: Any) -> bool:
    try:
        os.kill(int(pid), 0)
    except (ProcessLookupError, ValueError):
        return False
    except PermissionError:
        return True
    return True
