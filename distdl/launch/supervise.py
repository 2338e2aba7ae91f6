"""Starts the workers of a run on this machine, and starts them again after a failure: attempt after attempt, until one
ends well or another one makes no sense."""

import itertools
import signal
from collections.abc import Sequence

from distdl.errors import EXIT_BUG, EXIT_DONE, EXIT_PREEMPTED, EXIT_USER_ERROR
from distdl.launch.attempt import Attempt
from distdl.launch.mpi_job import Launcher, MPIJob
from distdl.launch.output import Screen
from distdl.launch.process import OwnStarter
from distdl.launch.restarts import Places, Restarts, lost_ranks
from distdl.launch.signals import Signals
from distdl.run import failures
from distdl.run.folder import RunFolder
from distdl.run.lease import Lease
from distdl.watch.watch import Watch

REST_S = 60.0  # of a place whose worker was lost, the first time


def run(
    command: Sequence[str],
    nproc: int,
    folder: RunFolder,
    *,
    max_restarts: int = 0,
    min_workers: int | None = None,
    rest_s: float = REST_S,
    stop_signals: Sequence[str] = ("SIGTERM", "SIGUSR1"),
    lease: Lease | None = None,
    stall_s: float | None = None,
    has_spares: bool = False,
    mpi: Launcher | None = None,
) -> int:
    """Runs `command` as `nproc` workers and returns the exit code of the run (see distdl.errors).

    Without `stop_signals` they don't save when told to stop, and Ctrl-C ends them at once.
    Workers that get no further for `stall_s` (20 times as long in phases that may take long) have failed; None: never.
    After a failure that isn't the user's mistake, all workers are started again, until `max_restarts` restarts in a row
    have made no checkpoint. With `min_workers`, a lost worker's place rests for `rest_s` (longer each time): the others
    go on without it, if they are so many, and save and start again with it when it is over.
    `mpi`: what joins them to an MPI job; None for workers that need no such thing.
    With `has_spares`, workers for the next attempt wait beside those that train: `command` knows of them (spares.py).
    Has to be called from the main thread: signals arrive there, and workers die with the thread that started them.
    """
    screen, restarts, places = Screen(), Restarts(max_restarts), Places(nproc, min_workers, rest_s)

    def new_attempt(number: int, at: Sequence[int]) -> Attempt:
        starter = MPIJob(mpi, len(at)) if mpi and len(at) > 1 else OwnStarter()
        return Attempt(number, folder, screen, Watch(range(len(at)), stall_s), command, at, lease, starter)

    following: Attempt | None = None
    with Signals(stop_signals) as signals:
        try:
            for number in itertools.count():
                begun_with, at = newest_checkpoint(folder), places.now()
                attempt = following
                if attempt is None or attempt.places != at:
                    attempt = new_attempt(number, at)
                    if following:
                        following.close()
                following = new_attempt(number + 1, at) if has_spares and max_restarts else None
                with attempt:
                    attempt.start()
                    grows_at = places.grows_at(at) if stop_signals else None
                    attempt.watch(signals, grows_at, following.start_spare if following else lambda: None)
                if attempt.ended_well():
                    code = max(worker.exit_code or EXIT_DONE for worker in attempt.workers)
                    if attempt.makes_room and code == EXIT_PREEMPTED and signals.stop_code is None:
                        continue
                    return code
                if signals.kill_code is not None:
                    screen.say("stopped at once, without saving" if stop_signals else "stopped")
                    return signals.kill_code
                cause, *others = attempt.failure_records()
                if signals.stop_code is not None and -cause.exit_code in attempt.forwarded:
                    screen.say(f"stopped before the workers had begun: {_what_is_saved(folder)}")
                    return signals.stop_code
                if -cause.exit_code in {signal.Signals[name] for name in stop_signals}:
                    screen.say(f"rank {cause.rank} was told to stop before it had begun: {_what_is_saved(folder)}")
                    return EXIT_PREEMPTED
                checkpoint = newest_checkpoint(folder)
                restarts.note(cause, is_restart=number > 0, made_progress=checkpoint != begun_with)
                reason = restarts.why_not(checkpoint)
                if cause.kind == "user":
                    reason = ""
                elif attempt.unkillable():
                    reason = "a worker can't be killed and might still write"
                if reason is None and signals.stop_code is None:
                    places.lose([at[rank] for rank in lost_ranks([cause, *others]) if min_workers is not None])
                    screen.say(restarts.line(cause, checkpoint, len(places.now()), len(at)))
                    continue
                if reason:
                    screen.say(f"not starting again: {reason}")
                if began := restarts.first_words(cause):
                    screen.say(began)
                screen.say(failures.format_cause(cause, others))
                if reason is None and signals.stop_code is not None:
                    return signals.stop_code  # told to stop: whoever told so starts the run again
                return EXIT_USER_ERROR if cause.kind == "user" else EXIT_BUG
        finally:
            if following:
                following.close()
    raise AssertionError("itertools.count() has no end")


def _what_is_saved(folder: RunFolder) -> str:
    step = newest_checkpoint(folder)
    return "there is nothing to save" if step is None else f"the checkpoint of step {step} stays, for --resume"


def newest_checkpoint(folder: RunFolder) -> int | None:
    """The step of the newest committed checkpoint; None without one."""
    steps = [path.parent.name.removeprefix("step-") for path in folder.checkpoints.glob("step-*/manifest.json")]
    return max((int(step) for step in steps if step.isdigit()), default=None)
