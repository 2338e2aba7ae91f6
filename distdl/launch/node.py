"""`python -m distdl.launch.node`: starts the workers of one host, for the launcher of a run on several (hosts.py).

It talks over its stdin and stdout, a line of JSON each way: over ssh, whose end ends it, and with it its workers. A
request is answered by one line; what its workers print, and their end, is told in lines between:

    {"id": 3, "do": "start", ...}      {"id": 3, "answer": ...} or {"id": 3, "error": "..."}
                                       {"output": "what rank 0 prints"}
                                       {"ended": rank, "code": 0, "record": null or a failure record}
"""

import contextlib
import dataclasses
import json
import os
import select
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from distdl.errors import EXIT_DONE, EXIT_INTERRUPTED, EXIT_PREEMPTED, EXIT_USER_ERROR, UserError
from distdl.launch.binding import cores
from distdl.launch.output import Output
from distdl.launch.plan import local_devices
from distdl.launch.process import OwnStarter, Process
from distdl.launch.supervise import newest_checkpoint
from distdl.net import choose, netlink, probe
from distdl.net.port import reserve
from distdl.run import failures, oom, versions
from distdl.run.failures import FailureRecord
from distdl.run.folder import RunFolder

_TOLD_BY_SLURM = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)  # which it sends to all processes of a job alike
ENDED_WELL = (EXIT_DONE, EXIT_PREEMPTED, EXIT_INTERRUPTED)

_READ_BYTES = 1 << 16
_GONE_S = 5.0  # for a killed process


def main() -> None:
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # a terminal's are the launcher's matter
    with Node(sys.stdin.fileno(), sys.stdout.fileno()) as node:
        node.serve()


class Node:
    """Requests are methods whose names begin with `do_`; what they return is the answer."""

    def __init__(self, stdin: int, stdout: int) -> None:
        self._stdin, self._stdout = stdin, os.dup(stdout)
        os.dup2(2, stdout)  # what anything else prints must not come between
        self._said = b""
        self._folder = Path(tempfile.mkdtemp(prefix="distdl-node-"))
        self._responder: probe.Responder | None = None
        self._workers: dict[int, Worker] = {}
        self._wake, waker = os.pipe()
        os.set_blocking(self._wake, False)
        os.set_blocking(waker, False)
        signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        for number in _TOLD_BY_SLURM:
            signal.signal(number, lambda number, frame: self.do_signal(number))

    def __enter__(self) -> "Node":
        return self

    def __exit__(self, *_: object) -> None:
        self.do_kill()
        until = time.monotonic() + _GONE_S
        while self._workers and time.monotonic() < until:
            time.sleep(0.01)
            self._reap()
        if self._responder:
            self._responder.__exit__(None, None, None)
        shutil.rmtree(self._folder, ignore_errors=True)

    def serve(self) -> None:
        """Until the launcher is gone."""
        while True:
            waiting: list[Output | int] = [self._stdin, self._wake]
            waiting += [worker.output for worker in self._workers.values() if not worker.output.at_end]
            readable, _, _ = select.select(waiting, [], [], 1.0)
            for each in readable:
                if isinstance(each, Output):
                    each.pump()
            if self._wake in readable:
                os.read(self._wake, _READ_BYTES)
            self._reap()
            if self._stdin in readable and not self._read():
                return

    def tell(self, **what: Any) -> None:
        line = json.dumps(what).encode() + b"\n"
        while line:
            line = line[os.write(self._stdout, line) :]

    def _read(self) -> bool:
        new = os.read(self._stdin, _READ_BYTES)
        *lines, self._said = (self._said + new).split(b"\n")
        for line in lines:
            request = json.loads(line)
            number, name = request.pop("id"), request.pop("do")
            try:
                self.tell(id=number, answer=getattr(self, f"do_{name}")(**request))
            except (UserError, OSError) as error:
                self.tell(id=number, error=str(error))
        return bool(new)

    # --- requests ---

    def do_describe(self) -> dict[str, Any]:
        """What has to be the same everywhere, and what this host has."""
        return {
            "host": socket.gethostname(),
            "versions": versions.here(),
            "devices": local_devices(),
            "cores": cores(),
        }

    def do_keep(self, files: Mapping[str, str]) -> str:
        """Files of the launcher's, for the workers; returns their folder."""
        for name, text in files.items():
            path = self._folder / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
        return str(self._folder)

    def do_listen(self, token: str) -> dict[str, Any]:
        """On each of this host's addresses, for the others to try which of them they reach."""
        own = (
            [str(address) for _, address in choose.candidates(choose.read_machine())] if netlink.is_available() else []
        )
        self._responder = probe.Responder(own, bytes.fromhex(token), 0)
        return {"targets": self._responder.targets}

    def do_try(self, token: str, who: int, targets: Sequence[tuple[str, int]]) -> dict[str, Any]:
        own = (
            [str(address) for _, address in choose.candidates(choose.read_machine())] if netlink.is_available() else []
        )
        found = probe.ask_all({each[0]: (each[0], each[1]) for each in targets}, bytes.fromhex(token), who)
        return {"answered": [address for address, answer in found.items() if answer and answer.who == 0], "own": own}

    def do_choose(self, answered: Mapping[str, list[str]], names: Mapping[str, str], peers: list[str]) -> str:
        """The address at which all others find this host. Raises UserError if there is none."""
        responder = self._responder
        assert responder
        try:
            tried = probe.verdicts(
                responder.heard,
                {int(who): addresses for who, addresses in answered.items()},
                {int(who): name for who, name in names.items()},
            )
            own = list(responder.heard)
            others = [address for address in peers if address not in own]
            return choose.choose(others or [choose.ANYWHERE], environment=os.environ, tried=tried).address
        finally:
            self._responder = None
            responder.__exit__(None, None, None)

    def do_reserve(self, address: str) -> int:
        return reserve(address)

    def do_checkpoint(self, run: str) -> int | None:
        """The step of the newest one of a run, as it is seen from this host."""
        return newest_checkpoint(RunFolder(Path(run)))

    def do_start(
        self, run: str, attempt: int, first: int, n: int, command: Sequence[str], environment: Mapping[str, str]
    ) -> list[int]:
        """Workers of rank `first` and so on; returns their process ids."""
        folder, began, kills = RunFolder(Path(run)), time.time(), oom.count()
        for slot in range(n):
            rank = first + slot
            own = {
                **os.environ,
                **environment,
                "RANK": str(rank),
                "LOCAL_RANK": str(slot),
                "LOCAL_WORLD_SIZE": str(n),
                "TORCHELASTIC_RESTART_COUNT": str(attempt),
                "TORCHELASTIC_ERROR_FILE": str(self._folder / f"error-{attempt}-{rank}.json"),
                "PYTHONUNBUFFERED": "1",
                "DISTDL_PARENT_PID": str(os.getpid()),
            }
            own.setdefault("OMP_NUM_THREADS", str(max(1, cores() // n)))
            process = OwnStarter().start(rank, [sys.executable, *command], own, [])
            log = self._folder / f"rank-{rank}.log"
            output = Output(process.stdout, log, _Relay(self) if rank == 0 else None)  # type: ignore[arg-type]
            self._workers[rank] = Worker(rank, process, output, folder, attempt, began, kills, log)
        return [worker.process.pid for worker in self._workers.values()]

    def do_signal(self, number: int) -> None:
        for worker in self._workers.values():
            with contextlib.suppress(ProcessLookupError):
                os.kill(worker.process.pid, number)

    def do_kill(self) -> None:
        for worker in self._workers.values():
            worker.is_killed = True
            worker.process.kill()

    def _reap(self) -> None:
        for rank, worker in list(self._workers.items()):
            if worker.process.has_ended():
                worker.process.kill()  # before it is reaped: what it has started
                code = worker.process.wait()
                worker.output.close()
                record = worker.record(code)
                del self._workers[rank]
                self.tell(ended=rank, code=code, record=dataclasses.asdict(record) if record else None)


@dataclasses.dataclass
class Worker:
    rank: int
    process: Process
    output: Output
    folder: RunFolder
    attempt: int
    began: float  # seconds since 1970
    kills: Any  # of the out-of-memory killer, before it was started
    log: Path
    is_killed: bool = False

    def record(self, code: int) -> FailureRecord | None:
        """Its own, or what can be told from outside; None if it has ended well."""
        self._keep_log()
        if code in ENDED_WELL:
            return None
        own = [each for each in failures.read_all(self.folder, self.attempt) if each.rank == self.rank]
        if own and own[0].time >= self.began:
            return own[0]
        return failures.describe_end(
            rank=self.rank,
            exit_code=code,
            killed=self.is_killed,
            last_lines=_mistake(self.output.last_lines) if code == EXIT_USER_ERROR else self.output.last_lines,
            step=failures.last_logged_step(self.folder),
            attempt=self.attempt,
            judged=oom.judge(self.process.pid, self.kills) if code == -signal.SIGKILL else None,
        )

    def _keep_log(self) -> None:
        """With the run, where it is to be seen from this host."""
        if self.folder.identity.exists():
            with contextlib.suppress(OSError):
                kept = self.folder.log(self.rank)
                kept.parent.mkdir(exist_ok=True)
                with kept.open("ab") as file:
                    file.write(self.log.read_bytes())


class _Relay:
    """Takes the place of the screen."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def show(self, output: bytes) -> None:
        self._node.tell(output=output.decode(errors="replace"))


def _mistake(lines: Sequence[str]) -> list[str]:
    """What was said after `error: `, of the last lines of a worker."""
    starts = [number for number, line in enumerate(lines) if line.startswith("error: ")]
    if not starts:
        return list(lines)
    first, *more = list(lines)[starts[-1] :]
    return [first.removeprefix("error: "), *more]


if __name__ == "__main__":
    main()
