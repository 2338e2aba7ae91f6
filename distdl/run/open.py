"""Starting a run in its folder, or going on with it: in the one order that is safe.

folder -> lease -> is the config still that of this run? -> config.yaml. Free of torch: a mistake is answered before any
worker is started.
"""

from dataclasses import dataclass
from pathlib import Path

from distdl.config import compare, dump, load
from distdl.config.schema import Config
from distdl.errors import UserError
from distdl.run import lease
from distdl.run.folder import RunFolder, create_or_reopen, write_atomic


@dataclass(frozen=True, slots=True)
class OpenRun:
    folder: RunFolder
    lease: lease.Lease
    changes: list[str]  # keys that were allowed to change since the run was started


def open_run(path: Path, config: Config, *, resume: bool) -> OpenRun:
    """Raises UserError: a run folder that exists (without `resume`), one in use, a config that is another run's."""
    folder = create_or_reopen(path, resume=resume)
    held = lease.take(folder)
    try:
        changes: list[str] = []
        if _has_begun(folder):
            refused, changes = compare(load(folder.config).config, config)
            if refused:
                raise UserError(
                    "this run was started with other settings:\n  " + "\n  ".join(refused),
                    where=str(folder.path),
                    fix="Put them back, or choose another --name. (--from RUN starts a new run from its weights.)",
                )
        write_atomic(folder.config, dump(config).encode())
    except BaseException:
        held.close()
        raise
    return OpenRun(folder, held, changes)


def _has_begun(folder: RunFolder) -> bool:
    """Whether there is a checkpoint to go on from. A run without one starts from nothing: any config will do."""
    return folder.config.exists() and any(folder.checkpoints.glob("step-*/manifest.json"))
