"""Starts a benchmark's workers, on hosts of network namespaces or on this machine, and hands back what each found."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import mpiruns
from hosts import Hosts

ROOT = Path(__file__).resolve().parents[2]
_END_S = 10.0


def run(
    program: str, options: Mapping[str, Any], *, per_host: int, hosts: Hosts | None, n: int, mpi: str | None = None
) -> list[Any]:
    """`python PROGRAM --worker OPTIONS` as `n` workers, `per_host` on each host; what each has told, in rank order.

    They find each other by torchrun's variables; with `mpi`, of mpiruns.py, its mpirun starts them.
    """
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        environment = {
            "TOLD": folder,
            "OMP_NUM_THREADS": "1",
            "GLOO_SOCKET_IFNAME": "eth0" if hosts else "lo",
            "PYTHONPATH": f"{ROOT}:{os.environ.get('PYTHONPATH', '')}",
        }
        command = [sys.executable, program, "--worker", json.dumps(options)]
        if mpi:
            begin, more = stack.enter_context(mpiruns.starts(mpi, n, per_host, hosts))
            jobs = [(0, [*begin, *command], {**environment, **more})]
        else:
            jobs = [
                (rank // per_host, command, {**environment, **each})
                for rank, each in enumerate(_of_torchrun(n, per_host, hosts.address(0) if hosts else "127.0.0.1"))
            ]
        processes = [stack.enter_context(_started(hosts, *job)) for job in jobs]
        outputs = [process.communicate()[0] for process in processes]
        if any(process.returncode for process in processes):
            sys.exit("\n".join(outputs) + f"a worker failed: {[process.returncode for process in processes]}")
        return [json.loads((Path(folder) / str(rank)).read_text()) for rank in range(n)]


def tell(rank: int, found: Any) -> None:
    """Of a worker, once, at its end: through a file, since the lines of workers that one mpirun has started mix."""
    (Path(os.environ["TOLD"]) / str(rank)).write_text(json.dumps(found))


def _of_torchrun(n: int, per_host: int, address: str) -> Iterator[dict[str, str]]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for rank in range(n):
        yield {
            "RANK": str(rank),
            "WORLD_SIZE": str(n),
            "LOCAL_RANK": str(rank % per_host),
            "LOCAL_WORLD_SIZE": str(per_host),
            "MASTER_ADDR": address,
            "MASTER_PORT": str(port),
        }


@contextlib.contextmanager
def _started(
    hosts: Hosts | None, host: int, command: list[str], environment: dict[str, str]
) -> Iterator[subprocess.Popen[str]]:
    """It ends with the block. An mpirun gets the time to end those that it has started."""
    if hosts:
        process = hosts.start(host, command, environment)
    else:
        process = subprocess.Popen(command, env={**os.environ, **environment}, stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(_END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
