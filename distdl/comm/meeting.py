"""Workers tell each other things through the rendezvous' store alone, without a process group.

For what has to be found out before gloo or NCCL can be trusted, or where they would hang: a worker that does not come
is missing in the answer, and nobody waits for it again.
"""

import json
import os
import time
from collections.abc import Mapping
from datetime import timedelta
from types import TracebackType
from typing import Any

import torch.distributed as dist

from distdl.comm.world import WorldInfo
from distdl.errors import UserError

_LEAVE_S = 5.0
_POLL_S = 0.02


class Unreachable(RuntimeError):
    """The store can't be reached, or the master can't open it."""


class Meeting:
    """The workers of `MASTER_ADDR` and `MASTER_PORT`. Raises UserError without these, Unreachable without an answer."""

    def __init__(self, info: WorldInfo, wait_s: float, environment: Mapping[str, str] = os.environ) -> None:
        self.info = info
        self._missing = set[int]()
        self._round = 0
        host, port = environment.get("MASTER_ADDR", ""), environment.get("MASTER_PORT", "")
        if not host or not port.isdigit():
            raise UserError(
                "MASTER_ADDR and MASTER_PORT say where the workers meet, and are not both set",
                where="environment",
                fix="Start it by torchrun, or set them to rank 0's address and a free port there.",
            )
        is_there = environment.get("TORCHELASTIC_USE_AGENT_STORE") == "True"  # torchrun's own
        self._is_host = info.rank == 0 and not is_there
        try:
            store = dist.TCPStore(
                host, int(port), is_master=self._is_host, timeout=timedelta(seconds=wait_s), wait_for_workers=False
            )
        except (RuntimeError, OSError) as error:
            raise Unreachable(f"{host}:{port}: {str(error).partition(chr(10))[0]}") from error
        attempt = environment.get("TORCHELASTIC_RESTART_COUNT", "0")
        self._store = dist.PrefixStore(f"distdl-meeting/{attempt}", store)

    def __enter__(self) -> "Meeting":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Whoever hosts the store leaves last."""
        try:
            self._store.set(f"left/{self.info.rank}", "1")
            if self._is_host:
                self._collect("left", _LEAVE_S)
        except RuntimeError:  # the store is gone: so are we
            return

    def gather(self, value: Any, wait_s: float) -> list[Any]:
        """Every worker's value, as JSON, in rank order; None of those that did not come in time, now or before.

        All workers call it alike. Rank 0 decides who is missing, so that all have the same answer. Raises Unreachable
        if the store is gone, if rank 0 did not come, and on a worker that came too late itself.
        """
        self._round += 1
        name, rank = str(self._round), self.info.rank
        try:
            self._store.set(f"{name}/{rank}", json.dumps(value))
            if rank == 0:
                here = self._collect(name, wait_s)
                found = {str(each): json.loads(self._store.get(f"{name}/{each}")) for each in here}
                self._store.set(f"{name}/all", json.dumps(found))
            elif self._comes(f"{name}/all", time.monotonic() + wait_s + _LEAVE_S):
                found = json.loads(self._store.get(f"{name}/all"))
            else:
                raise Unreachable(f"rank 0 did not come within {wait_s:g} s")
        except RuntimeError as error:
            if isinstance(error, Unreachable):
                raise
            raise Unreachable(f"the workers' store is gone: {str(error).partition(chr(10))[0]}") from error
        if str(rank) not in found:
            raise Unreachable(f"rank {rank} came too late for the others")
        return [found.get(str(each)) for each in range(self.info.world_size)]

    def _collect(self, name: str, wait_s: float) -> list[int]:
        """The ranks that have come to a round; who has not is not waited for in the next one."""
        until = time.monotonic() + wait_s
        for rank in range(self.info.world_size):
            if rank not in self._missing and not self._comes(f"{name}/{rank}", until):
                self._missing.add(rank)
        return [rank for rank in range(self.info.world_size) if rank not in self._missing]

    def _comes(self, key: str, until: float) -> bool:
        """Polls: the store's own wait writes lines of warnings at each of its time-outs."""
        while not self._store.check([key]):
            if time.monotonic() >= until:
                return False
            time.sleep(_POLL_S)
        return True
