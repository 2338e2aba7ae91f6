"""The processes of one attempt to train: started together, watched over, and none left at the end.

One thread waits in one place for three things: output of the workers, signals (Ctrl-C and those that ask for a stop,
which are passed on to the workers), and the end of a worker, which is a signal as well. Four times a second it looks
whether a worker is missing (distdl/watch).

After the first failure the others get a while to notice, record it and end; then they are killed. SIGTERM would be no
use: to a worker it means "save and stop", and a stopped process never gets it.
"""

import contextlib
import math
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType

from distdl.errors import EXIT_DONE, EXIT_INTERRUPTED, EXIT_PREEMPTED
from distdl.launch import hangs, plan
from distdl.launch.meeting import Meeting
from distdl.launch.output import Output, Screen
from distdl.launch.process import Process, Starter
from distdl.launch.signals import Signals
from distdl.launch.spares import BETWEEN_S, Gate
from distdl.run import failures, oom
from distdl.run.failures import FailureRecord
from distdl.run.folder import RunFolder
from distdl.run.lease import Lease
from distdl.watch.watch import INTERVAL_S, Watch

KILL_S = 5.0  # a killed process is gone in milliseconds, unless the kernel holds it (a read from a dead network disk)

_WAKE_S = 1.0  # in case a signal was missed
_OUTSIDE_OF_STEPS = ("start", "end")
_CTRL_C = "stopping after this step and saving; press Ctrl-C again to stop at once"


@dataclass(slots=True, kw_only=True)
class Child:
    rank: int
    process: Process
    output: Output
    exit_code: int | None = None  # negative: the signal that ended it
    killed: bool = False  # by the supervisor


class Attempt:
    """The processes of one attempt. Whatever happens in the `with` block, none of them is left after it."""

    def __init__(
        self,
        number: int,
        folder: RunFolder,
        screen: Screen,
        watch: Watch,
        command: Sequence[str],
        places: Sequence[int],
        lease: Lease | None,
        starter: Starter,
    ) -> None:
        """A worker at each of these places, which are numbered like the machine's devices."""
        self.number, self.places = number, list(places)
        self._command, self._lease = command, lease
        self._watch = watch
        self._next_look = 0.0
        self._is_judged = False  # a verdict was given
        self._records: dict[int, FailureRecord] = {}  # that go with it, by rank
        self.workers: list[Child] = []
        self.forwarded: set[int] = set()  # signals
        self._meeting, self._gate = Meeting(), Gate()
        self._spares: dict[int, Process] = {}
        self._starter = starter
        self._next_spare = 0.0
        self.makes_room = False  # it was told to save and end, since another place is free
        self._folder = folder
        self._screen = screen
        self._selector = selectors.DefaultSelector()
        self._grace_end: float | None = None
        self._kill_end: float | None = None

    def __enter__(self) -> "Attempt":
        return self

    def start(self) -> None:
        failures.clear(self._folder)
        self._kills = oom.count()
        spares = {rank: process for rank, process in self._spares.items() if not process.has_ended()}
        started = time.strftime("%Y-%m-%d %H:%M:%S")
        for rank in range(len(self.places)):
            self._watch.prepare(rank)
            process = self._spares.pop(rank) if rank in spares else self._spawn(rank)
            header = f"--- {started} attempt {self.number}: rank {rank} of {len(self.places)}, pid {process.pid} ---"
            self._folder.log(rank).parent.mkdir(parents=True, exist_ok=True)
            self.workers.append(self._adopt(rank, process, header))
        self._gate.open(len(spares))

    def start_spare(self) -> None:
        """One more for this attempt, if it is time; it waits at the gate."""
        if len(self._spares) < len(self.places) and time.monotonic() >= self._next_spare:
            self._next_spare = time.monotonic() + BETWEEN_S
            rank = len(self._spares)
            try:
                self._spares[rank] = self._spawn(rank, self._gate)
            except OSError as error:  # what trains goes on
                self._next_spare = math.inf
                self._screen.say(f"warning: no more spare workers: {error.strerror}")

    def _spawn(self, rank: int, gate: Gate | None = None) -> Process:
        environment = plan.worker_environment(
            rank=rank,
            places=self.places,
            attempt=self.number,
            folder=self._folder,
            fence=self._lease.fence if self._lease else None,
        )
        environment |= {**self._meeting.environment(), **self._watch.environment(rank)}
        inherited = [*self._meeting.inherited, *self._watch.descriptors(rank)]
        inherited += [self._lease.fileno()] if self._lease else []
        if gate:
            environment |= gate.environment()
            inherited.append(gate.reader)
        return self._starter.start(rank, self._command, environment, inherited)

    def _adopt(self, rank: int, process: Process, header: str) -> Child:
        try:
            output = Output(process.stdout, self._folder.log(rank), self._screen if rank == 0 else None, header)
            self._selector.register(output, selectors.EVENT_READ, output)
            if process.connection:
                self._selector.register(process.connection, selectors.EVENT_READ)
        except BaseException:
            process.kill()  # `__exit__` doesn't know it yet
            raise
        return Child(rank=rank, process=process, output=output)

    def watch(
        self, signals: Signals, grows_at: float | None = None, start_spare: Callable[[], None] = lambda: None
    ) -> None:
        """Returns when every worker has ended, on its own or, after a failure or on request, by force.

        `grows_at`: when another place is free (time.monotonic()), so that the workers are to save and make room.
        `start_spare` is called now and then while they train.
        """
        self._selector.register(signals, selectors.EVENT_READ)
        while any(worker.exit_code is None for worker in self.workers):
            for key, _ in self._selector.select(self._patience_s()):
                if isinstance(key.data, Output):
                    key.data.pump()
                    if key.data.at_end:
                        self._selector.unregister(key.data)
            for number in signals.arrived():
                by_hand = number == signal.SIGINT
                self._screen.say(_CTRL_C if by_hand else f"{number.name}: stopping after this step and saving")
                self._forward(number)
            self._reap()
            if _is_past(grows_at) and not self.makes_room and signals.stop_code is None and self._is_in_steps():
                self._screen.say("a place is free again: saving, to go on with more workers")
                self.makes_room = True
                self._forward(signals.first_stop_signal)
            if self._grace_end is None and self._has_failure():
                self._grace_end = time.monotonic() + self._starter.grace_s
            if self._grace_end is None and time.monotonic() >= self._next_look:
                self._look()
                if self._is_in_steps():
                    start_spare()
            if signals.kill_code is not None or self._is_judged or _is_past(self._grace_end):
                self._kill()
            if _is_past(self._kill_end):
                break

    def _look(self) -> None:
        """Whether a worker is missing: who it is, and what the others do, goes into the records."""
        self._next_look = time.monotonic() + INTERVAL_S
        pids = [worker.process.pid for worker in self.workers]
        try:
            found = self._watch.look(pids, [worker.exit_code is not None for worker in self.workers])
        except Exception as error:  # to train unwatched is better than not to train
            self._watch.stall_s = None
            self._screen.say(f"warning: nobody watches for hangs any more: {type(error).__name__}: {error}")
            return
        if found:
            verdict, texts = found
            self._is_judged = True
            self._records = {each.rank: each for each in hangs.records(self._watch, verdict, texts, self.number)}
            failures.save_all(self._folder, list(self._records.values()))

    def ended_well(self) -> bool:
        return not self._is_judged and all(map(self._has_ended_well, self.workers))

    def unkillable(self) -> bool:
        return any(worker.exit_code is None for worker in self.workers)

    def failure_records(self) -> list[FailureRecord]:
        """The first cause, then the others. Writes the records of those that could not write their own."""
        records = {record.rank: record for record in failures.read_all(self._folder, self.number)} | self._records
        silent = [each for each in self.workers if each.rank not in records and not self._has_ended_well(each)]
        new = {child.rank: self._describe_end(child) for child in silent}
        records |= new
        cause = failures.first_cause(list(records.values()))
        assert cause is not None
        if cause.kind not in ("user", "hang", "link") and (unlike := hangs.mismatch(self._watch, records, self.number)):
            new[unlike.rank] = records[unlike.rank] = cause = unlike
        failures.save_all(self._folder, list(new.values()))
        return [cause, *(record for record in records.values() if record is not cause)]

    def _describe_end(self, child: Child) -> FailureRecord:
        step = self._watch.state_of(child.rank).step  # None where nobody watches
        return failures.describe_end(
            rank=child.rank,
            exit_code=-signal.SIGKILL if child.exit_code is None else child.exit_code,
            killed=child.killed,
            last_lines=child.output.last_lines,
            step=failures.last_logged_step(self._folder) if step is None else step,
            attempt=self.number,
            judged=oom.judge(child.process.pid, self._kills) if child.exit_code == -signal.SIGKILL else None,
        )

    def _has_failure(self) -> bool:
        return any(worker.exit_code is not None and not self._has_ended_well(worker) for worker in self.workers)

    def _has_ended_well(self, child: Child) -> bool:
        """And not in the middle of its steps, as where something in it calls os._exit."""
        if child.exit_code in (EXIT_DONE, EXIT_PREEMPTED):
            state = self._watch.state_of(child.rank)
            return not state.attached or state.phase in _OUTSIDE_OF_STEPS
        return child.exit_code == EXIT_INTERRUPTED

    def _is_in_steps(self) -> bool:
        """So that it can be told to save: before, a signal to stop would just end it."""
        return all(self._watch.state_of(worker.rank).step is not None for worker in self.workers)

    def _forward(self, number: int) -> None:
        self.forwarded.add(number)
        for worker in self.workers:
            if worker.exit_code is None:
                os.kill(worker.process.pid, number)  # Popen.send_signal would reap it behind our back

    def _reap(self) -> None:
        for child in self.workers:
            if child.exit_code is None and child.process.has_ended():
                child.process.kill()  # before it is reaped: what it has started
                child.exit_code = child.process.wait()
                self._close(child)

    def _close(self, child: Child) -> None:
        with contextlib.suppress(KeyError, ValueError):  # unregistered at the end of its output
            self._selector.unregister(child.output)
        if child.process.connection:
            with contextlib.suppress(KeyError):
                self._selector.unregister(child.process.connection)
        child.output.close()

    def _kill(self) -> None:
        if self._kill_end is None:
            self._kill_end = time.monotonic() + KILL_S
        self._reap()  # who has ended by itself was not killed
        for child in self.workers:
            if child.exit_code is None:
                child.killed = True
                child.process.kill()

    def _patience_s(self) -> float:
        ends = [end for end in (self._grace_end, self._kill_end, self._next_look) if end is not None]
        return min([_WAKE_S, *(max(0.0, end - time.monotonic()) for end in ends)])

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends what still runs, also of an attempt that was never started."""
        self._kill()
        while any(child.exit_code is None for child in self.workers) and not _is_past(self._kill_end):
            time.sleep(0.005)
            self._reap()
        for child in self.workers:
            self._close(child)
        for spare in self._spares.values():
            spare.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):
                spare.wait(KILL_S)
            spare.stdout.close()
        self._gate.close()
        self._selector.close()
        self._starter.close()
        self._watch.close()
        self._meeting.close()


def _is_past(end: float | None) -> bool:
    return end is not None and time.monotonic() > end
