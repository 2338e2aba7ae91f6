"""Committing checkpoints in the background: the step pays for a copy of the state, a thread does the writing.

    capture -> snapshot (the pause) -> thread: write .step-00000400.part -> rename -> prune what no rule keeps

A thread is enough: hashing, writing and syncing leave Python to the training, and a process of its own was measured to
slow the steps no less. A checkpoint is written under a temporary name, synced, and renamed: it is there whole or not at
all. Before the rename the lease is looked at again, so that a run that was replaced meanwhile commits nothing. Rank 0
alone writes; all call.
"""

import contextlib
import errno
import queue
import shutil
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from distdl.checkpoint import format
from distdl.checkpoint.format import CheckpointDamaged
from distdl.checkpoint.load import committed, folder_name
from distdl.checkpoint.retention import kept
from distdl.checkpoint.snapshot import Snapshot
from distdl.comm import collectives
from distdl.config.schema import KeepConfig
from distdl.errors import UserError
from distdl.run.folder import RunFolder, fsync_folder
from distdl.watch import pulse

_FAILURES_ENDURED = 2  # a save that fails is tried again when the next is due; the third failure in a row ends the run
_LONG_WAIT_S = 1.0

# Returns tensors by logical name, and JSON.
Capture = Callable[[], tuple[dict[str, torch.Tensor], dict[str, Any]]]


class Checkpoints:
    """Saves of one run. `still_ours`: whether this process's lease on the folder holds. `warn(topic, message)`;
    `took(seconds)` after each save."""

    def __init__(
        self,
        folder: RunFolder,
        *,
        keep: KeepConfig,
        epoch_length: int,
        warn: Callable[[str, str], None],
        still_ours: Callable[[], bool],
        took: Callable[[float], None] = lambda seconds: None,
    ) -> None:
        self.folder, self.keep = folder, keep
        self._epoch_length, self._warn, self._still_ours, self._took = epoch_length, warn, still_ours, took
        self._snapshot = Snapshot()
        self._positions: dict[int, int] = {}  # samples since the start, of the checkpoints whose manifest was read
        self._background = _Background("checkpoint")
        self._failure: Exception | None = None
        self._failures_in_a_row = 0

    def prepare(self, capture: Capture) -> None:
        """Takes the memory for the first save in the background. What `capture()` returns has to have its final shape:
        an optimiser has its state after the first step."""
        if collectives.rank() == 0:  # rank 0 only
            self._finish(must_succeed=False)
            tensors, _ = capture()
            format.check_dtypes(tensors)
            self._background.start(lambda: self._prepare(tensors))

    def save(self, capture: Capture, step: int, *, best_steps: Sequence[int], wait: bool) -> None:
        """Saves what `capture()` returns as the state at `step`; with `wait`, returns when it is committed.

        `best_steps`: of the best evaluations, to be kept. A save under way is waited for first.
        Raises UserError when it can't be written: at once with `wait`, otherwise after several failures in a row.
        """
        if collectives.rank() == 0:  # rank 0 only
            self._wait_for_the_one_before(step)
            tensors, state = capture()
            copies = self._snapshot.take(tensors)
            self._background.start(lambda: self._write(copies, state, step, best_steps), freeing=tensors)
            del tensors
            if wait:
                self._finish(must_succeed=True)
        if wait:
            collectives.barrier()

    def prune(self, best_steps: Sequence[int]) -> None:
        """Deletes what no rule keeps any more. A failure is left to the next save."""
        if collectives.rank() == 0:  # rank 0 only
            with contextlib.suppress(OSError):
                self._prune(best_steps)

    def wait(self) -> None:
        """Returns when no save is under way."""
        self._finish(must_succeed=False)

    def close(self) -> None:
        """Waits for a save under way, and ends the thread."""
        self.wait()
        self._background.close()

    def _wait_for_the_one_before(self, step: int) -> None:
        began = time.monotonic()
        self._finish(must_succeed=False)
        pulse.mine.beat()  # for who watches this worker: its own save takes as long again
        waited_s = time.monotonic() - began
        if waited_s > _LONG_WAIT_S:
            self._warn(
                "a save that waits",
                f"the save at step {step} waited {waited_s:.1f} s until the one before was written: "
                "the disk is slow, or checkpoint.every too short",
            )

    def _finish(self, *, must_succeed: bool) -> None:
        self._background.wait()
        failure, self._failure = self._failure, None
        if failure is None:
            self._failures_in_a_row = 0
            return
        self._failures_in_a_row += 1
        if not isinstance(failure, OSError):
            raise failure
        error = _explain(failure, self.folder.checkpoints)
        if must_succeed or self._failures_in_a_row > _FAILURES_ENDURED:
            raise error from failure
        self._warn(
            "a save that failed", f"a checkpoint was not saved ({error}); training goes on, the next save tries again"
        )

    def _prepare(self, tensors: dict[str, torch.Tensor]) -> None:
        with contextlib.suppress(Exception):  # no memory: the save itself asks again, and says so
            self._snapshot.prepare(tensors)

    def _write(
        self, tensors: dict[str, torch.Tensor], state: dict[str, Any], step: int, best_steps: Sequence[int]
    ) -> None:
        began = time.monotonic()
        part = self.folder.checkpoints / f".{folder_name(step)}.part"
        try:
            shutil.rmtree(part, ignore_errors=True)
            self._snapshot.wait()
            format.write(part, tensors, state, run_id=self.folder.run_id(), step=step)
            self._commit(part, step)
            self._positions[step] = state["train_state"]["position"]
            self._prune(best_steps)
            self._took(time.monotonic() - began)
        except Exception as error:
            shutil.rmtree(part, ignore_errors=True)
            self._failure = error

    def _commit(self, part: Path, step: int) -> None:
        if not self._still_ours():
            where = str(self.folder.path)
            if not self.folder.lease.exists():
                raise UserError("the run folder was deleted while the run was going on", where=where)
            raise UserError("another launch has taken over this run folder; nothing was written", where=where)
        final = self.folder.checkpoints / folder_name(step)
        if final.exists():  # the same step again: a damaged one, or the one that this run was resumed from
            replaced = self.folder.checkpoints / f".{final.name}.replaced"
            shutil.rmtree(replaced, ignore_errors=True)
            final.rename(replaced)
            part.rename(final)
            shutil.rmtree(replaced, ignore_errors=True)
        else:
            part.rename(final)
        fsync_folder(self.folder.checkpoints)

    def _prune(self, best_steps: Sequence[int]) -> None:
        there = dict(committed(self.folder))
        staying = kept(there, lambda step: self._position(step, there[step]), self.keep, self._epoch_length, best_steps)
        for step in there.keys() - staying:
            doomed = self.folder.checkpoints / f".{there[step].name}.pruned"
            there[step].rename(doomed)  # half a deleted checkpoint must not look like a damaged one
            shutil.rmtree(doomed, ignore_errors=True)

    def _position(self, step: int, path: Path) -> int | None:
        """Samples since the start at a committed checkpoint; None if its manifest can't be read."""
        if step not in self._positions:
            try:
                self._positions[step] = format.read_manifest(path)["state"]["train_state"]["position"]
            except (CheckpointDamaged, KeyError):
                return None
        return self._positions[step]


class _Background:
    """A thread that waits for work, one piece at a time: to start a thread for each would be a part of the pause.

    It is a daemon: a disk that hangs must not hang the end of a process that has failed.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._thread: threading.Thread | None = None
        self._work: queue.SimpleQueue[tuple[Callable[[], None], Any] | None] = queue.SimpleQueue()
        self._idle = threading.Event()
        self._idle.set()

    def start(self, work: Callable[[], None], freeing: Any = None) -> None:
        """`freeing` is let go in the thread: to free a thousand tensors costs milliseconds when others want to run."""
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
            self._thread.start()
        self._idle.clear()
        self._work.put((work, freeing))

    def wait(self) -> None:
        self._idle.wait()

    def close(self) -> None:
        if self._thread is not None:
            self._work.put(None)
            self._thread.join()
            self._thread = None

    def _run(self) -> None:
        while (given := self._work.get()) is not None:
            work, freeing = given
            try:
                work()
            finally:
                del given, work, freeing
                self._idle.set()


def sweep(folder: RunFolder) -> None:
    """Clears what a killed save left behind. A replaced checkpoint whose successor never came is put back."""
    for leftover in folder.checkpoints.glob(".step-*"):
        if leftover.suffix == ".replaced":
            final = folder.checkpoints / leftover.name[1:].removesuffix(".replaced")
            if not final.exists():
                leftover.rename(final)
                continue
        shutil.rmtree(leftover, ignore_errors=True)


def set_aside(folder: RunFolder, after_step: int) -> list[str]:
    """Renames checkpoints newer than `after_step`, found damaged when the run was resumed, out of the way."""
    moved = []
    for step, path in committed(folder):
        if step > after_step:
            aside = path.with_name(f"damaged-{path.name}")
            shutil.rmtree(aside, ignore_errors=True)
            path.rename(aside)
            moved.append(aside.name)
    return moved


def _explain(error: OSError, path: Path) -> UserError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        free_mib = shutil.disk_usage(path).free / 2**20
        return UserError(
            f"no space left for a checkpoint ({free_mib:.1f} MiB free)",
            where=str(path),
            fix="Free some space or lower checkpoint.keep, then start again with --resume.",
        )
    return UserError(f"can't write a checkpoint: {error.strerror or error}", where=str(path))
