"""What a run may be told to use: wandb, and the launchers Slurm and MPI. That one is not there is fine."""

import netrc
import os
import shutil
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping
from importlib import util
from pathlib import Path

from distdl.doctor import check
from distdl.doctor.check import Check

_WANDB = "https://api.wandb.ai"
_TIMEOUT_S = 3.0

Reach = Callable[[str], str]  # a URL -> what keeps it from being reached, "" if nothing


def all_checks() -> list[Check]:
    environment = os.environ
    is_installed = util.find_spec("wandb") is not None
    return [
        check_wandb(environment, is_installed=is_installed),
        check_launchers(environment, shutil.which),
    ]


# --- wandb ---


def check_wandb(environment: Mapping[str, str], *, is_installed: bool, reach: Reach | None = None) -> Check:
    mode = environment.get("WANDB_MODE", "").lower()
    if not is_installed:
        return check.ok("wandb", "not installed, and needed for track.wandb alone")
    if mode in ("offline", "disabled", "dryrun"):
        return check.ok("wandb", f"WANDB_MODE={mode}: no server is asked")
    url = environment.get("WANDB_BASE_URL", "").rstrip("/") or _WANDB
    is_logged_in = bool(environment.get("WANDB_API_KEY")) or _is_in_netrc(url, environment)
    problem = (reach or cannot_reach)(url)
    login = "logged in" if is_logged_in else "not logged in (`wandb login`, where it is wanted)"
    values = {"url": url, "logged_in": is_logged_in}
    if not problem:
        return check.ok("wandb", f"{url} answers; {login}", values=values)
    if not is_logged_in:
        return check.ok("wandb", f"{url} can't be reached ({problem}); {login}", values=values)
    fix = "A run goes on without it. Use track.wandb.mode=offline, and `distdl sync RUN` where there is a network."
    return check.warning("wandb", f"{url} can't be reached: {problem}", fix, values=values)


def cannot_reach(url: str, timeout_s: float = _TIMEOUT_S) -> str:
    """Whatever the server answers, it has been reached. In a thread, since no time-out ends the look-up of a name."""
    found = [f"no answer within {timeout_s:g} s"]

    def ask() -> None:
        try:
            urllib.request.urlopen(f"{url}/healthz", timeout=timeout_s).close()
            found.append("")
        except urllib.error.HTTPError:
            found.append("")
        except (OSError, ValueError) as error:
            reason = getattr(error, "reason", error)
            found.append(getattr(reason, "strerror", None) or str(reason) or type(error).__name__)

    thread = threading.Thread(target=ask, name="wandb-reach", daemon=True)
    thread.start()
    thread.join(timeout_s + 0.5)
    return found[-1]


def _is_in_netrc(url: str, environment: Mapping[str, str]) -> bool:
    path = Path(environment.get("NETRC") or Path(environment.get("HOME", "/nonexistent")) / ".netrc")
    try:
        return netrc.netrc(str(path)).authenticators(urllib.parse.urlsplit(url).hostname or "") is not None
    except (OSError, netrc.NetrcParseError):
        return False


# --- launchers ---


def check_launchers(environment: Mapping[str, str], which: Callable[[str], str | None]) -> Check:
    slurm = "Slurm" if which("sbatch") or which("srun") else ""
    job = environment.get("SLURM_JOB_ID")
    if job:
        nodes = environment.get("SLURM_JOB_NUM_NODES") or environment.get("SLURM_NNODES") or "?"
        slurm = f"Slurm (in job {job}, {nodes} node{'' if nodes == '1' else 's'})"
    mpi = next((name for name in ("mpirun", "mpiexec") if which(name)), None)
    found = ", ".join(filter(None, [slurm, f"MPI ({mpi})" if mpi else ""]))
    text = found or "neither Slurm nor MPI: torchrun, or `distdl train` on one machine"
    return check.ok("launchers", text, values={"slurm": bool(slurm), "slurm_job": job, "mpi": mpi})
