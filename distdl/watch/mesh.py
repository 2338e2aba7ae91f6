"""What the hosts of a job tell each other of their workers: datagrams, so that one way works when the other does not.

Each carries the job's token as a keyed hash (HMAC-SHA256): what comes from elsewhere is dropped unread. It listens on
the one address that the job uses. Nothing here waits or fails: what can't be sent is lost, as on a dead link.
"""

import contextlib
import hmac
import json
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from distdl.watch.facts import Facts
from distdl.watch.judge import Seen
from distdl.watch.pulse import Call, State

_MAC_BYTES = 16
_MOST_BYTES = 60_000
_BUFFER_BYTES = 4 << 20
_FRESH_S = 3.0
_CALLS_SENT = 12
_CALL_CHARS = 160


class Mesh:
    """`address`: of this host on the job's network; the port is the kernel's choice."""

    def __init__(self, address: str) -> None:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self._socket = socket.socket(family, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER_BYTES)
        self._socket.bind((address, 0))
        self.address, self.port = address, int(self._socket.getsockname()[1])
        self._token = b""
        self._peers: list[tuple[str, int] | None] = []  # by host; None: this one
        self._heard: list[float] = []  # when each host was heard last
        self._hears: list[list[float]] = []  # for how long each has not heard the others, as it said
        self._seen: dict[int, tuple[float, Seen]] = {}
        self.messages: list[dict[str, Any]] = []
        """of other kinds, as they came"""

    def join(self, token: str, peers: Sequence[tuple[str, int] | None]) -> None:
        """`peers`: the addresses of the other hosts' meshes, None at the place of this one."""
        self._token = token.encode()
        self._peers = [(peer[0], peer[1]) if peer else None for peer in peers]  # JSON has no tuples
        self._heard = [time.monotonic()] * len(peers)
        self._hears = [[0.0] * len(peers) for _ in peers]

    def close(self) -> None:
        self._socket.close()

    def fileno(self) -> int:
        return self._socket.fileno()

    def send(self, seen: Sequence[Seen]) -> None:
        """This host's workers to all others."""
        for each in seen:
            self.say({"kind": "seen", "not_heard_s": self.not_heard_s(), "seen": packed(each)})

    def say(self, message: Mapping[str, Any]) -> None:
        me = self._peers.index(None)
        body = json.dumps({**message, "from": me}).encode()
        if len(body) > _MOST_BYTES:
            return
        mac = hmac.digest(self._token, body, "sha256")[:_MAC_BYTES]
        for peer in self._peers:
            if peer is not None:
                with contextlib.suppress(OSError):
                    self._socket.sendto(mac + body, peer)

    def receive(self) -> None:
        """Takes in what has come."""
        while True:
            try:
                packet = self._socket.recv(1 << 16)
            except OSError:
                return
            mac, body = packet[:_MAC_BYTES], packet[_MAC_BYTES:]
            if not self._token or not hmac.compare_digest(hmac.digest(self._token, body, "sha256")[:_MAC_BYTES], mac):
                continue
            message = json.loads(body)
            now = time.monotonic()
            self._heard[message["from"]] = now
            if message["kind"] == "seen":
                self._hears[message["from"]] = message["not_heard_s"]
                seen = unpacked(message["seen"])
                self._seen[seen.rank] = (now, seen)
            else:
                self.messages.append(message)

    def not_heard_s(self) -> list[float]:
        """For how long nothing has come from each host."""
        now = time.monotonic()
        return [0.0 if peer is None else now - heard for peer, heard in zip(self._peers, self._heard)]

    def is_heard_by(self, host: int, patience_s: float) -> bool:
        """Whether that host, as far as it is heard itself, hears this one."""
        return self._hears[host][self._peers.index(None)] < patience_s

    def forgive(self) -> None:
        """The silence so far: this process was stopped itself."""
        self.join(self._token.decode(), self._peers)

    def others(self) -> list[Seen]:
        """The other hosts' workers that were told of just now, older by the time since. Of a host that has fallen
        silent nothing is known."""
        now = time.monotonic()
        return [_older(seen, now - then) for then, seen in self._seen.values() if now - then < _FRESH_S]


def packed(seen: Seen) -> dict[str, Any]:
    fields = asdict(seen)
    fields["state"]["calls"] = [_packed_call(call) for call in seen.state.calls[-_CALLS_SENT:]]
    waits_in = seen.state.waits_in
    fields["state"]["waits_in"] = _packed_call(waits_in) if waits_in else None
    return fields


def unpacked(fields: dict[str, Any]) -> Seen:
    state = fields["state"]
    state["calls"] = [Call(*call) for call in state["calls"]]
    state["waits_in"] = Call(*state["waits_in"]) if state["waits_in"] else None
    return Seen(**{**fields, "state": State(**state), "facts": Facts(**fields["facts"])})


def _packed_call(call: Call) -> list[Any]:
    text = call.text[:_CALL_CHARS]
    return [call.group, call.size, call.place, call.place_in_size, call.key, text, call.line, call.age_s]


def _older(seen: Seen, by_s: float) -> Seen:
    state = seen.state
    waits_s = state.waits_s + by_s if state.waits_in else 0.0
    beat_age_s, phase_age_s = state.beat_age_s + by_s, state.phase_age_s + by_s
    return replace(seen, state=replace(state, beat_age_s=beat_age_s, phase_age_s=phase_age_s, waits_s=waits_s))
