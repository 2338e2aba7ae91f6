"""environment.json: what a run ran on. Written at every start; earlier starts of the same run are kept in it."""

import json
import os
import platform
import shlex
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

from distdl.run.folder import RunFolder, write_json

_PACKAGES = (
    "distdl",
    "torch",
    "numpy",
    "webdataset",
    "simplejpeg",
    "opencv-python-headless",
    "safetensors",
    "pydantic",
)


def write_environment(folder: RunFolder, workers: list[dict[str, Any]], **more: Any) -> None:
    """`workers`: host, device and threads of each rank."""
    now = {
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "command": os.environ.get("DISTDL_COMMAND") or shlex.join(sys.argv),  # a worker's own says less
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "git": git_commit(Path.cwd()),
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
    try:
        answers = [
            subprocess.run(["git", *arguments], cwd=path, capture_output=True, text=True, timeout=5, check=True).stdout
            for arguments in (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
        ]
    except (OSError, subprocess.SubprocessError):
        return None
    return answers[0].strip() + ("+changes" if answers[1].strip() else "")


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
