"""Runs functions of cases.py in N processes that have joined as workers, and hands back what each of them returned.

    with Workers(3) as workers:
        results = workers.run("sum_of_ranks", scale=2)      # a list, in rank order

The processes live on between calls, and are forked from one that has imported torch (fork_server.py). Arguments and
results travel as JSON. A call that takes too long has the stacks of all threads of all workers in its error. Workers
die with the process that started them, and after an error all of them are ended: the next `run` starts new ones.
"""

import contextlib
import json
import os
import time
from multiprocessing.connection import wait
from types import TracebackType
from typing import Any

import fork_server
from fork_server import START_S, ForkServer, Worker

GRACE_S = 5.0  # for the other workers to say what they saw, after one has failed


class CaseFailed(AssertionError):
    """A worker raised an error, died or hung; the text says which, and what all of them printed.

    `results`: of the workers that came to the end of the case, by rank.
    """

    def __init__(self, report: str, results: dict[int, Any]) -> None:
        super().__init__(report)
        self.results = results


class Workers:
    """N processes, started at the first `run`."""

    def __init__(self, n: int, *, timeout_s: float = 600.0) -> None:
        """`timeout_s`: after which a collective that somebody does not come to is an error."""
        self.n, self._timeout_s = n, timeout_s
        self._server: ForkServer | None = None
        self._workers: list[Worker] = []
        self._store: Any = None

    @property
    def pids(self) -> list[int]:
        """The processes by rank, for a test that stops or kills some; none before the first `run` and after an error."""
        return [worker.pid for worker in self._workers]

    def run(self, case: str, *, deadline_s: float = 30.0, **arguments: Any) -> list[Any]:
        """`case(**arguments)` in every worker: their results by rank. Raises CaseFailed."""
        try:
            if not self._workers:
                self._start()
            call = json.dumps({"case": case, "arguments": arguments, "deadline_s": deadline_s}).encode()
            for worker in self._workers:
                with contextlib.suppress(OSError):  # one that is gone is found when its answer is waited for
                    worker.calls.send_bytes(call)
            return self._results(case, deadline_s + GRACE_S)
        except BaseException:  # of pytest-timeout, say: a late answer must not be taken for that to the next call
            self.close()
            raise

    def close(self) -> None:
        """Ends the workers, whatever they are doing."""
        if self._server:
            self._server.end(self._workers)
        self._server, self._workers, self._store = None, [], None

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
        self._server = fork_server.running()
        for rank in range(self.n):
            environment = {
                **os.environ,
                "TIMEOUT_S": str(self._timeout_s),
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": str(self.n),
                "LOCAL_WORLD_SIZE": str(self.n),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(self._store.port),
                "TORCHELASTIC_USE_AGENT_STORE": "True",
                "OMP_NUM_THREADS": "1",
                "GLOO_SOCKET_IFNAME": "lo",
            }
            self._workers.append(self._server.fork(environment))
        self._results("the start", START_S)  # not part of a case's deadline

    def _results(self, what: str, timeout_s: float) -> list[Any]:
        replies = self._replies(timeout_s)
        results = {rank: reply["result"] for rank, reply in sorted(replies.items()) if "result" in reply}
        if len(results) < self.n:
            raise CaseFailed(self._report(what, replies), results)
        return list(results.values())

    def _replies(self, timeout_s: float) -> dict[int, dict[str, Any]]:
        """One reply from each worker that gives one: after the first failure the others have GRACE_S left."""
        until = time.monotonic() + timeout_s
        replies: dict[int, dict[str, Any]] = {}
        ranks = {worker.calls: rank for rank, worker in enumerate(self._workers)}
        while ranks and (left := until - time.monotonic()) > 0:
            for calls in wait(ranks, left):
                rank = ranks.pop(calls)
                try:
                    replies[rank] = json.loads(calls.recv_bytes())
                except (EOFError, OSError):
                    replies[rank] = {"error": "this process has ended"}
                if "error" in replies[rank]:
                    until = min(until, time.monotonic() + GRACE_S)
        return replies

    def _report(self, what: str, replies: dict[int, dict[str, Any]]) -> str:
        lines = [f"{what} with {self.n} workers:"]
        for rank, worker in enumerate(self._workers):
            reply = replies.get(rank, {"error": "no answer"})
            worker.log.seek(0)
            printed = worker.log.read().decode(errors="replace")
            lines += [f"--- rank {rank}: {reply.get('error', 'ended well')}", printed]
        return "\n".join(lines)
