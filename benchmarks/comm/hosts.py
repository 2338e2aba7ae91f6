"""Network namespaces of this machine as hosts: an address each, on one bridge, with links of a given rate (tbf).

    with Hosts(4, "100mbit") as hosts:
        hosts.run([[python, "worker.py"], ...])        # one command a host
        hosts.sent_bytes(0)                            # what left host 0, by its interface's counter

Needs root, and iproute2. Hosts share the processor and its clock, so that only what travels is bounded, not what is
computed. The names carry this process's id; all goes when the block ends.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from types import TracebackType

_BURST = "256kb"
_QUEUE = "50ms"


class Hosts:
    def __init__(self, n: int, rate: str | None) -> None:
        if os.geteuid() != 0 or not shutil.which("ip") or not shutil.which("tc"):
            sys.exit("network namespaces need root, and ip and tc (apt-get install iproute2)")
        self.n, self.rate = n, rate
        self._names = [f"distdl-{os.getpid()}-{host}" for host in range(n)]
        self._bridge = f"distdl-{os.getpid()}-bridge"

    def address(self, host: int) -> str:
        return f"10.97.0.{host + 1}"

    def name(self, host: int) -> str:
        return self._names[host]

    def __enter__(self) -> "Hosts":
        for name in (self._bridge, *self._names):
            _ip("netns", "add", name)
            _ip("-n", name, "link", "set", "lo", "up")
        _ip("-n", self._bridge, "link", "add", "bridge", "type", "bridge")
        _ip("-n", self._bridge, "link", "set", "bridge", "up")
        for host, name in enumerate(self._names):
            port = f"port{host}"
            _ip("-n", self._bridge, "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", name)
            _ip("-n", self._bridge, "link", "set", port, "master", "bridge", "up")
            _ip("-n", name, "addr", "add", f"{self.address(host)}/24", "dev", "eth0")
            _ip("-n", name, "link", "set", "eth0", "up")
            if self.rate:  # in both directions
                shape = ["root", "tbf", "rate", self.rate, "burst", _BURST, "latency", _QUEUE]
                _run("ip", "netns", "exec", self._bridge, "tc", "qdisc", "add", "dev", port, *shape)
                _run("ip", "netns", "exec", name, "tc", "qdisc", "add", "dev", "eth0", *shape)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for name in (*self._names, self._bridge):
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)

    def start(self, host: int, command: Sequence[str], environment: Mapping[str, str]) -> subprocess.Popen[str]:
        prefix = ["ip", "netns", "exec", self._names[host]]
        return subprocess.Popen(
            [*prefix, *command], env={**os.environ, **environment}, stdout=subprocess.PIPE, text=True
        )

    def sent_bytes(self, host: int) -> int:
        path = "/sys/class/net/eth0/statistics/tx_bytes"
        return int(_run("ip", "netns", "exec", self._names[host], "cat", path))


def _ip(*arguments: str) -> str:
    return _run("ip", *arguments)


def _run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout
