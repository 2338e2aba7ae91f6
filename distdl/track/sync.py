"""`distdl sync`: replays metrics.jsonl into wandb from a machine that has a network, as often as one likes.

metrics.jsonl (whole rows, each step once) -> rows past the last step that wandb has of their series -> the wandb run
with the id of the run folder. Never from wandb's own offline files: those of a resumed run overwrite each other. While
the run trains, `watch -n 300 distdl sync RUN` keeps its curves up to date.
"""

import argparse
import contextlib
import fcntl
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

from distdl.config.schema import WandbConfig
from distdl.errors import EXIT_DONE, UserError
from distdl.run import folder as folders
from distdl.run import listing
from distdl.run.folder import RunFolder
from distdl.track import jsonl
from distdl.track.wandb_run import WandbRun, end_service


def run(arguments: argparse.Namespace) -> int:
    for name in arguments.runs:
        sync(folders.find(name), print, arguments.mode, project=arguments.project, entity=arguments.entity)
    return EXIT_DONE


def sync(
    folder: RunFolder,
    say: Callable[[str], None],
    mode: Literal["online", "offline"] = "online",
    *,
    project: str | None = None,
    entity: str | None = None,
) -> int:
    """Sends the rows that wandb does not have yet; returns how many. `project`, `entity`: instead of the config's.

    Raises UserError without the wandb package, an API key or a network; for a run that sends its rows itself at this
    moment; and beside another sync of the same run.
    """
    run_id, state = folder.run_id(), listing.describe(folder)["state"]
    config = listing.read_config(folder)
    given = (config.get("track") or {}).get("wandb") or {}
    settings = WandbConfig.model_validate({key: given[key] for key in given if key in WandbConfig.model_fields})
    if state == "running" and settings.mode == "online":
        raise UserError(
            "this run sends its rows to wandb itself while it trains", where=folder.shown, fix="Sync it when it ends."
        )
    with _alone(folder), tempfile.TemporaryDirectory() as scratch:
        there = {"mode": mode, "project": project or settings.project, "entity": entity or settings.entity}
        files = {"dir": scratch} if mode == "online" else {}
        wandb_run = _open(folder, run_id, settings.model_copy(update={**there, **files}), config)
        try:
            if mode == "online":  # not what a note says was sent, which may not have arrived
                wandb_run.sent = wandb_run.on_server()
            new = wandb_run.take_new(jsonl.read(folder.metrics))
            wandb_run.send(new)
            where = wandb_run.url or wandb_run.directory
            wandb_run.close("done" if state == "running" else state)  # waits until all has arrived
            wandb_run.note()
        except BaseException:
            end_service()
            raise
    say(f"{folder.name}: {len(new)} rows sent to {where}")
    return len(new)


def _open(folder: RunFolder, run_id: str, settings: WandbConfig, config: listing.Row) -> WandbRun:
    try:
        # It is this machine that wandb would describe, not the one that trained.
        return WandbRun(folder, run_id, settings, config, x_disable_machine_info=True)
    except ImportError as error:
        raise UserError(
            f"wandb can't be imported here: {error}", fix="Install it in this environment: pip install wandb"
        ) from error
    except Exception as error:
        end_service()
        import wandb

        if not isinstance(error, wandb.errors.Error):
            raise
        raise UserError(
            f"wandb does not let us in: {' '.join(str(error).split())}",
            fix="Is there a network here, and an API key (`wandb login`, or WANDB_API_KEY)?",
        ) from error


@contextlib.contextmanager
def _alone(folder: RunFolder) -> Iterator[None]:
    """Two at a time would both send the same rows."""
    lock: Path = folder.path / "wandb" / "sync.lock"
    try:
        lock.parent.mkdir(exist_ok=True)
        file = lock.open("w")
    except OSError as error:
        raise UserError(f"can't write here: {error.strerror}", where=str(lock.parent)) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError("another `distdl sync` of this run is under way", where=folder.shown) from None
        yield
