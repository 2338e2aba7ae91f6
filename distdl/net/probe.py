"""Does it work both ways between two addresses, how long does it take, and how far apart are the clocks: by datagrams.

    ask() --question: nonce, who asks--> Responder (bound to that one address) --answer: nonce, its clock--> ask()

Both are signed with the job's token (HMAC-SHA256), and one that is not is dropped without an answer. An answer is no
longer than its question, so that nobody can use a responder to flood somebody else. A responder remembers whom it has
heard: where it has heard somebody who got no answer, the way there works and the way back does not.
"""

import hmac
import os
import select
import socket
import struct
import threading
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType

TOKEN_BYTES = 32
_QUESTION, _ANSWER = b"distdl?1", b"distdl!1"
_BODY = struct.Struct("=8s16sIQ")  # which of the two, nonce, who asks (its rank), nanoseconds of the clock
_SIGNATURE_BYTES = 32
_LENGTH = _BODY.size + _SIGNATURE_BYTES
_TRIES, _WAIT_S = 3, 0.4

Target = tuple[str, int]  # address, port


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    round_trip_s: float
    clock_ahead_s: float  # of the other's clock, give or take half of the round trip


class Responder:
    """Answers the questions that come to these addresses of this machine, one port each, until it is closed."""

    def __init__(self, addresses: Sequence[str], token: bytes) -> None:
        self.heard: dict[str, set[int]] = {address: set() for address in addresses}  # own address -> who asked there
        self._token = token
        self._sockets: list[socket.socket] = []
        self._addresses: dict[socket.socket, str] = {}
        self._wake, self._waker = socket.socketpair()
        try:
            for address in addresses:
                listening = _bound(address)
                self._sockets.append(listening)
                self._addresses[listening] = address
        except OSError:
            self._close_all()
            raise
        self._thread = threading.Thread(target=self._answer_all, name="net-responder", daemon=True)
        self._thread.start()

    @property
    def targets(self) -> list[Target]:
        return [(address, listening.getsockname()[1]) for listening, address in self._addresses.items()]

    def __enter__(self) -> "Responder":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._waker.send(b"x")
        self._thread.join()
        self._close_all()

    def _answer_all(self) -> None:
        while True:
            ready, _, _ = select.select([self._wake, *self._sockets], [], [])
            if self._wake in ready:
                return
            for listening in ready:
                self._answer(listening)

    def _answer(self, listening: socket.socket) -> None:
        try:
            content, sender = listening.recvfrom(_LENGTH + 1)
            question = _opened(content, self._token, _QUESTION)
            if question is not None:
                nonce, who, _ = question
                self.heard[self._addresses[listening]].add(who)
                listening.sendto(_signed(_ANSWER, nonce, who, self._token), sender)
        except OSError:  # an answer that can't be sent is one that does not arrive
            return

    def _close_all(self) -> None:
        for each in (*self._sockets, self._wake, self._waker):
            each.close()


def ask(
    target: Target, token: bytes, who: int, *, source: str = "", tries: int = _TRIES, wait_s: float = _WAIT_S
) -> Answer | None:
    """Asks the responder there a few times; the quickest of its answers, or None if none has come.

    `source`: an own address to ask from; by default the kernel's choice, as for any connection.
    """
    best: Answer | None = None
    try:
        with _bound(source) if source else socket.socket(_family(target[0]), socket.SOCK_DGRAM) as asking:
            asking.connect(_destination(target))  # answers from elsewhere don't get in
            for _ in range(tries):
                answer = _ask_once(asking, token, who, wait_s)
                if answer and (best is None or answer.round_trip_s < best.round_trip_s):
                    best = answer
    except OSError:  # no route, or nobody there (ICMP)
        return best
    return best


def ask_all(targets: Mapping[str, Target], token: bytes, who: int) -> dict[str, Answer | None]:
    """`ask`, of many at the same time. The keys are the caller's names for them."""
    found: dict[str, Answer | None] = {}
    threads = [
        threading.Thread(target=lambda name=name, target=target: found.update({name: ask(target, token, who)}))
        for name, target in targets.items()
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def verdicts(
    heard: Mapping[str, Collection[int]], answered: Mapping[int, Collection[str]], names: Mapping[int, str]
) -> dict[str, str]:
    """Own address -> "" if it works both ways, or why not: the `tried` of choose().

    `heard`: who asked at each own address. `answered`: at which of them each of the others got answers. `names`: of
    the others, for a reader.
    """
    found = {}
    for address, askers in heard.items():
        lost = [who for who, addresses in answered.items() if address not in addresses]
        one_way = [who for who in lost if who in askers]
        if one_way:
            who = names[one_way[0]]
            found[address] = f"is one-way: what {who} sends to {address} arrives, but no answer gets back to it"
        else:
            found[address] = f"is not reached by {names[lost[0]]} at {address}" if lost else ""
    return found


# --- datagrams ---


def _ask_once(asking: socket.socket, token: bytes, who: int, wait_s: float) -> Answer | None:
    nonce = os.urandom(16)
    began, began_at = time.perf_counter(), time.time()
    try:
        asking.send(_signed(_QUESTION, nonce, who, token))
        while (left_s := began + wait_s - time.perf_counter()) > 0:
            asking.settimeout(left_s)
            opened = _opened(asking.recv(_LENGTH + 1), token, _ANSWER)
            if opened is not None and opened[0] == nonce:
                round_trip_s = time.perf_counter() - began
                return Answer(round_trip_s=round_trip_s, clock_ahead_s=opened[2] / 1e9 - (began_at + round_trip_s / 2))
    except TimeoutError:
        pass
    return None


def _signed(kind: bytes, nonce: bytes, who: int, token: bytes) -> bytes:
    body = _BODY.pack(kind, nonce, who, time.time_ns())
    return body + hmac.digest(token, body, "sha256")


def _opened(content: bytes, token: bytes, kind: bytes) -> tuple[bytes, int, int] | None:
    """Nonce, who asks and clock; None unless it is of this kind and signed with the token."""
    if len(content) != _LENGTH:
        return None
    body, signature = content[: _BODY.size], content[_BODY.size :]
    if not hmac.compare_digest(signature, hmac.digest(token, body, "sha256")):
        return None
    what, nonce, who, clock_ns = _BODY.unpack(body)
    return (nonce, who, clock_ns) if what == kind else None


def _bound(address: str) -> socket.socket:
    """A socket on a free port of this address alone."""
    made = socket.socket(_family(address), socket.SOCK_DGRAM)
    try:
        made.bind(_destination((address, 0)))
    except OSError:
        made.close()
        raise
    return made


def _family(address: str) -> int:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def _destination(target: Target) -> tuple[str | int, ...]:
    """With the scope of a link-local address."""
    found = socket.getaddrinfo(*target, type=socket.SOCK_DGRAM, flags=socket.AI_NUMERICHOST)
    destination: tuple[str | int, ...] = found[0][4]  # type: ignore[assignment]
    return destination
