"""How many bits a second come from one machine to another, by one TCP connection.

The receiver listens on one address alone and takes the first connection that knows the job's token. After its seconds
it just closes, so that a slow link is not waited for until all is through that the sender has written.
"""

import hmac
import os
import socket
import time
from types import TracebackType

from distdl.net.probe import Target

_CHALLENGE_BYTES = 16
_CHUNK_BYTES = 1 << 18
_SEND_BUFFER_BYTES = 1 << 22
_START = 0.25  # of the time, in which TCP finds its pace: not counted
_CONNECT_S = 3.0


class Receiver:
    def __init__(self, address: str, token: bytes) -> None:
        self._token = token
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self._listening = socket.create_server((address, 0), family=family, backlog=8)
        self.target: Target = (address, self._listening.getsockname()[1])

    def __enter__(self) -> "Receiver":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._listening.close()

    def bits_per_s(self, seconds: float, wait_s: float = _CONNECT_S) -> float | None:
        """What comes in that time from the first byte on; None if nobody with the token has connected."""
        until = time.perf_counter() + wait_s
        while (left_s := until - time.perf_counter()) > 0:
            self._listening.settimeout(left_s)
            try:
                connection, _ = self._listening.accept()
                with connection:
                    connection.settimeout(min(left_s, 1.0))
                    if _is_let_in(connection, self._token):
                        return _count(connection, seconds) * 8
            except OSError:  # also TimeoutError: it did not come, or went
                continue
        return None


def send(target: Target, token: bytes, seconds: float) -> None:
    """Sends zeros until the receiver closes, and at most a little longer than that. Raises OSError without one."""
    with socket.create_connection(target, timeout=_CONNECT_S) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)
        challenge = _exactly(connection, _CHALLENGE_BYTES)
        connection.sendall(hmac.digest(token, challenge, "sha256"))
        until, zeros = time.perf_counter() + seconds + _CONNECT_S, bytes(_CHUNK_BYTES)
        connection.settimeout(seconds + _CONNECT_S)
        try:
            while time.perf_counter() < until:
                connection.send(zeros)
        except OSError:  # the receiver has what it needs, and has closed
            return


def _is_let_in(connection: socket.socket, token: bytes) -> bool:
    challenge = os.urandom(_CHALLENGE_BYTES)
    connection.sendall(challenge)
    return hmac.compare_digest(_exactly(connection, 32), hmac.digest(token, challenge, "sha256"))


def _count(connection: socket.socket, seconds: float) -> float:
    """Bytes a second, without the start."""
    buffer = bytearray(_CHUNK_BYTES)
    connection.settimeout(seconds)
    began = counted_from = now = time.perf_counter()
    n_bytes = 0
    while (now := time.perf_counter()) < began + seconds:
        try:
            n_received = connection.recv_into(buffer)
        except TimeoutError:
            continue
        if not n_received:
            break
        if counted_from == began and time.perf_counter() > began + _START * seconds:
            counted_from, n_bytes = time.perf_counter(), 0
            continue
        n_bytes += n_received
    return n_bytes / max(now - counted_from, 1e-9)


def _exactly(connection: socket.socket, n_bytes: int) -> bytes:
    content = b""
    while len(content) < n_bytes:
        more = connection.recv(n_bytes - len(content))
        if not more:
            raise ConnectionError("the other side has closed")
        content += more
    return content
