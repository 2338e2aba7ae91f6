"""A web server of a folder on 127.0.0.1, with byte ranges, that counts what it is asked for and fails as it is told to.

    with Web(folder) as web:
        web.fail("000001.tar", "503", times=2)      # its next two requests; times=None: all
        web.url, web.asked("000001.tar")            # the address; how many requests came, or their ranges

Failures: "503", "404", "short" (half the answer, then the end), "stall" (half, then silence), "wrong" (a changed byte),
"drop" (no answer), "whole" (a server without byte ranges), "401" while the credentials are not the right ones.
"""

import contextlib
import re
import socket
import threading
import time
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

_RANGE = re.compile(r"bytes=(\d+)-(\d*)")
STALL_S = 20.0


@dataclass
class Asked:
    method: str
    name: str
    begin: int
    end: int  # exclusive; 0 where there was no range
    query: str
    authorization: str


class Web:
    def __init__(self, folder: Path, *, delay_s: float = 0.0, bytes_per_s: float | None = None) -> None:
        self.folder, self.delay_s, self.bytes_per_s = folder, delay_s, bytes_per_s
        self.requests: list[Asked] = []
        self.sent_bytes = 0
        self.most_at_once = self.at_once = 0
        self.wanted_authorization: str | None = None
        self.wanted_query: str | None = None
        self.lock = threading.Lock()
        self._failures: list[list] = []
        self._server: _Server | None = None
        self.host, self.port = "127.0.0.1", 0
        self._stopping = threading.Event()

    def __enter__(self) -> "Web":
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    def start(self) -> None:
        """Again at the same port, if it was stopped."""
        self._stopping = threading.Event()
        handler = type("Handler", (_Handler,), {"web": self})
        self._server = _Server((self.host, self.port), handler)
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        self._stopping.set()
        if self._server:
            self._server.shutdown()
            self._server.server_close()
            self._server.hang_up()
            self._server = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def fail(self, name: str, how: str, times: int | None = 1) -> None:
        with self.lock:
            self._failures.append([name, how, times])

    def asked(self, name: str, method: str = "GET") -> list[Asked]:
        with self.lock:
            return [each for each in self.requests if each.name == name and each.method == method]

    def next_failure(self, name: str) -> str | None:
        with self.lock:
            for failure in self._failures:
                if re.fullmatch(failure[0], name) and failure[2] != 0:
                    if failure[2] is not None:
                        failure[2] -= 1
                    return failure[1]
        return None

    def wait_stalled(self) -> None:
        self._stopping.wait(STALL_S)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def process_request(self, request: socket.socket, client_address: object) -> None:
        self.__dict__.setdefault("connections", []).append(request)
        super().process_request(request, client_address)

    def hang_up(self) -> None:
        """Also on clients that keep their connection."""
        for connection in self.__dict__.get("connections", []):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients may go away."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    web: Web

    def log_message(self, *arguments: object) -> None:
        """Tests read what came in `web.requests`."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        web = self.web
        with web.lock:
            web.at_once += 1
            web.most_at_once = max(web.most_at_once, web.at_once)
        try:
            self.answer()
        finally:
            with web.lock:
                web.at_once -= 1

    def answer(self) -> None:
        web, parts = self.web, urlsplit(self.path)
        name = unquote(parts.path).rpartition("/")[2]
        match = _RANGE.match(self.headers.get("Range", ""))
        begin, end = (int(match[1]), int(match[2]) + 1 if match[2] else 0) if match else (0, 0)
        authorization = self.headers.get("Authorization", "")
        with web.lock:
            web.requests.append(Asked(self.command, name, begin, end, parts.query, authorization))
        time.sleep(web.delay_s)
        failure = web.next_failure(name)
        path = web.folder / unquote(parts.path).lstrip("/")
        if failure == "drop":
            self.close_connection = True
            return
        if (web.wanted_authorization is not None and authorization != web.wanted_authorization) or (
            web.wanted_query is not None and parts.query != web.wanted_query
        ):
            return self.refuse(401)
        if failure in ("503", "404"):
            return self.refuse(int(failure))
        if not path.is_file():
            return self.refuse(404)
        content = path.read_bytes()
        whole = len(content)
        if match and failure != "whole":
            if begin >= whole:
                return self.refuse(416)
            content = content[begin : end or whole]
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {begin}-{begin + len(content) - 1}/{whole}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "HEAD":
            return
        if failure == "wrong":
            content = bytes([content[0] ^ 1]) + content[1:]
        if failure in ("short", "stall"):
            self.send(content[: len(content) // 2])
            if failure == "stall":
                web.wait_stalled()
            self.close_connection = True
            return
        self.send(content)

    def refuse(self, status: int) -> None:
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def send(self, content: bytes) -> None:
        web = self.web
        size = 1 << 13 if web.bytes_per_s else 1 << 16
        for at in range(0, len(content), size):
            piece = content[at : at + size]
            self.wfile.write(piece)
            with web.lock:
                web.sent_bytes += len(piece)
            if web.bytes_per_s:
                time.sleep(len(piece) / web.bytes_per_s)
