"""Where things lie on this machine: runs, data, what can be made again, what is temporary. Free of torch.

`use` puts what a config says (or, below it, the file of the site) into the environment of this process and of those
that it starts; commands that read no config go by that environment, or by the file of the site. Nothing is kept in the
user's home: it is small and slow on many clusters, and shared by all nodes, where compilers' caches want a disk of the
node's own.
"""

import os
import re
import stat
import tempfile
from pathlib import Path

from distdl.config import of_site
from distdl.config.cluster import PathsConfig
from distdl.errors import UserError

_RUNS, _DATA, _CACHE = "DISTDL_RUNS", "DISTDL_DATASETS", "DISTDL_CACHE"
_VARIABLES = {"runs": _RUNS, "data": _DATA, "cache": _CACHE, "scratch": "TMPDIR"}
_COMPILERS = {  # that would keep their caches in the user's home, or in one folder of all users
    "TORCHINDUCTOR_CACHE_DIR": "inductor",
    "TRITON_CACHE_DIR": "triton",
    "TORCH_EXTENSIONS_DIR": "extensions",
    "CUDA_CACHE_PATH": "cuda",
    "WANDB_CACHE_DIR": "wandb",
    "WANDB_DATA_DIR": "wandb",
}


def use(paths: PathsConfig) -> None:
    """Raises UserError for a variable that is not set here, and for a scratch folder that can't be made."""
    for name, variable in _VARIABLES.items():
        text = getattr(paths, name)
        if text is not None:
            os.environ[variable] = expanded(text, f"paths.{name}")
    if paths.scratch is not None:
        try:
            Path(os.environ["TMPDIR"]).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"can't be made: {error.strerror}", where=f"paths.scratch: {paths.scratch}") from None
        tempfile.tempdir = None  # which is looked for anew then
    cache = user_cache()
    for variable, folder in _COMPILERS.items():
        os.environ.setdefault(variable, str(cache / folder))


def expanded(text: str, where: str) -> str:
    """`text` with its `$VARIABLES` and `~`. Raises UserError for one that is not set on this machine."""
    found = os.path.expandvars(text)
    if missing := re.search(r"\$(\w+|\{[^}]*\})", found):
        raise UserError(f"{missing[0]} is not set on this machine", where=f"{where}: {text}")
    try:
        return str(Path(found).expanduser())
    except RuntimeError as error:  # no home
        raise UserError(str(error), where=f"{where}: {text}") from None


def runs_root() -> Path:
    return Path(_named("runs") or "runs")


def data_root() -> Path | None:
    """Where a relative path of data is looked for, if it is not below the working folder."""
    found = _named("data")
    return Path(found) if found else None


def located(path: str) -> Path:
    """The file or folder of data that a config names: as it is, or else below `data_root`, if it is there."""
    here, root = Path(path), data_root()
    return root / here if root and not here.exists() and (root / here).exists() else here


def user_cache() -> Path:
    """Where what can be made again is kept for this user's next run: on a disk of this machine's, if nothing is said.

    Raises UserError if another user holds the folder: what compilers keep is code that is run.
    """
    if named := _named("cache") or os.environ.get("XDG_CACHE_HOME"):
        return Path(named) / "distdl"
    folder = Path(os.environ.get("TMPDIR") or "/var/tmp") / f"distdl-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        about = folder.lstat()
    except OSError:
        return folder  # whoever writes there is told why that can't be
    if not stat.S_ISDIR(about.st_mode) or about.st_uid != os.getuid() or about.st_mode & 0o022:
        raise UserError(
            "this folder is not this user's alone", where=str(folder), fix="Name another one by paths.cache, or TMPDIR."
        )
    return folder


def _named(name: str) -> str | None:
    if variable := os.environ.get(_VARIABLES[name]):
        return variable
    text = of_site("paths").get(name)
    return expanded(text, f"paths.{name}") if isinstance(text, str) else None
