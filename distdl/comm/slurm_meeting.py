"""Where the tasks that `srun` has started meet. Free of torch.

Slurm tells each task its place, but gives it no way to tell the others anything. So rank 0, which is on the first node
of the list by construction, listens on one of a few ports that follow from the numbers of the job and the step, and the
others knock at these. Whoever listens there for another job does not know the word that follows from the same numbers.
"""

import contextlib
import json
import os
import re
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, MutableMapping
from itertools import product
from typing import Any

from distdl.comm import slurm
from distdl.comm.slurm import Task
from distdl.errors import UserError
from distdl.net.port import reserve

WAIT_S = 300.0  # a container may have to be fetched before a task starts

_PORTS = range(10_000, 30_000)  # below those that the kernel gives out
_N_PORTS = 8
_KNOCK_S = 3.0
_POLL_S = 0.2
_SAY_AFTER_S = 10.0
_LOOPBACK = "127.0.0.1"
_UNREACHED = (
    "Did all tasks start, and do these nodes let each other's ports through? `srun distdl doctor` tries the links."
)


def settle(environment: MutableMapping[str, str] = os.environ, wait_s: float = WAIT_S) -> None:
    """Sets for this task what torchrun would have set. All tasks of the step call it alike.

    Raises UserError on all of them if one does not come in time.
    """
    place = slurm.task(environment)
    if place is None:
        return
    address, port = _receive(place, wait_s) if place.rank == 0 else _knock(place, wait_s)
    environment.update(
        RANK=str(place.rank),
        WORLD_SIZE=str(place.size),
        LOCAL_RANK=str(place.local_rank),
        LOCAL_WORLD_SIZE=str(place.local_size),
        GROUP_RANK=str(place.node),
        MASTER_ADDR=address,
        MASTER_PORT=str(port),
    )


def ports(word: str) -> list[int]:
    """Where rank 0 may listen, in this order."""
    first = int(word[:12], 16)
    return [_PORTS[(first + 2477 * i) % len(_PORTS)] for i in range(_N_PORTS)]


def _receive(place: Task, wait_s: float) -> tuple[str, int]:
    """Rank 0: waits for all others, and tells them the address and the port of the store that it is going to open."""
    waiting: dict[int, socket.socket] = {}
    nodes: dict[int, int] = {}
    until, warning = time.monotonic() + wait_s, time.monotonic() + _SAY_AFTER_S
    with contextlib.ExitStack() as open_, _listener(place) as listener:
        while len(waiting) < place.size - 1:
            listener.settimeout(_POLL_S)
            try:
                guest = open_.enter_context(listener.accept()[0])
                rank, node = _greet(guest, place)
                waiting[rank], nodes[rank] = guest, node
            except (OSError, ValueError):  # nobody yet, or nobody of ours
                missing = _missing(place, waiting)
                if time.monotonic() > until:
                    told = f"{missing} not come to {place.hosts[0]} within {wait_s:g} s"
                    for guest in waiting.values():
                        _send(guest, {"error": told})
                    raise UserError(told, where="Slurm", fix=_UNREACHED) from None
                warning = _say_in_time(warning, f"{missing} not come yet")
        reached = Counter(guest.getsockname()[0] for rank, guest in waiting.items() if nodes[rank] != 0)
        address = _plain(reached.most_common(1)[0][0]) if reached else _LOOPBACK
        port = reserve(address)
        for guest in waiting.values():
            _send(guest, {"address": address, "port": port})
    return address, port


def _knock(place: Task, wait_s: float) -> tuple[str, int]:
    """Every other task: asks rank 0 until it answers."""
    until, warning = time.monotonic() + wait_s, time.monotonic() + _SAY_AFTER_S
    host, last = place.hosts[0], ""
    addresses = [_LOOPBACK] if place.node == 0 else addresses_of(host)
    while time.monotonic() < until:
        for address, port in product(addresses, ports(place.word)):
            try:
                with socket.create_connection((address, port), _KNOCK_S) as door:
                    _send(door, {"word": place.word, "rank": place.rank, "node": place.node})
                    if _receive_line(door).get("word") != place.word:
                        continue
                    door.settimeout(max(_KNOCK_S, until - time.monotonic()) + _KNOCK_S)
                    answer = _receive_line(door)
            except (OSError, ValueError) as error:
                last = f"{address}: {error}"
                continue
            if "error" in answer:
                raise UserError(answer["error"], where="Slurm", fix=_UNREACHED)
            return address if place.node else str(answer["address"]), int(answer["port"])
        warning = _say_in_time(warning, f"rank 0 on {host} does not answer yet ({last})")
        time.sleep(_POLL_S)
    raise UserError(
        f"rank 0 on {host} can't be reached from {socket.gethostname()} since {wait_s:g} s ({last})",
        where="Slurm",
        fix=_UNREACHED,
    )


def addresses_of(host: str) -> list[str]:
    """Of a node: by its name, else by what Slurm knows. Raises UserError if there is none."""
    with contextlib.suppress(OSError, UnicodeError):
        return list(dict.fromkeys(str(each[4][0]) for each in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)))
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        asked = ["scontrol", "--oneliner", "show", "node", host]
        done = subprocess.run(asked, capture_output=True, text=True, timeout=_SAY_AFTER_S, stdin=subprocess.DEVNULL)
        if (found := re.search(r"NodeAddr=([A-Za-z0-9._:-]+)(\s|$)", done.stdout)) and found[1] != host:
            return [found[1]]
    raise UserError(
        f"the name of the step's first node, {host}, leads to no address on {socket.gethostname()}",
        where="Slurm",
        fix="Its administrators can mend DNS or /etc/hosts there; till then leave that node out: --exclude.",
    )


@contextlib.contextmanager
def _listener(place: Task) -> Iterator[socket.socket]:
    """Of both kinds of addresses, where there are both."""
    both = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if both else socket.AF_INET
    for port in ports(place.word):
        try:
            listener = socket.create_server(("", port), family=family, backlog=4096, dualstack_ipv6=both)
        except OSError:
            continue  # somebody else's
        with listener:
            yield listener
        return
    taken = ", ".join(map(str, ports(place.word)))
    raise UserError(
        f"none of the ports {taken} is free on {socket.gethostname()}", where="Slurm", fix="Start it again."
    )


def _greet(guest: socket.socket, place: Task) -> tuple[int, int]:
    """The rank and the node of a task of this step. Raises ValueError or OSError for anybody else."""
    guest.settimeout(_KNOCK_S)
    said = _receive_line(guest)
    rank, node = said.get("rank"), said.get("node")
    if said.get("word") != place.word or not isinstance(rank, int) or not isinstance(node, int):
        raise ValueError("another job")
    if not 0 < rank < place.size:
        raise ValueError("no task of this step")
    _send(guest, {"word": place.word})
    return rank, node


def _missing(place: Task, here: Mapping[int, object]) -> str:
    ranks = [rank for rank in range(1, place.size) if rank not in here]
    some = ", ".join(map(str, ranks[:8])) + ", ..." * (len(ranks) > 8)
    return f"rank {some} has" if len(ranks) == 1 else f"ranks {some} have"


def _say_in_time(when: float, what: str) -> float:
    """Returns when it is to be said next."""
    if time.monotonic() < when:
        return when
    print(f"waiting: {what}", file=sys.stderr, flush=True)
    return time.monotonic() + 6 * _SAY_AFTER_S


def _plain(address: str) -> str:
    """An IPv4 address as such, and not as one of IPv6's."""
    return address.removeprefix("::ffff:")


def _send(to: socket.socket, what: Mapping[str, object]) -> None:
    with contextlib.suppress(OSError):  # who is gone is told by its launcher
        to.sendall(json.dumps(what).encode() + b"\n")


def _receive_line(source: socket.socket) -> dict[str, Any]:
    """Raises OSError or ValueError where nothing of the kind comes."""
    line = b""
    while not line.endswith(b"\n"):
        byte = source.recv(1)
        if not byte or len(line) > 1000:
            raise ValueError("no answer")
        line += byte
    found = json.loads(line)
    if not isinstance(found, dict):
        raise ValueError("no answer")
    return found
