"""Weights & Biases, off the hot path: everything here but `start` runs in a background thread.

A run keeps its wandb id, the run folder's, over all its restarts. Rows carry their step as a metric of their own, the
axis of every curve, because wandb's internal counter must only ever grow and a resumed run goes back to its checkpoint.
What was sent is noted in <run folder>/wandb/sent-<mode>.json, so that steps made again are not sent again; the rows in
wandb are then those of the first time. A row lost with its worker stays in metrics.jsonl.
"""

import json
import sys
from pathlib import Path
from typing import Any

from distdl.config.schema import WandbConfig
from distdl.run.folder import RunFolder, write_atomic
from distdl.track.background import Background, Say
from distdl.track.jsonl import Row, scalars, series

INIT_TIMEOUT_S = 60.0


def start(folder: RunFolder, settings: WandbConfig, config: dict[str, Any]) -> Background:
    """Starts or continues the wandb run of this run folder; `config` is shown there. Nothing is imported here."""
    run_id = folder.run_id()

    def open_sink(say: Say) -> "WandbRun":
        return WandbRun(folder, run_id, settings, config, say)

    return Background("wandb", open_sink, abandon=_end_service, stall_s=2 * INIT_TIMEOUT_S)


class WandbRun:
    """One wandb run. Raises whatever wandb raises: ImportError, no API key, no answer within INIT_TIMEOUT_S."""

    def __init__(self, folder: RunFolder, run_id: str, settings: WandbConfig, config: dict[str, Any], say: Say) -> None:
        import wandb

        # silent also keeps wandb from asking for an API key: there is nobody at this thread's keyboard.
        quiet = wandb.Settings(silent=True, console="off", init_timeout=INIT_TIMEOUT_S)
        wandb.setup(quiet)
        self._wandb = wandb
        self._run: Any = wandb.init(
            id=run_id,
            resume="allow",
            mode=settings.mode,
            project=settings.project,
            entity=settings.entity,
            name=folder.name,
            dir=str(folder.path),
            config=config,
            settings=quiet,
        )
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")
        self._sent_file = folder.path / "wandb" / f"sent-{settings.mode}.json"
        self._sent = _read_sent(self._sent_file)
        say(f"wandb: {self._run.url}" if settings.mode == "online" else f"wandb: offline, in {folder.path / 'wandb'}")

    def log(self, rows: list[Row]) -> None:
        for row in rows:
            values: dict[str, Any] = dict(scalars(row))
            if not values or row["step"] <= self._sent.get(series(row), -1):
                continue
            values.update({key: row[key] for key in ("step", "epoch", "samples", "time_s") if key in row})
            self._run.log(values)
            self._sent[series(row)] = row["step"]
        self._sent_file.parent.mkdir(exist_ok=True)
        write_atomic(self._sent_file, json.dumps(self._sent).encode())

    def close(self, outcome: str) -> None:
        if outcome == "preempted":
            self._run.mark_preempting()
        self._run.finish(exit_code=0 if outcome == "done" else 1)
        self._wandb.teardown()  # ends wandb's service process


def _read_sent(path: Path) -> dict[str, int]:
    """The last step sent, by series; none when the file is missing or damaged."""
    try:
        return {str(name): int(step) for name, step in json.loads(path.read_text()).items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def _end_service() -> None:
    """Ends wandb's service process after a failure, and takes back wandb's wish to wait for it when Python exits.

    That wait has no limit (a run whose server is gone would not end), and wandb has no public way to give up, so this
    reaches into it; where a wandb looks different inside, we are left with its wait.
    """
    try:
        connection = sys.modules["wandb"].setup()._connection
        connection._cleanup()
        connection._proc._process.kill()
        connection._proc._process.wait(timeout=1.0)
    except Exception:  # private attributes of another package: whatever fails here means the same
        return
