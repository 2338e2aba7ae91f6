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
import threading
from dataclasses import asdict
from pathlib import Path
from typing import Any

from distdl.comm import interface, messages, mpi_library
from distdl.comm.world import WorldInfo
from distdl.errors import EXIT_BUG, UserError
from distdl.launch import worker as launched
from distdl.launch.agent import Job
from distdl.watch import pulse, stacks
from distdl.watch.pulse import Board

_END_S = 5.0


def start(world: WorldInfo, stall_s: float | None, folder: str) -> "subprocess.Popen[bytes] | None":
    """On all workers alike, once they have joined. Where it can't be done for all, nobody is watched, with a warning.

    Returns the agent if this worker has started one; it has to be kept, and ended by `stop`.
    """
    if launched.is_supervised() or stall_s is None or sys.platform != "linux":
        return None
    agent, mine = _introduce(world)
    workers = messages.gather_json(mine)
    own = _of_one_host(world.rank, workers)
    problem = mine["problem"] or _tell_in(world.rank, own, workers)
    if problems := [problem for problem in messages.gather_json(problem) if problem]:
        pulse.detach()
        if world.rank == 0:
            print(f"warning: nobody watches for hangs: {problems[0]}", flush=True)
        stop(agent)
        return None
    if agent is None:
        return None
    job = _job(own, workers, stall_s, folder)
    assert agent.stdin
    with contextlib.suppress(OSError):  # it is gone: the workers tell nobody
        agent.stdin.write(json.dumps(asdict(job)).encode() + b"\n")
        agent.stdin.flush()
    return agent


def stop(agent: "subprocess.Popen[bytes] | None") -> None:
    if agent is None:
        return
    pulse.detach()
    try:
        agent.communicate(b".", timeout=_END_S)
    except (OSError, ValueError, subprocess.TimeoutExpired):  # it is gone, or held up
        agent.kill()


def _introduce(world: WorldInfo) -> "tuple[subprocess.Popen[bytes] | None, dict[str, Any]]":
    """What all the others have to know of this worker; and the agent, if it has started one."""
    mine: dict[str, Any] = {"host": socket.gethostname(), "node": _node(world), "pid": os.getpid(), "problem": ""}
    mine["error_file"] = os.environ.get("TORCHELASTIC_ERROR_FILE", "")
    if world.local_rank != 0:
        return None, mine
    try:
        agent, told = _lead(world)
    except (OSError, UserError, ValueError) as error:
        return None, mine | {"problem": f"{type(error).__name__}: {error}"}
    return agent, mine | told


def _lead(world: WorldInfo) -> "tuple[subprocess.Popen[bytes], dict[str, Any]]":
    """Starts this host's agent; returns what the other workers have to know of it."""
    board, files = Board(world.local_world_size), [stacks.new_file() for _ in range(world.local_world_size)]
    address = interface.own_address(world)
    told_to_end, end = os.pipe()
    agent = _spawn(address, board.descriptor, end, files)
    os.close(end)
    assert agent.stdout
    where = json.loads(agent.stdout.readline() or "{}") if address else {}
    if address and not where:
        raise OSError(f"the watch on {address} has not started")
    mine = {"agent": where, "board": board.descriptor, "stacks": files, "end": told_to_end}
    return agent, mine | {"token": secrets.token_hex(16)}


def _of_one_host(rank: int, workers: list[dict[str, Any]]) -> list[int]:
    """The workers that tell in the same memory as this one: the first of them has made it, and started the agent."""
    leaders = [_leader_of(each, workers) for each in range(len(workers))]
    return [each for each, leader in enumerate(leaders) if leader == leaders[rank]] if leaders[rank] is not None else []


def _leader_of(rank: int, workers: list[dict[str, Any]]) -> int | None:
    """The last one before it, on its host."""
    node = workers[rank]["node"]
    of_host = [each for each in range(rank + 1) if workers[each]["node"] == node and "agent" in workers[each]]
    return of_host[-1] if of_host else None


def _job(own: list[int], workers: list[dict[str, Any]], stall_s: float, folder: str) -> Job:
    leader, leaders = workers[own[0]], [each for each in workers if "agent" in each]
    hosts = [each["host"] for each in leaders]
    alike = len(set(hosts)) < len(hosts)  # as namespaces of one machine are
    return Job(
        token=leaders[0]["token"],
        peers=[None if each is leader else (each["agent"]["address"], each["agent"]["port"]) for each in leaders],
        hosts=[f"{each['host']} ({each['agent'].get('address', '')})" if alike else each["host"] for each in leaders],
        ranks=own,
        pids=[workers[rank]["pid"] for rank in own],
        error_files=[workers[rank]["error_file"] for rank in own],
        stall_s=stall_s,
        folder=folder,
        attempt=launched.attempt(),
        is_mpi=mpi_library.is_started(),
    )


def _node(world: WorldInfo) -> str:
    """What the workers of one host have in common, and no others: names of hosts may be equal."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    processes = Path("/proc/self/ns/pid").readlink()
    return f"{boot} {processes} {os.environ.get('GROUP_RANK', '')} {world.local_world_size}"


def _tell_in(rank: int, own: list[int], workers: list[dict[str, Any]]) -> str:
    """Into the memory that the first worker of this host has made; returns why it can't be, "" if it can."""
    leaders = [each for each in workers if "agent" in each]
    if not own or (len(leaders) > 1 and not workers[own[0]]["agent"]):
        return "the hosts can't be told apart (LOCAL_RANK, LOCAL_WORLD_SIZE, GROUP_RANK)"
    leader, slot = workers[own[0]], own.index(rank)
    files = f"/proc/{leader['pid']}/fd"
    try:
        board = os.open(f"{files}/{leader['board']}", os.O_RDWR)
        pulse.attach(*pulse.slot_of(board, slot))
        stacks.answer(os.open(f"{files}/{leader['stacks'][slot]}", os.O_WRONLY | os.O_APPEND))
        if mpi_library.is_started():
            told_to_end = os.open(f"{files}/{leader['end']}", os.O_RDONLY)
            threading.Thread(target=_end_when_told, args=[told_to_end], name="end of the job", daemon=True).start()
    except (OSError, IndexError) as error:
        return f"{type(error).__name__}: {error}"
    return ""


def _end_when_told(descriptor: int) -> None:
    """By the agent, which can't end the MPI job itself: any of its processes can, also beside a call that hangs."""
    if os.read(descriptor, 1):
        mpi_library.abort(EXIT_BUG)
    os.close(descriptor)  # the agent has ended


def _spawn(address: str, board: int, end: int, files: list[int]) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "distdl.launch.agent", address, str(board), str(end), *map(str, files)]
    return subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        pass_fds=(board, end, *files),
        start_new_session=True,  # Ctrl-C in the terminal is for the workers
    )
