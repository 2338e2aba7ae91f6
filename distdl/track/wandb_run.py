"""Weights & Biases, off the hot path: everything here but `start` runs in a background thread.

A run keeps its wandb id, the run folder's, over all its restarts. Rows carry their step as a metric of their own, the
axis of every curve, because wandb's internal counter must only ever grow and a resumed run goes back to its checkpoint.
What was sent is noted in <run folder>/wandb/sent-<mode>.json, and known to the server as <series>/step: steps made
again are not sent again, and the rows in wandb are those of the first time. A row lost with its worker stays in
metrics.jsonl; `distdl sync` sends those past the last that wandb has.
"""

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from distdl.config.schema import WandbConfig
from distdl.run.folder import RunFolder, write_atomic
from distdl.run.listing import read_json
from distdl.run.secrets import redact, redact_values
from distdl.track.background import Background, Say
from distdl.track.jsonl import PLACE, Row, scalars, series

INIT_TIMEOUT_S = 60.0


def start(folder: RunFolder, settings: WandbConfig, config: dict[str, Any]) -> Background:
    """Starts or continues the wandb run of this run folder; `config` is shown there. Nothing is imported here."""
    run_id = folder.run_id()

    def open_sink(say: Say) -> "WandbRun":
        run = WandbRun(folder, run_id, settings, config)
        for name, step in run.on_server().items():
            run.sent[name] = max(step, run.sent.get(name, -1))
        say(f"wandb: {run.url or f'offline, in {run.directory}'}")
        return run

    return Background("wandb", open_sink, abandon=end_service, stall_s=2 * INIT_TIMEOUT_S)


class WandbRun:
    """One wandb run. Raises whatever wandb raises: ImportError, no API key, no answer within INIT_TIMEOUT_S.

    `sent`: the last step of each series that has been sent. `more` goes into wandb.Settings.
    """

    def __init__(
        self, folder: RunFolder, run_id: str, settings: WandbConfig, config: dict[str, Any], **more: Any
    ) -> None:
        import wandb

        # silent also keeps wandb from asking for an API key: there is nobody at this thread's keyboard.
        # Its own copies of the git diff, the code and the command would hold what environment.json leaves out.
        command = " ".join(sys.argv)
        if redact(command) != command:
            more["x_disable_meta"] = True
        quiet = wandb.Settings(
            silent=True, console="off", init_timeout=INIT_TIMEOUT_S, disable_git=True, disable_code=True, **more
        )
        wandb.setup(quiet)
        self._wandb = wandb
        self.directory = Path(settings.dir or folder.path)
        self.directory.mkdir(parents=True, exist_ok=True)
        self._run: Any = wandb.init(
            id=run_id,
            resume="allow",
            mode=settings.mode,
            project=settings.project,
            entity=settings.entity,
            group=settings.group,
            tags=settings.tags or None,  # [] would take those away that were given in the browser
            name=folder.name,
            dir=str(self.directory),
            config={**redact_values(config), "git": read_json(folder.environment).get("git")},
            settings=quiet,
        )
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")
        self._note = folder.path / "wandb" / f"sent-{settings.mode}.json"
        self.sent = _read_note(self._note)
        self._known_series: set[str] = set()

    @property
    def url(self) -> str | None:
        return self._run.url

    def on_server(self) -> dict[str, int]:
        """The last step of each series that wandb has; none of a run that is new there, and offline."""
        if not self._run.resumed:
            return {}
        summary = dict(self._run.summary)
        return {name.removesuffix("/step"): int(step) for name, step in summary.items() if name.endswith("/step")}

    def log(self, rows: list[Row]) -> None:
        # Noted first: a worker that is killed in between loses rows here, and sends none twice.
        new = self.take_new(rows)
        self.note()
        self.send(new)

    def take_new(self, rows: Iterable[Row]) -> list[Row]:
        """The rows with numbers that were not sent yet; they count as sent from now on."""
        new = []
        for row in rows:
            if row["step"] > self.sent.get(series(row), -1) and scalars(row):
                self.sent[series(row)] = row["step"]
                new.append(row)
        return new

    def send(self, rows: Iterable[Row]) -> None:
        for row in rows:
            marker = f"{series(row)}/step"
            if marker not in self._known_series:
                self._known_series.add(marker)
                self._run.define_metric(marker, hidden=True)
            place = {key: row[key] for key in PLACE if key in row}
            self._run.log({**scalars(row), **place, marker: row["step"]})

    def note(self) -> None:
        self._note.parent.mkdir(exist_ok=True)
        write_atomic(self._note, json.dumps(self.sent).encode())

    def close(self, outcome: str) -> None:
        if outcome == "preempted":
            self._run.mark_preempting()
        self._run.finish(exit_code=0 if outcome == "done" else 1)
        self._wandb.teardown()  # ends wandb's service process


def _read_note(path: Path) -> dict[str, int]:
    """The last step sent, by series; none when the file is missing or damaged."""
    try:
        return {name: int(step) for name, step in read_json(path).items()}
    except (ValueError, TypeError):
        return {}


def end_service() -> None:
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
