"""Starts a benchmark's workers, on hosts of network namespaces or on this machine, and hands back what each printed."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from hosts import Hosts

ROOT = Path(__file__).resolve().parents[2]


def run(program: str, options: dict[str, Any], *, per_host: int, hosts: Hosts | None, n: int) -> list[Any]:
    """`python PROGRAM --worker OPTIONS` as `n` workers, `per_host` on each host; the last line of each is JSON."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = []
    for rank in range(n):
        environment = {
            "RANK": str(rank),
            "WORLD_SIZE": str(n),
            "LOCAL_RANK": str(rank % per_host),
            "LOCAL_WORLD_SIZE": str(per_host),
            "MASTER_ADDR": hosts.address(0) if hosts else "127.0.0.1",
            "MASTER_PORT": str(port),
            "GLOO_SOCKET_IFNAME": "eth0" if hosts else "lo",
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": f"{ROOT}:{os.environ.get('PYTHONPATH', '')}",
        }
        command = [sys.executable, program, "--worker", json.dumps(options)]
        if hosts:
            processes.append(hosts.start(rank // per_host, command, environment))
        else:
            environment = {**os.environ, **environment}
            processes.append(subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True))
    try:
        outputs = [process.communicate()[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    if any(process.returncode for process in processes):
        sys.exit(f"a worker failed: {[process.returncode for process in processes]}")
    return [json.loads(output.splitlines()[-1]) for output in outputs]
