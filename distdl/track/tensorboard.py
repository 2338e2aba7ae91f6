"""TensorBoard files in <run folder>/tensorboard, written by tensorboard's own writer, without torch or TensorFlow.

A resumed run opens a new event file that begins with a session start: TensorBoard then forgets what earlier files hold
from that step on, which is what metrics.jsonl does as well.
"""

import time
from pathlib import Path
from typing import Any

from distdl.track.background import Background, Say
from distdl.track.jsonl import Row, scalars

FLUSH_EVERY_S = 30


def start(folder: Path, resume_step: int | None) -> Background:
    """Writes TensorBoard files to `folder` in the background; a missing package is a fault of it, not an exception."""

    def open_sink(say: Say) -> "TensorBoardFiles":
        return TensorBoardFiles(folder, 0 if resume_step is None else resume_step + 1)

    return Background("tensorboard", open_sink)


class TensorBoardFiles:
    """One event file. Raises ImportError when the tensorboard package is missing."""

    def __init__(self, folder: Path, first_step: int) -> None:
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self._event: Any = Event
        self._summary: Any = Summary
        folder.mkdir(parents=True, exist_ok=True)
        self._writer = EventFileWriter(str(folder), flush_secs=FLUSH_EVERY_S)
        restart = SessionLog(status=SessionLog.START)
        self._writer.add_event(Event(wall_time=time.time(), step=first_step, session_log=restart))

    def log(self, rows: list[Row]) -> None:
        for row in rows:
            values = [self._summary.Value(tag=tag, simple_value=value) for tag, value in scalars(row).items()]
            if values:
                summary = self._summary(value=values)
                self._writer.add_event(self._event(wall_time=time.time(), step=row["step"], summary=summary))

    def close(self, outcome: str) -> None:
        self._writer.close()
