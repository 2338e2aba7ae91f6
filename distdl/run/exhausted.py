"""What a process ran out of - memory, open files, shared memory, threads - told from its error or its last words.

The same shortage has many faces: address space that `ulimit -v` refuses comes as a MemoryError, as the text of torch's
allocator, as std::bad_alloc from C++, as a thread that can't be started, or as an errno of mmap and fork. And a user is
helped by none of them: what helps is the limit, who sets it, and which key needs less.
"""

import contextlib
import errno
import os
import re
import resource
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from distdl.errors import UserError
from distdl.run import cgroups
from distdl.run.oom import mib

Resource = Literal["memory", "file descriptors", "shared memory", "threads"]

SHARED_MEMORY = "/dev/shm"

_MEMORY_ERRORS = ("MemoryError", "OutOfMemoryError")  # torch's is known by its name: this module is free of torch
_BY_ERRNO: dict[int | None, Resource] = {
    errno.ENOMEM: "memory",
    errno.EMFILE: "file descriptors",
    errno.ENFILE: "file descriptors",
}
_TEXTS: dict[Resource, re.Pattern[str]] = {
    "file descriptors": re.compile("[Tt]oo many open files"),
    "shared memory": re.compile(
        rf"{SHARED_MEMORY}.*No space left on device|No space left on device.*{SHARED_MEMORY}"
        r"|[Ee]rror while (creating|attaching to) shared memory segment|insufficient shared memory"
        r"|unable to (allocate shared memory|write to file </torch_|resize file </torch_)"
    ),
    "memory": re.compile(
        r"DefaultCPUAllocator: (can't allocate|not enough) memory|std::bad_alloc|Cannot allocate memory|^MemoryError\b"
        r"|Insufficient memory|failed to map segment from shared object|out of memory: killed by the kernel"
    ),
    "threads": re.compile(r"can't start new thread|pthread_create failed|[Tt]hread.*Resource temporarily unavailable"),
}
# What the kernel, or a library, says as well where only the address space is too small.
_PERHAPS_MEMORY = re.compile(r"Resource temporarily unavailable|could not create a primitive")
_MOST_OPEN_FILES = 1 << 20  # a hard limit may be a billion, and there are programs that close as many, one by one
_RESERVE = 4  # open files that are left to tell of a want of them


@dataclass(frozen=True, slots=True, kw_only=True)
class Shortage:
    """`limit`: what there is of the resource, as far as it is known, and who says so; "" where nothing is known."""

    resource: Resource
    limit: str
    fix: str

    @property
    def is_refused(self) -> bool:
        """Whether it is a setting of this machine, so that another start can't go better; memory depends on the run."""
        return self.resource in ("file descriptors", "shared memory")

    def __str__(self) -> str:
        return f"out of {self.resource}" + (f" ({self.limit})" if self.limit else "")


def of_error(error: BaseException) -> Shortage | None:
    """What this error, or one that it came from, says has run out."""
    found = _found(error)
    return found[0] if found else None


def _found(error: BaseException) -> tuple[Shortage, BaseException] | None:
    """The shortage, and the error that says so."""
    for each in _chain(error):
        names = {base.__name__ for base in type(each).__mro__}
        if names.intersection(_MEMORY_ERRORS):
            return describe("memory"), each
        if isinstance(each, OSError) and each.errno in _BY_ERRNO:
            return describe(_BY_ERRNO[each.errno]), each
        if not isinstance(each, UserError) and (shortage := of_lines([_text(each)])):
            return shortage, each
    return None


def of_lines(lines: Iterable[str]) -> Shortage | None:
    """What a process says in its last words has run out."""
    text = "\n".join(lines)
    for kind, pattern in _TEXTS.items():
        if re.search(pattern.pattern, text, re.MULTILINE):
            return describe("memory" if kind == "threads" and address_space() else kind)
    return describe("memory") if address_space() and _PERHAPS_MEMORY.search(text) else None


def as_users_mistake(error: BaseException) -> UserError | None:
    """The error as one in the settings of this machine, if it is one: too few open files, too little shared memory."""
    found = _found(error)
    if found is None or not found[0].is_refused:
        return None
    shortage, said_by = found  # an error that came of it may be far off: "this is not a run folder"
    where = error.where if isinstance(error, UserError) else ""
    mistake = UserError(f"{shortage}: {_text(said_by).strip().splitlines()[0]}", where=where, fix=shortage.fix)
    mistake.__cause__ = error
    return mistake


def describe(kind: Resource, environment: Mapping[str, str] = os.environ) -> Shortage:
    """Its limit here, and what to do about it."""
    if kind == "file descriptors":
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        limit = f"{hard:,} a process by `ulimit -Hn`"
        fix = (
            "Raise it: `ulimit -n 65536`, by an administrator in /etc/security/limits.conf, or for a container "
            "--ulimit nofile=65536. Fewer data.workers need fewer."
        )
    elif kind == "shared memory":
        limit = shared_memory()
        fix = f"Make {SHARED_MEMORY} larger (docker --shm-size=8g), or delete what other programs have left in it."
    elif kind == "threads":
        soft, _ = resource.getrlimit(resource.RLIMIT_NPROC)
        most = cgroups.most_processes()
        limit = f"{soft:,} of a user by `ulimit -u`" if soft != resource.RLIM_INFINITY else ""
        limit = f"{most:,} by the control group" if most else limit
        fix = "Raise the limit on processes, or lower data.workers and train.threads."
    else:
        limit, more = memory(environment)
        fix = f"Lower train.micro_batch, data.prefetch or data.workers, or {more}."
    return Shortage(resource=kind, limit=limit, fix=fix)


def memory(environment: Mapping[str, str] = os.environ) -> tuple[str, str]:
    """What limits memory here, and how to get more of it."""
    if space := address_space():
        return f"address space limited to {mib(space)} by `ulimit -v`", "raise `ulimit -v`"
    more = "ask for more memory (--mem)" if "SLURM_JOB_ID" in environment else "ask for more memory"
    limit = cgroups.memory_limit()
    return (f"cgroup limit {mib(limit)}" if limit else ""), more


def address_space() -> int | None:
    """Bytes that a process may map; None without a limit."""
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    return None if soft == resource.RLIM_INFINITY else soft


def shared_memory(path: str = SHARED_MEMORY) -> str:
    """`/dev/shm has 64 MiB, 0 MiB of them free`"""
    try:
        of_system = os.statvfs(path)
    except OSError as error:
        return f"{path}: {error.strerror}"
    size, free = (n_blocks * of_system.f_frsize for n_blocks in (of_system.f_blocks, of_system.f_bavail))
    return f"{path} has {mib(size)}, {mib(free)} of them free"


def raise_open_files(reserve: int = _RESERVE) -> None:
    """Allows this process, and those it starts, as many open files as the hard limit does, but for a few.

    The soft limit is 1,024 by tradition, for programs that call select(2); those here don't.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _MOST_OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, _MOST_OPEN_FILES)
    with contextlib.suppress(ValueError, OSError):  # macOS has a lower limit than it says
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(1, most - reserve), hard))


def open_reserve() -> None:
    """Frees what `raise_open_files` has kept back, to write down why there were too few."""
    raise_open_files(reserve=0)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _text(error: BaseException) -> str:
    try:
        return f"{type(error).__name__}: {error}"
    except Exception:  # a __str__ with a bug in it
        return type(error).__name__
