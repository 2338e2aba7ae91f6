"""A folder on a web server, read by byte ranges with urllib3.

User and password come from the address's variables or from ~/.netrc ($NETRC), proxies from the usual environment
variables. No text of urllib3's errors is passed on: they repeat the address, with what is signed in it.
"""

import contextlib
import netrc
import os
import re
import urllib.request
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote, unquote, urlsplit

import urllib3
from urllib3.exceptions import (
    ConnectTimeoutError,
    HTTPError,
    IncompleteRead,
    MaxRetryError,
    NameResolutionError,
    NewConnectionError,
    ProtocolError,
    ReadTimeoutError,
    SSLError,
)

from distdl.config import addresses
from distdl.config.schema import RemoteConfig
from distdl.data.remote.store import PIECE, Denied, Missing, Store, Unavailable, Unfit, gathered

_CONNECT_S, _SILENCE_S = 10.0, 10.0  # until connected; between two packets
_TRY_AGAIN = (408, 425, 429, 500, 502, 503, 504, 507, 509)
_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)$")
_REASONS: tuple[tuple[type[Exception], str], ...] = (
    (NameResolutionError, "the host's name is not known"),
    (NewConnectionError, "no connection to the server"),
    (ConnectTimeoutError, "no connection in time"),
    (ReadTimeoutError, "the server fell silent"),
    (SSLError, "the server's certificate is not accepted"),
    (IncompleteRead, "the connection broke within an answer"),
    (ProtocolError, "the connection broke"),
)


class HttpStore:
    """`address`: http(s)://[user:password@]host/folder[?query]; the query goes to every file."""

    def __init__(self, address: str, remote: RemoteConfig) -> None:
        self.where = addresses.shown(address)
        parts = urlsplit(address)
        self.host = parts.netloc.rpartition("@")[2]
        self._folder = f"{parts.scheme}://{self.host}{parts.path.rstrip('/')}"
        self._query = f"?{parts.query}" if parts.query else ""
        self._user = (unquote(parts.username or ""), unquote(parts.password or "")) if "@" in parts.netloc else None
        self._name = parts.hostname or ""
        self._pool = _pool(parts.scheme, self._name, remote.connections)
        self._headers: dict[str, str] = {}
        self.renew()

    def renew(self) -> None:
        user = self._user or _of_netrc(self._name)
        self._headers = urllib3.make_headers(basic_auth=":".join(user)) if user else {}

    def size(self, name: str) -> int:
        with self._asked("HEAD", name, {}) as answer:
            length = answer.headers.get("Content-Length", "")
            if not length.isdecimal():
                raise Unfit("the server does not tell the file's size")
            return int(length)

    def read(self, name: str, begin: int, end: int | None, until: float) -> bytes:
        if end == begin:
            return b""
        is_part = begin > 0 or end is not None
        headers = {"Range": f"bytes={begin}-{'' if end is None else end - 1}"} if is_part else {}
        with self._asked("GET", name, headers) as answer:
            length = answer.headers.get("Content-Length", "")
            size = int(length) if length.isdecimal() else None
            if is_part:
                size = _check_range(answer, begin, end)
            return gathered(_pieces(answer), size, until)

    def names(self) -> list[str] | None:
        return None

    @contextlib.contextmanager
    def _asked(self, method: str, name: str, headers: dict[str, str]) -> Iterator[urllib3.BaseHTTPResponse]:
        """The answer, which is read or given up in the block."""
        url = f"{self._folder}/{quote(name)}{self._query}"
        headers = {**self._headers, **headers, "Accept-Encoding": "identity"}
        answer = None
        try:
            answer = self._pool.request(method, url, headers=headers, preload_content=False)
            _check_status(answer)
            yield answer
        except HTTPError as error:
            raise _failure(error) from None
        finally:
            if answer is not None:
                answer.close() if answer.length_remaining else answer.release_conn()


def _pool(scheme: str, host: str, connections: int) -> urllib3.PoolManager:
    options: dict[str, Any] = {
        "maxsize": connections,
        "timeout": urllib3.Timeout(connect=_CONNECT_S, read=_SILENCE_S),
        "retries": urllib3.Retry(total=5, connect=0, read=0, other=0, status=0, redirect=5),
    }
    proxy = urllib.request.getproxies().get(scheme)
    if not proxy or urllib.request.proxy_bypass(host):
        return urllib3.PoolManager(**options)
    parts = urlsplit(proxy)
    user, _, at = parts.netloc.rpartition("@")
    headers = urllib3.make_headers(proxy_basic_auth=unquote(user)) if user else None
    return urllib3.ProxyManager(f"{parts.scheme or 'http'}://{at}", proxy_headers=headers, **options)


def _of_netrc(host: str) -> tuple[str, str] | None:
    """User and password; None where there is no such file, or it is unfit or does not have the host."""
    with contextlib.suppress(OSError, netrc.NetrcParseError):
        found = netrc.netrc(os.environ.get("NETRC")).authenticators(host)
        return (found[0], found[2] or "") if found else None
    return None


def _check_status(answer: urllib3.BaseHTTPResponse) -> None:
    status = answer.status
    if status in (200, 206):
        return
    said = f"the server answers {status}" + (f" ({answer.reason})" if answer.reason else "")
    if status in (401, 403, 407):
        raise Denied(said)
    if status in (404, 410):
        raise Missing(said)
    if status in _TRY_AGAIN:
        after = answer.headers.get("Retry-After", "")
        raise Unavailable(said, after_s=float(after) if after.isdecimal() else 0.0)
    if status == 416:
        raise Unfit("the file is shorter than it was when it was indexed")
    raise Unfit(said)


def _check_range(answer: urllib3.BaseHTTPResponse, begin: int, end: int | None) -> int:
    """How many bytes the answer has to a question for a range."""
    found = _RANGE.match(answer.headers.get("Content-Range", ""))
    if answer.status != 206 or not found:
        raise Unfit(
            "this server does not answer with the byte range it is asked for",
            fix="Needed is a server with Range requests, such as nginx, Caddy, `rclone serve http`, or any S3.",
        )
    first, last = int(found[1]), int(found[2])
    if first != begin or (end is not None and last > end - 1):
        raise Unavailable(f"other bytes came than were asked for: {first}-{last}")
    if end is not None and last < end - 1 and found[3] == str(last + 1):
        raise Unfit(f"the file has {found[3]} bytes, fewer than when it was indexed")
    return last + 1 - first if end is None else end - begin


def _pieces(answer: urllib3.BaseHTTPResponse) -> Iterator[bytes]:
    try:
        while piece := answer.read1(PIECE):  # what has come by now, which is kept if the rest does not
            yield piece
    except HTTPError as error:
        raise _failure(error) from None


def _failure(error: Exception) -> Exception:
    if isinstance(error, MaxRetryError) and error.reason is not None:
        error = error.reason
    if isinstance(error.__cause__, ConnectionRefusedError):
        return Unavailable("connection refused")
    for kind, reason in _REASONS:
        if isinstance(error, kind):
            return Unavailable(reason)
    return Unavailable(f"the request failed ({type(error).__name__})")


_: type[Store] = HttpStore  # it is one
