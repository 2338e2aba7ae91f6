"""What each worker is told through its environment, and how many workers this machine has devices for.

The variables are torchrun's, so that torch's `env://` rendezvous and other libraries find their place; those that begin
with DISTDL_ are between the supervisor and its workers. Nothing here imports torch.
"""

import os
import re
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from distdl.errors import UserError
from distdl.launch.binding import cores
from distdl.run.folder import RunFolder

_DEVICE = re.compile(r"\d+|(GPU|MIG)-\S+")


def local_devices(environment: Mapping[str, str] = os.environ, dev: Path = Path("/dev")) -> int:
    """The number of CUDA devices a worker would see: those of CUDA_VISIBLE_DEVICES if set, else of /dev."""
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return sum(1 for path in dev.glob("nvidia[0-9]*") if path.name.removeprefix("nvidia").isdigit())
    n_devices = 0
    for name in visible.split(","):
        if not _DEVICE.fullmatch(name.strip()):
            break  # as CUDA does: what follows an invalid entry (-1, NoDevFiles, nothing) is invisible
        n_devices += 1
    return n_devices


def check_nproc(nproc: int) -> None:
    """Raises UserError for no workers, and for so many that a slip of the finger would end the machine: each is a
    process that imports torch."""
    if nproc < 1:
        raise UserError(f"at least one worker is needed (got {nproc})", where="command line --nproc")
    most = max(16, 8 * cores())
    if nproc > most:
        raise UserError(
            f"{nproc} workers on {cores()} cores", where="command line --nproc", fix=f"At most {most} here."
        )


def check_started(here: int, nproc: int | None) -> None:
    """Raises UserError if --nproc asks for others than the workers that another launcher has started on this host."""
    if nproc not in (None, here):
        workers = f"{here} worker{'s' * (here > 1)}"
        raise UserError(
            f"another launcher has started {workers} here", where=f"command line --nproc {nproc}", fix="Leave it out."
        )


def check_number_of_workers(n: int, least: int | None, most: int | None) -> None:
    """Raises UserError if `n` is not within what --min-workers and --max-workers say."""
    if least is not None and (least < 1 or n < least):
        fix = "Start as many, or lower it."
        raise UserError(f"{n} worker{'s' * (n > 1)}", where=f"command line --min-workers {least}", fix=fix)
    if most is not None and n > most:
        fix = "Start fewer, or raise it."
        raise UserError(f"{n} workers", where=f"command line --max-workers {most}", fix=fix)


def worker_environment(
    *,
    rank: int,
    places: Sequence[int],
    attempt: int,
    folder: RunFolder,
    fence: int | None = None,
    base: Mapping[str, str] = os.environ,
) -> dict[str, str]:
    """The whole environment of worker `rank` on this machine. `places`: of all, numbered like its devices."""
    nproc = len(places)
    environment = {
        **supervised_environment(base),
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(nproc),
        "LOCAL_WORLD_SIZE": str(nproc),
        "GROUP_RANK": "0",
        "TORCHELASTIC_RESTART_COUNT": str(attempt),
        "PYTHONUNBUFFERED": "1",
        "DISTDL_RUN_FOLDER": str(folder.path.absolute()),
        "DISTDL_SCREEN": "tty" if os.isatty(1) and not base.get("NO_COLOR") else "plain",
        "DISTDL_COMMAND": shlex.join(sys.argv),
        "DISTDL_COLUMNS": str(shutil.get_terminal_size().columns),
    }
    if list(places) != list(range(nproc)):  # a device is left out
        visible = base.get("CUDA_VISIBLE_DEVICES")
        names = visible.split(",") if visible else [str(place) for place in range(max(places) + 1)]
        environment["CUDA_VISIBLE_DEVICES"] = ",".join(names[place] for place in places if place < len(names))
    if fence is not None:
        environment["DISTDL_FENCE"] = str(fence)
    if not base.get("OMP_NUM_THREADS"):
        environment["OMP_NUM_THREADS"] = str(max(1, cores() // nproc))
    if sys.platform == "linux" and not base.get("GLOO_SOCKET_IFNAME"):
        environment["GLOO_SOCKET_IFNAME"] = "lo"  # else gloo looks up the host's name, which may resolve to nowhere
    return environment


def supervised_environment(base: Mapping[str, str] = os.environ) -> dict[str, str]:
    """`base`, for a process that is to die with this one: see worker.tie_to_supervisor."""
    return {**base, "DISTDL_SUPERVISOR_PID": str(os.getpid())}
