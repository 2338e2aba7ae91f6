"""Where a run's numbers go: metrics.jsonl (the truth), the screen, and if asked for TensorBoard and wandb.

The loop talks to a `Tracker` on rank 0 and to a `NullTracker` elsewhere:

    loop -> log(row) -> metrics.jsonl -> console -> TensorBoard and wandb, each behind a queue and a thread of its own
         -> progress(step): the live line

What the machine does meanwhile is sampled by a thread (system) and logged with the next row. Nothing here stops
training: what fails is one warning, and the run goes on.
"""

import dataclasses
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Literal

from distdl.config.schema import TrackConfig
from distdl.run.folder import RunFolder
from distdl.track import system, tensorboard, wandb_run
from distdl.track.background import Background
from distdl.track.console import Console
from distdl.track.jsonl import PLACE, MetricsFile, Row, check_row
from distdl.track.system import SystemMeter

# For wandb to send its last rows; a run that failed or is pre-empted should make room soon.
CLOSE_TIMEOUT_S = 10.0
HURRIED_CLOSE_TIMEOUT_S = 5.0


@dataclasses.dataclass(slots=True)
class Tracker:
    """Writes rows everywhere. For one thread, the one that trains; `close` it, or use it as a context manager."""

    metrics: MetricsFile
    console: Console
    background: list[Background]
    system: SystemMeter | None = None
    _warned: set[str] = dataclasses.field(default_factory=set)
    _closed: bool = False

    @classmethod
    def open(
        cls,
        folder: RunFolder,
        track: TrackConfig,
        *,
        config: dict[str, Any],
        resume_step: int | None,
        total_steps: int,
        samples_per_epoch: int,
        verbosity: int,
        screen: Literal["tty", "plain"],
    ) -> "Tracker":
        """Opens all that `track` asks for. `config` is the resolved config, shown in wandb.

        `resume_step` is the step of the checkpoint that the run goes on from: rows past it are dropped. None is a run
        that starts from nothing: rows of an attempt that left no checkpoint are dropped too.
        """
        metrics = MetricsFile(folder.metrics, resume_step)
        console = Console(
            total_steps=total_steps,
            samples_per_epoch=samples_per_epoch,
            first_step=resume_step or 0,
            verbosity=verbosity,
            screen=screen,
        )
        background = []
        if track.tensorboard:
            background.append(tensorboard.start(folder.path / "tensorboard", resume_step))
        if track.wandb.mode != "disabled":
            background.append(wandb_run.start(folder, track.wandb, config))
        return cls(metrics, console, background, system.start(track.system_every))

    def log(self, row: Row) -> None:
        """Writes one row of metrics.jsonl, as it is. Raises ValueError or TypeError for a row that can't be one.

        A train or eval row that the file kept from before a restart is shown, and written nowhere again.
        """
        check_row(row)
        self._log(dict(row))  # the background threads read it later, when the caller may have changed it
        if self.system and (sample := self.system.take()):
            self._log({"kind": "system", **{key: row[key] for key in PLACE if key in row}, **sample})
        if self.system and self.system.fault:
            self.warn_once("system", self.system.fault)

    def _log(self, row: Row) -> None:
        trouble = self.metrics.append(row)
        self.console.row(row)
        if trouble is not None:
            self.warn_once(
                "metrics.jsonl", f"can't write metrics.jsonl ({trouble.strerror}); trying again with each row"
            )
        for background in self.background:
            if not self.metrics.holds(row):
                background.put(row)
            self._relay(background)

    def progress(self, step: int, note: str = "") -> None:
        """Keeps the live line moving: call it every step. `note` says what goes on besides, such as "eval 12/40"."""
        self.console.progress(step, note)

    def say(self, message: str) -> None:
        """A plain line of text, not shown with -q."""
        self.console.say(message)

    def warn_once(self, topic: str, message: str) -> None:
        """A warning, shown even with -q; later ones on the same topic are dropped."""
        if topic not in self._warned:
            self._warned.add(topic)
            self.console.line(f"warning: {message}")

    def close(self, outcome: str, summary: Sequence[str] = ()) -> None:
        """Ends tracking: "done", "preempted" or what else came of the run; then prints the `summary`, the last lines.

        Waits at most CLOSE_TIMEOUT_S for each background tracker, less when not done. A second call does nothing.
        """
        if self._closed:
            return
        self._closed = True
        self.console.erase()
        if self.system:
            self.system.close()
        if (trouble := self.metrics.close()) is not None:
            lost = f"; {self.metrics.n_waiting} rows are lost" if self.metrics.n_waiting else ""
            self.warn_once("metrics.jsonl at the end", f"can't write metrics.jsonl ({trouble.strerror}){lost}")
        for background in self.background:
            background.close(outcome, CLOSE_TIMEOUT_S if outcome == "done" else HURRIED_CLOSE_TIMEOUT_S)
            self._relay(background)
        for line in summary:
            self.console.line(line)

    def __enter__(self) -> "Tracker":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close("done" if kind is None else "failed")

    def _relay(self, background: Background) -> None:
        while not background.news.empty():
            self.say(background.news.get())
        if background.fault is not None:
            self.warn_once(background.name, background.fault)


class NullTracker:
    """What the other ranks hold: the same calls, nothing done."""

    def log(self, row: Row) -> None: ...

    def progress(self, step: int, note: str = "") -> None: ...

    def say(self, message: str) -> None: ...

    def warn_once(self, topic: str, message: str) -> None: ...

    def close(self, outcome: str, summary: Sequence[str] = ()) -> None: ...

    def __enter__(self) -> "NullTracker":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing to end."""
