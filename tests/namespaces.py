"""Network namespaces of this machine as hosts, made by a test and removed by it, for what needs links of their own.

Nothing of them is seen from outside: no interface of theirs is in the machine's own namespace. Use them with
`needs("namespaces")`. Frames can be lost without tc's netem and without nft, which kernels may lack: `lose`.
"""

import itertools
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from types import TracebackType

_numbers = itertools.count()
_NOWHERE = "02:00:00:00:de:ad"


def are_possible() -> bool:
    if not hasattr(os, "geteuid") or os.geteuid() != 0 or not shutil.which("ip") or not shutil.which("tc"):
        return False
    name = f"distdl-{os.getpid()}-try"
    commands = ["add", name], ["exec", name, "true"], ["del", name]
    return all(not subprocess.run(["ip", "netns", *each], capture_output=True).returncode for each in commands)


class Namespaces:
    """`with Namespaces("me", "peer") as hosts:`; their names in the kernel carry this process's id and a number."""

    def __init__(self, *hosts: str) -> None:
        number = next(_numbers)
        self._names = {host: f"distdl-{os.getpid()}-{number}-{host}" for host in hosts}
        self._started: list[subprocess.Popen[str]] = []

    def __enter__(self) -> "Namespaces":
        try:
            for host, name in self._names.items():
                _run("ip", "netns", "add", name)
                self.ip(host, "link set lo up")
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for process in self._started:
            process.kill()
            process.wait()
        for name in self._names.values():
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)

    def ip(self, host: str, lines: str) -> None:
        """Lines for `ip -batch`; {peer} and the like stand for the hosts' names in the kernel."""
        content = lines.format(**self._names)
        _run("ip", "-n", self._names[host], "-batch", "-", text=content)

    def slow_down(self, host: str, interface: str, rate: str, burst: str = "32kb") -> None:
        """What leaves `host` by `interface`."""
        shape = ["root", "tbf", "rate", rate, "burst", burst, "latency", "100ms"]
        _run(*self.command(host, ["tc", "qdisc", "add", "dev", interface, *shape]))

    def lose(self, host: str, interface: str, address: str) -> None:
        """All that `host` sends to `address` on its own network goes to an address that no network card has."""
        self.ip(host, f"neigh replace {address} lladdr {_NOWHERE} dev {interface} nud permanent")

    def name(self, host: str) -> str:
        """In the kernel."""
        return self._names[host]

    def command(self, host: str, command: Sequence[str]) -> list[str]:
        return ["ip", "netns", "exec", self._names[host], *command]

    def start(
        self, host: str, command: Sequence[str], environment: Mapping[str, str] | None = None
    ) -> subprocess.Popen[str]:
        """stdin, stdout and stderr are pipes. What has not ended by then is killed when the hosts are removed."""
        process = subprocess.Popen(
            self.command(host, command),
            env={**os.environ, **(environment or {})},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._started.append(process)
        return process


def on_a_bridge(hosts: Namespaces, bridge: str, names: Sequence[str], network: str = "10.97.0") -> dict[str, str]:
    """Gives each of the hosts an eth0 on one bridge, which is in a host of its own; returns their addresses."""
    addresses = {name: f"{network}.{i + 1}" for i, name in enumerate(names)}
    hosts.ip(bridge, "link add bridge type bridge\nlink set bridge up")
    for i, (name, address) in enumerate(addresses.items()):
        hosts.ip(bridge, f"link add port{i} type veth peer name eth0 netns {{{name}}}")
        hosts.ip(bridge, f"link set port{i} master bridge up")
        hosts.ip(name, f"addr add {address}/24 dev eth0\nlink set eth0 up")
    return addresses


def _run(*command: str, text: str | None = None) -> str:
    done = subprocess.run(command, capture_output=True, text=True, input=text)
    assert not done.returncode, f"{' '.join(command)}: {done.stderr}\n{text or ''}"
    return done.stdout
