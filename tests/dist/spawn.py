"""Runs functions of cases.py in N processes that have joined as workers, and hands back what each of them returned.

    with Workers(3) as workers:
        results = workers.run("sum_of_ranks", scale=2)      # a list, in rank order

The processes live on between calls, because importing torch takes seconds. Arguments and results travel as JSON lines
through pipes. A call that takes too long has the stacks of all threads of all workers in its error. Workers die with
the process that started them, and after an error all of them are ended: the next `run` starts new ones.
"""

import faulthandler
import json
import os
import selectors
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path
from types import TracebackType
from typing import Any

HERE = Path(__file__).resolve().parent
GRACE_S = 5.0  # for the other workers to say what they saw, after one has failed
START_S = 60.0


class CaseFailed(AssertionError):
    """A worker raised an error, died or hung; the text says which, and what all of them printed.

    `results`: of the workers that came to the end of the case, by rank.
    """

    def __init__(self, report: str, results: dict[int, Any]) -> None:
        super().__init__(report)
        self.results = results


class Workers:
    """N processes, started at the first `run`."""

    def __init__(self, n: int) -> None:
        self.n = n
        self._processes: list[subprocess.Popen[bytes]] = []
        self._logs: list[Any] = []
        self._store: Any = None

    def run(self, case: str, *, deadline_s: float = 30.0, **arguments: Any) -> list[Any]:
        """`case(**arguments)` in every worker: their results by rank. Raises CaseFailed."""
        if not self._processes:
            self._start()
        call = json.dumps({"case": case, "arguments": arguments, "deadline_s": deadline_s}).encode() + b"\n"
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.write(call)
            process.stdin.flush()
        replies = self._replies(deadline_s + GRACE_S)
        results = {rank: reply["result"] for rank, reply in sorted(replies.items()) if "result" in reply}
        if len(results) == self.n:
            return list(results.values())
        report = self._report(case, replies)
        self.close()
        raise CaseFailed(report, results)

    def close(self) -> None:
        """Ends the workers, whatever they are doing."""
        for process in self._processes:
            process.kill()
            process.communicate()
        for log in self._logs:
            log.close()
        self._processes, self._logs, self._store = [], [], None

    def __enter__(self) -> "Workers":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _start(self) -> None:
        import torch.distributed as dist

        # The store is here, on a port of the kernel's choice, so that nobody else can take it in between.
        self._store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        for rank in range(self.n):
            log = tempfile.TemporaryFile()  # noqa: SIM115  # closed with its process
            environment = {
                **os.environ,
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": str(self.n),
                "LOCAL_WORLD_SIZE": str(self.n),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(self._store.port),
                "TORCHELASTIC_USE_AGENT_STORE": "True",
                "DISTDL_SUPERVISOR_PID": str(os.getpid()),
                "OMP_NUM_THREADS": "1",
                "GLOO_SOCKET_IFNAME": "lo",
            }
            command = [sys.executable, str(HERE / "spawn.py")]
            self._processes.append(
                subprocess.Popen(
                    command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, bufsize=0
                )
            )
            self._logs.append(log)
        self._replies(START_S)  # a case's deadline is for the case, not for the import of torch on a busy machine

    def _replies(self, timeout_s: float) -> dict[int, dict[str, Any]]:
        """One reply from each worker that gives one: after the first failure the others have GRACE_S left."""
        until = time.monotonic() + timeout_s
        replies: dict[int, dict[str, Any]] = {}
        with selectors.DefaultSelector() as selector:
            for rank, process in enumerate(self._processes):
                assert process.stdout is not None
                selector.register(process.stdout, selectors.EVENT_READ, rank)
            while selector.get_map() and (left := until - time.monotonic()) > 0:
                for key, _ in selector.select(left):
                    line = key.fileobj.readline()  # type: ignore[union-attr]
                    selector.unregister(key.fileobj)
                    replies[key.data] = json.loads(line) if line else {"error": "this process has ended"}
                    if "error" in replies[key.data]:
                        until = min(until, time.monotonic() + GRACE_S)
        return replies

    def _report(self, case: str, replies: dict[int, dict[str, Any]]) -> str:
        lines = [f"{case} with {self.n} workers:"]
        for rank, log in enumerate(self._logs):
            reply = replies.get(rank, {"error": "no answer"})
            log.seek(0)
            printed = log.read().decode(errors="replace")
            lines += [f"--- rank {rank}: {reply.get('error', 'ended well')}", printed]
        return "\n".join(lines)


def serve() -> None:
    """The life of a worker: joins the others, then answers calls until there are no more."""
    from distdl.launch.worker import tie_to_supervisor

    tie_to_supervisor()
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever else is printed goes to the log
    sys.path[:0] = [str(HERE), str(HERE.parent)]
    import cases
    import torch

    from distdl.comm import collectives
    from distdl.comm.world import detect

    world = detect()
    assert world is not None
    torch.set_num_threads(1)
    collectives.join(world, "gloo", torch.device("cpu"))
    answers.write(b"{}\n")  # ready
    answers.flush()
    for line in sys.stdin.buffer:
        call = json.loads(line)
        faulthandler.dump_traceback_later(call["deadline_s"], exit=True)
        try:
            reply = {"result": getattr(cases, call["case"])(**call["arguments"])}
        except Exception:
            reply = {"error": traceback.format_exc()}
        faulthandler.cancel_dump_traceback_later()
        answers.write(json.dumps(reply).encode() + b"\n")
        answers.flush()


if __name__ == "__main__":
    serve()
