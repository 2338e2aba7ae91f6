"""`python -m distdl.launch.agent ADDRESS BOARD END STACKS...`: watches over one host's workers of another launcher.

A worker of each host starts it, with the descriptors that its watch needs (distdl/trainer/watched.py), and talks to it
over its stdin and stdout, a line of JSON each way:

    agent:   {"address": ..., "port": ...}   where it listens on the job's network; nothing where there is one host
    worker:  a Job; at the end of a run that ends well, one more byte

The agents tell each other of their workers (distdl/watch/mesh.py), so that each knows of all and comes to one verdict.
It prints that, keeps the stacks of its own workers with the run, and ends them: how to go on is the launcher's matter.
It ends with its stdin, which is with its worker.
"""

import contextlib
import json
import os
import select
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from distdl.launch import hangs
from distdl.run import failures, oom
from distdl.run.folder import RunFolder
from distdl.watch import calls
from distdl.watch.judge import Seen, Verdict, budget_s
from distdl.watch.mesh import Mesh
from distdl.watch.pulse import Board
from distdl.watch.watch import INTERVAL_S, Stacks, Watch

_TELL_S = 0.5  # between two datagrams
_LEAST_SILENCE_S = 2.0
_STACKS_S = 0.7  # that others get to send theirs
_ABORT_S = 2.0  # that a worker gets to end an MPI job
_OUTSIDE_OF_STEPS = ("start", "end", "failed")  # where a worker ends that ends by itself


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    token: str
    peers: list[tuple[str, int] | None]  # the agents, by host; None: this one
    hosts: list[str]  # their names
    ranks: list[int]  # of this host's workers, slot by slot
    pids: list[int]
    error_files: list[str]  # that torchrun reads what its workers failed from; "" without
    stall_s: float
    folder: str
    attempt: int
    is_mpi: bool

    @property
    def here(self) -> int:
        return self.peers.index(None)


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in a terminal goes to all: it is the workers' to obey
    board, end, *stack_files = map(int, sys.argv[2:])
    mesh = Mesh(sys.argv[1]) if sys.argv[1] else None
    if mesh:
        print(json.dumps({"address": mesh.address, "port": mesh.port}), flush=True)
    if line := sys.stdin.readline():
        job = Job(**json.loads(line))
        Agent(job, mesh, Board(len(job.ranks), board), end, stack_files).watch()


class Agent:
    def __init__(self, job: Job, mesh: Mesh | None, board: Board, end: int, stack_files: Sequence[int]) -> None:
        """`end`: a pipe to this host's workers; who reads a byte from it ends an MPI job."""
        self._job, self._mesh, self._pipe = job, mesh, end
        host = job.hosts[job.here]
        self._watch = Watch(job.ranks, job.stall_s, host=host, board=board, stack_files=stack_files)
        self._next_tell = 0.0
        self._has_said_parting = False
        self._kills = oom.count()
        if mesh:
            mesh.join(job.token, job.peers)

    def watch(self) -> None:
        while (last := self._read()) is None:
            if found := self._look():
                self._end(*found)
                return
        if last:
            return  # all is well
        time.sleep(INTERVAL_S)  # what the others did last may still be on its way
        seen = self._survey()
        self._say_parting(seen)
        self._tell_of_killed(seen)

    def _read(self) -> bytes | None:
        """What the worker says, b"" if it is gone; None if it says nothing until the next look."""
        descriptor, until = sys.stdin.fileno(), time.monotonic() + INTERVAL_S
        while (left_s := until - time.monotonic()) > 0:
            waiting = [descriptor, self._mesh] if self._mesh else [descriptor]
            readable, _, _ = select.select(waiting, [], [], left_s)
            if descriptor in readable:
                return os.read(descriptor, 1)
            if readable and self._mesh:
                self._mesh.receive()
        return None

    def _survey(self) -> list[Seen]:
        seen = self._watch.survey(self._job.pids, [False] * len(self._job.pids))
        if self._mesh:
            if time.monotonic() >= self._next_tell:
                self._next_tell = time.monotonic() + _TELL_S
                self._mesh.send(seen)
            self._mesh.receive()
            seen += self._mesh.others()
        return sorted(seen, key=lambda each: each.rank)

    def _look(self) -> tuple[Verdict, Stacks] | None:
        seen = self._survey()
        self._watch.tell_of_straggler(seen)
        if any(each.state.phase == "failed" for each in seen):
            self._say_parting(seen)
        if self._watch.is_blind:
            if self._mesh:
                self._mesh.forgive()
            return None
        if self._mesh:
            for message in self._mesh.messages:
                if message["kind"] == "verdict":
                    verdict = Verdict(**message["verdict"])
                    own = [*verdict.others, *self._broken_links().values()]  # seen from here, it may look otherwise
                    return replace(verdict, others=own), self._watch.ask(seen)
            if broken := self._broken_links():
                return self._link_verdict(broken, seen)
        return self._watch.verdict(seen)

    def _broken_links(self) -> dict[int, str]:
        """By host, what is wrong with the way to it and back."""
        assert self._mesh
        patience_s = max(_LEAST_SILENCE_S, 0.5 * self._job.stall_s)
        found = {}
        for host, silent_s in enumerate(self._mesh.not_heard_s()):
            name, own_name = self._job.hosts[host], self._job.hosts[self._job.here]
            if silent_s > patience_s:
                found[host] = f"nothing has come from {name} for {silent_s:.1f} s: the link from it, or itself, is down"
            elif host != self._job.here and not self._mesh.is_heard_by(host, patience_s):
                found[host] = f"nothing that {own_name} sends gets to {name}, though {name} is heard: a link one way"
        return found

    def _link_verdict(self, broken: dict[int, str], seen: Sequence[Seen]) -> tuple[Verdict, Stacks] | None:
        """Once this host's workers have waited for the others for too long."""
        own = [each for each in seen if each.rank in self._job.ranks and not each.has_ended]
        if not own or not all(each.state.waits_in for each in own):
            return self._watch.verdict(own)  # one of them keeps the others waiting, whatever the link does
        waited_s = min(each.state.waits_s for each in own)
        if waited_s < max(budget_s(each.state, self._job.stall_s) for each in own):
            return None
        names = {self._job.hosts[host] for host in broken}
        what = f"{'; '.join(broken.values())}. All of this host's workers wait in {own[0].state.waits_in}"
        ranks = [each.rank for each in seen if each.host in names]
        return Verdict(cause="link", ranks=ranks, what=what, after_s=waited_s), self._watch.ask(seen)

    def _end(self, verdict: Verdict, texts: Stacks) -> None:
        """Tells what was found, here and to the other hosts, and ends this host's workers."""
        self._tell_others(verdict, texts)
        told = hangs.told(self._watch, verdict, texts)
        is_elsewhere = verdict.ranks and not any(texts.get(rank) for rank in verdict.ranks)
        if is_elsewhere and (stack := self._stack_from_elsewhere()):
            told = f"{stack}\n{told}"
        _say(f"hang: {told}")
        if len(self._job.ranks) == len(self._job.hosts) == 1:
            return  # nobody waits for it: it may be at a prompt of a debugger's
        folder = RunFolder(Path(self._job.folder))
        if folder.path.exists():  # rank 0's host alone may have it
            failures.save_all(folder, hangs.records(self._watch, verdict, texts, self._job.attempt))
        if self._job.is_mpi:
            os.write(self._pipe, b"." * len(self._job.ranks))
            time.sleep(_ABORT_S)
        for rank, pid, path in zip(self._job.ranks, self._job.pids, self._job.error_files, strict=True):
            if rank in (verdict.ranks or self._job.ranks[:1]):
                failures.tell_torchrun(path, told, time.time() - verdict.after_s)
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def _tell_others(self, verdict: Verdict, texts: Stacks) -> None:
        """And where the first of this host's workers stands whom the verdict names."""
        if self._mesh:
            self._mesh.say({"kind": "verdict", "verdict": asdict(verdict)})
            for rank in [rank for rank in verdict.ranks if texts.get(rank)][:1]:
                self._mesh.say({"kind": "stack", "stack": hangs.where(self._watch, rank, texts[rank])})

    def _stack_from_elsewhere(self) -> str:
        until = time.monotonic() + _STACKS_S
        while self._mesh and time.monotonic() < until:
            select.select([self._mesh], [], [], 0.1)
            self._mesh.receive()
            for message in self._mesh.messages:
                if message["kind"] == "stack":
                    return str(message["stack"])
        return ""

    def _tell_of_killed(self, seen: Sequence[Seen]) -> None:
        """Of this host's workers that are gone from the middle of their steps: they could leave no word."""
        folder = RunFolder(Path(self._job.folder))
        pids = dict(zip(self._job.ranks, self._job.pids, strict=True))
        for each in seen:
            state, pid = each.state, pids.get(each.rank)
            if pid is None or state.step is None or state.phase in _OUTSIDE_OF_STEPS or not each.facts.is_gone:
                continue
            message = oom.judge(pid, self._kills).of_unseen
            record = failures.from_outside(
                rank=each.rank,
                kind="signal",
                message=message,
                stacks="",
                step=state.step,
                attempt=self._job.attempt,
                host=self._job.hosts[self._job.here],
            )
            _say(f"{failures.headline(record)}:\n{message}")
            if folder.path.exists():  # rank 0's host alone may have it
                failures.save_all(folder, [record])

    def _say_parting(self, seen: Sequence[Seen]) -> None:
        """Of collectives, if that is what a worker has died of: its library only says that something broke. Once."""
        parting = calls.find({each.rank: each.state.calls for each in seen})
        if parting and not self._has_said_parting:
            self._has_said_parting = True
            _say(parting.text)


def _say(text: str) -> None:
    print(f"\n{text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
