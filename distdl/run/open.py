"""Starting a run in its folder, or going on with it: in the one order that is safe.

folder -> lease -> is the config still that of this run? -> copies of its plugins -> config.yaml, which names them. Free
of torch: a mistake is answered before any worker is started.
"""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from distdl import plugins
from distdl.config import compare, dump, load
from distdl.config.schema import Config
from distdl.errors import UserError
from distdl.run import lease, trust, tuned
from distdl.run.folder import RunFolder, create_or_reopen, write_atomic


@dataclass(frozen=True, slots=True)
class OpenRun:
    folder: RunFolder
    lease: lease.Lease
    changes: list[str]  # keys that were allowed to change since the run was started


def open_run(path: Path, config: Config, *, resume: bool, n_nodes: int = 1, per_node: int = 1) -> OpenRun:
    """`per_node`: workers on each of so many nodes.

    Raises UserError: a run folder that exists (without `resume`), one in use, a config that is another run's.
    """
    folder = create_or_reopen(path, resume=resume)
    held = lease.take(folder)
    try:
        sources = {plugins.copy_name(path, text): text for path, text in plugins.read(config.plugins)}
        kept = config.model_copy(update={"plugins": [f"plugins/{name}" for name in sources]})
        before = load(folder.config).config if _has_begun(folder) else None
        if before and kept.dist.bucket_mib == "auto":  # the order of the run's sums depends on it
            kept = kept.model_copy(update={"dist": kept.dist.model_copy(update={"bucket_mib": before.dist.bucket_mib})})
        kept = tuned.settled(kept, n_nodes, per_node)
        changes = _allowed_changes(folder, before, kept) if before else []
        for name, text in sources.items():
            folder.plugins.mkdir(exist_ok=True)
            write_atomic(folder.plugins / name, text.encode())
        if sources:
            digests = {name: hashlib.sha256(text.encode()).hexdigest() for name, text in sources.items()}
            folder.add_to_identity(plugins=digests)
        write_atomic(folder.config, dump(kept).encode())
        trust.remember(folder, kept)
    except BaseException:
        held.close()
        raise
    return OpenRun(folder, held, changes)


def _allowed_changes(folder: RunFolder, before: Config, config: Config) -> list[str]:
    """Raises UserError for those that would make it another run: other code is one of them."""
    before = before.model_copy(update={"plugins": [os.path.relpath(each, folder.path) for each in before.plugins]})
    refused, changes = compare(before, config)
    if refused:
        fix = "Put them back, or choose another --name. (--from RUN starts a new run from its weights.)"
        if before.plugins != config.plugins:
            copies = ",".join(str(folder.path / each) for each in before.plugins)
            fix += f"\n  The code that it was started with is kept: 'plugins=[{copies}]' goes on with that."
        raise UserError(
            "this run was started with other settings:\n  " + "\n  ".join(refused), where=str(folder.path), fix=fix
        )
    return changes


def _has_begun(folder: RunFolder) -> bool:
    """Whether there is a checkpoint to go on from. A run without one starts from nothing: any config will do."""
    return folder.config.exists() and any(folder.checkpoints.glob("step-*/manifest.json"))
