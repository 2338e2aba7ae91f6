"""environment.json: what a run ran on. Written at every start; earlier starts of the same run are kept in it.

Versions, command, host, the variables that change how training runs, the commit; and in git.diff what the working
folder differs from it by. All of it goes through `redact`: a run folder is shared more freely than a home folder.
"""

import contextlib
import json
import os
import platform
import re
import shlex
import subprocess
import sys
import threading
import time
from importlib import metadata
from pathlib import Path
from typing import Any

from distdl.run.folder import RunFolder, write_atomic, write_json
from distdl.run.secrets import redact

DIFF_LIMIT_BYTES = 1 << 20

_GIT_TIMEOUT_S = 5.0
_VARIABLES = re.compile(
    r"(CUDA|NVIDIA|CUBLAS|CUDNN|HIP|ROCR|HSA|NCCL|GLOO|UCX|FI|TORCH|PYTORCH|TORCHINDUCTOR|TORCHELASTIC|OMP|MKL|KMP"
    r"|OPENBLAS|MALLOC|DISTDL|SLURM_(JOB|STEP|ARRAY|CPUS|GPUS|MEM|RESTART))_.*"
    r"|(LOCAL_)?WORLD_SIZE|MASTER_(ADDR|PORT)|SLURM_(NODELIST|NNODES|NTASKS)|VIRTUAL_ENV|CONDA_DEFAULT_ENV"
    r"|PYTHON(PATH|HASHSEED|MALLOC)|LD_(LIBRARY_PATH|PRELOAD)|TZ|LC_ALL|LANG"
)
_SECRET_VARIABLE = re.compile(r"key|token|secret|passw|credential|jwt", re.IGNORECASE)


def write_environment(folder: RunFolder, workers: list[dict[str, Any]], **more: Any) -> None:
    """`workers`: host, device and threads of each rank."""
    now = {
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "command": redact(os.environ.get("DISTDL_COMMAND") or shlex.join(sys.argv)),  # a worker's own says less
        "python": platform.python_version(),
        "platform": platform.platform(),
        "machine": _machine(),
        "packages": dict(sorted((each.name, each.version) for each in metadata.distributions() if each.name)),
        "variables": _variables(),
        "git": git_commit(Path.cwd()),
        "git_diff": _write_diff(folder, Path.cwd()),
        **more,
        "workers": workers,
    }
    try:
        before = json.loads(folder.environment.read_text())
        earlier = before.pop("earlier", [])
        now["earlier"] = [*earlier, before]
    except (OSError, ValueError, AttributeError, TypeError):
        pass  # the first start, or a damaged file: nothing to keep
    write_json(folder.environment, now)


def git_commit(path: Path) -> str | None:
    """The commit that `path` is checked out at, marked "+changes" if files differ; None outside of git."""
    commit = _git(path, "rev-parse", "HEAD")
    changes = _git(path, "status", "--porcelain", "--untracked-files=no")
    if commit is None or changes is None:
        return None
    return commit.decode().strip() + ("+changes" if changes.strip() else "")


def git_diff(path: Path) -> str:
    """What the tracked files differ from the commit by, without secrets; "" if they don't, and outside of git.

    Longer than DIFF_LIMIT_BYTES it is cut off, and its last line says so.
    """
    content = _git(path, "diff", "HEAD", "--no-color", "--no-ext-diff", "--no-textconv") or b""
    note = ""
    if len(content) > DIFF_LIMIT_BYTES:
        content = content[:DIFF_LIMIT_BYTES].rpartition(b"\n")[0]  # half of a token would not be recognised
        note = f"\n[cut off after {len(content):,} bytes]\n"
    return redact(content.decode(errors="replace")) + note


def _write_diff(folder: RunFolder, path: Path) -> str | None:
    """The name of the file that holds the diff; None if there is none."""
    folder.git_diff.unlink(missing_ok=True)  # of an earlier start
    diff = git_diff(path)
    if not diff:
        return None
    write_atomic(folder.git_diff, diff.encode())
    return folder.git_diff.name


def _git(path: Path, *arguments: str) -> bytes | None:
    """What git prints, no more of it than tells that a diff is too long; None if it fails or takes too long."""
    environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}  # the user may be committing at this moment
    try:
        process = subprocess.Popen(
            ["git", *arguments], cwd=path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
    except OSError:
        return None
    alarm = threading.Timer(_GIT_TIMEOUT_S, process.kill)
    alarm.start()
    with process:
        assert process.stdout is not None
        content = process.stdout.read(DIFF_LIMIT_BYTES + 1)
        if is_cut := len(content) > DIFF_LIMIT_BYTES:
            process.kill()
    alarm.cancel()
    return content if is_cut or process.returncode == 0 else None


def _variables() -> dict[str, str]:
    return {
        name: redact(value)
        for name, value in sorted(os.environ.items())
        if _VARIABLES.fullmatch(name) and not _SECRET_VARIABLE.search(name) and name != "DISTDL_COMMAND"
    }


def _machine() -> dict[str, Any]:
    """Of rank 0: CPU, cores, memory and, where there is one, the NVIDIA driver."""
    cpu = re.search(r"^model name\s*:\s*(.+)$", _text("/proc/cpuinfo"), re.MULTILINE)
    driver = re.search(r"\b\d+\.\d+(?:\.\d+)*\b", _text("/proc/driver/nvidia/version"))
    found: dict[str, Any] = {"cpu": cpu[1] if cpu else platform.processor(), "cores": os.cpu_count()}
    with contextlib.suppress(ValueError, OSError):  # names that this system does not know
        found["memory_bytes"] = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return found | ({"nvidia_driver": driver[0]} if driver else {})


def _text(path: str) -> str:
    try:
        return Path(path).read_text(errors="replace")
    except OSError:
        return ""
