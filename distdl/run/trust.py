"""Whose code a run folder holds: what its user started here runs again without a word, a stranger's does not.

A config can carry code: plugins, and names such as `package.module:attribute`, which are imported and called (as
"os:system" would be). Whoever gives a config to `distdl train` has asked for that. But to evaluate, load or compare a
run that came from somewhere else is to read it. So a launch leaves a mark, an empty file in this user's state folder,
named by the SHA-256 over the run's config and plugins; a run whose mark is missing, also because somebody has changed
it since, needs the word of its reader. Built-in names never ask.
"""

import contextlib
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from distdl.config.schema import Config
from distdl.errors import UserError
from distdl.run.folder import RunFolder

VARIABLE = "DISTDL_TRUST_PLUGINS"  # 1: as --trust-plugins, which sets it for this process and the workers it starts


def check(folder: RunFolder, config: Config, trusted: bool = False) -> None:
    """Raises UserError if the config of this run carries code that this user has not started here before."""
    code = list(code_in(config))
    if not code or trusted or os.environ.get(VARIABLE) == "1":
        return
    with contextlib.suppress(OSError, RuntimeError):
        if _mark(folder).exists():
            return
    raise UserError(
        f"this run was not started by you on this machine, or was changed since, and would execute {', '.join(code)}",
        where=folder.shown,
        fix=f"Read that code first; then add --trust-plugins (trust_plugins=True in Python, {VARIABLE}=1 for scripts).",
    )


def check_file(path: Path, config: Config, trusted: bool = False) -> None:
    """The same for a config that is named by its path, if that is the config.yaml of a run."""
    folder = RunFolder(path.parent)
    if folder.identity.exists():
        check(folder, config, trusted)


def remember(folder: RunFolder, config: Config) -> None:
    """Notes that this user has started this run. Without a home folder that can be written, it isn't noted."""
    if any(code_in(config)):
        with contextlib.suppress(OSError, RuntimeError):
            mark = _mark(folder)
            mark.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            mark.touch()


def code_in(config: Config) -> Iterator[str]:
    """What a config would have executed besides distdl: its plugins, and its names of the form `module:attribute`."""
    yield from config.plugins
    names = [config.model.name, config.task.name, config.optim.name, config.schedule.name, config.dist.engine]
    for split in (config.data.train, *config.data.eval_sets.values()):
        names += [source.dataset or "" for source in split.sources]
        names += [name for transform in split.transforms for name in transform]
    yield from dict.fromkeys(name for name in names if ":" in name)


def _mark(folder: RunFolder) -> Path:
    """Raises OSError if the run folder can't be read, RuntimeError if the user has no home."""
    state = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
    digest = hashlib.sha256(folder.config.read_bytes())
    for plugin in sorted(folder.plugins.glob("*.py")):
        digest.update(f"\0{plugin.name}\0{plugin.stat().st_size}\0".encode() + plugin.read_bytes())
    return state / "distdl" / "started" / digest.hexdigest()
