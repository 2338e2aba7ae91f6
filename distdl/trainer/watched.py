"""The watch over workers that another launcher has started: an agent for each host (distdl/launch/agent.py).

The first worker of a host makes the memory that all of its workers tell in, and starts the agent. Where our own
launcher has started them, it is the one that watches, and nothing is to be done.
"""

import contextlib
import json
import os
import secrets
import socket
import subprocess
import sys
from dataclasses import asdict
from typing import Any

from distdl.comm import messages
from distdl.comm.world import WorldInfo
from distdl.launch import worker as launched
from distdl.launch.agent import Job
from distdl.watch import pulse, stacks
from distdl.watch.pulse import Board

_END_S = 5.0


def start(world: WorldInfo, stall_s: float | None, folder: str, address: str) -> "subprocess.Popen[bytes] | None":
    """On all workers alike, once they have joined. `address`: of this host on the job's network, if there are several.

    Returns the agent if this worker has started one; it has to be kept, and closed by `stop`.
    """
    if launched.is_supervised() or stall_s is None or sys.platform != "linux":
        return None
    agent, mine = None, {"host": socket.gethostname(), "node": _node(world), "pid": os.getpid(), "agent": None}
    mine["error_file"] = os.environ.get("TORCHELASTIC_ERROR_FILE", "")
    several = world.world_size > world.local_world_size
    if world.local_rank == 0:
        board, files = Board(world.local_world_size), [stacks.new_file() for _ in range(world.local_world_size)]
        agent = _spawn(address if several else "", board.descriptor, files)
        assert agent.stdout
        mine["agent"] = json.loads(agent.stdout.readline() or "{}") if several else {}
        mine |= {"board": board.descriptor, "stacks": files, "token": secrets.token_hex(16)}
    workers = messages.gather_json(mine)
    leaders = [each for each in workers if each["agent"] is not None]
    leader = next((each for each in leaders if each["node"] == mine["node"]), None)
    if leader is None:
        return agent
    own = [rank for rank, each in enumerate(workers) if each["node"] == mine["node"]]
    _tell_in(leader, own.index(world.rank))
    if agent is None:
        return None
    assert agent.stdin
    hosts = [each["host"] for each in leaders]
    alike = len(set(hosts)) < len(hosts)  # as namespaces of one machine are
    job = Job(
        token=leaders[0]["token"],
        peers=[None if each is leader else (each["agent"]["address"], each["agent"]["port"]) for each in leaders],
        hosts=[f"{each['host']} ({each['agent'].get('address', '')})" if alike else each["host"] for each in leaders],
        ranks=own,
        pids=[workers[rank]["pid"] for rank in own],
        error_files=[workers[rank]["error_file"] for rank in own],
        stall_s=stall_s,
        folder=folder,
        attempt=launched.attempt(),
    )
    agent.stdin.write(json.dumps(asdict(job)).encode() + b"\n")
    agent.stdin.flush()
    return agent


def stop(agent: "subprocess.Popen[bytes] | None") -> None:
    if agent is not None:
        with contextlib.suppress(OSError):  # it may be gone
            agent.communicate(b".", timeout=_END_S)


def _node(world: WorldInfo) -> str:
    """What the workers of one host have in common."""
    return f"{socket.gethostname()} {os.environ.get('GROUP_RANK', '')} {world.local_world_size}"


def _tell_in(leader: dict[str, Any], slot: int) -> None:
    """Into the memory that another worker of this host has made."""
    files = f"/proc/{leader['pid']}/fd"
    board = os.open(f"{files}/{leader['board']}", os.O_RDWR)
    pulse.attach(*pulse.slot_of(board, slot))
    stacks.answer(os.open(f"{files}/{leader['stacks'][slot]}", os.O_WRONLY | os.O_APPEND))


def _spawn(address: str, board: int, files: list[int]) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "distdl.launch.agent", address, str(board), *map(str, files)]
    return subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        pass_fds=(board, *files),
        start_new_session=True,  # Ctrl-C in the terminal is for the workers
    )
