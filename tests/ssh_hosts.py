"""Hosts on this machine that are reached by ssh: each has network, processes, a name and an sshd of its own.

Use them with `needs("ssh")`. Nothing of the user's own ssh is read or written.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

from namespaces import Namespaces, on_a_bridge

_PROGRAMS = ("ssh", "sshd", "ssh-keygen")
_SSHD = """
Port 22
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/key.pub
StrictModes no
PermitRootLogin yes
UsePAM no
PidFile none
PermitUserEnvironment no
"""
_SSH = """
Host {name}
  HostName {address}
"""
_ALL = """
Host *
  User root
  IdentityFile {folder}/key
  IdentitiesOnly yes
  StrictHostKeyChecking no
  UserKnownHostsFile /dev/null
  LogLevel ERROR
"""


def are_possible() -> bool:
    folders = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin"])
    return all(shutil.which(program, path=folders) for program in _PROGRAMS)


class Hosts:
    """`with Hosts(["a", "b"], folder) as hosts:`; a run is started on another one, head, by `start`."""

    def __init__(self, names: Sequence[str], folder: Path) -> None:
        self.names, self.folder = list(names), folder
        self.network = Namespaces("bridge", "head", *names)
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> "Hosts":
        with contextlib.ExitStack() as undo:
            self.network.__enter__()
            undo.callback(self.__exit__, None, None, None)
            self.addresses = on_a_bridge(self.network, "bridge", ["head", *self.names], "10.99.0")
            for name in ("key", "host_key"):
                make = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.folder / name)]
                subprocess.run(make, check=True)
            (self.folder / "sshd_config").write_text(_SSHD.format(folder=self.folder))
            known = [_SSH.format(name=name, address=self.addresses[name]) for name in self.names]
            (self.folder / "ssh_config").write_text("".join([*known, _ALL.format(folder=self.folder)]))
            Path("/run/sshd").mkdir(exist_ok=True)
            for name in self.names:
                self.switch_on(name)
            undo.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for name in list(self._daemons):
            self.switch_off(name)
        self.network.__exit__(kind, error, traceback)

    @property
    def environment(self) -> dict[str, str]:
        """For distdl."""
        return {"DISTDL_SSH": f"ssh -F {self.folder}/ssh_config"}

    def switch_on(self, name: str) -> None:
        sshd = shutil.which("sshd", path=os.pathsep.join([os.environ["PATH"], "/usr/sbin"]))
        begin = f"hostname {name}; mount -t tmpfs tmpfs /dev/shm; exec {sshd} -D -e -f {self.folder}/sshd_config"
        own = ["unshare", "--uts", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "bash", "-c", begin]
        with (self.folder / f"{name}.log").open("ab") as log:
            self._daemons[name] = subprocess.Popen(
                self.network.command(name, own),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._wait_for(name)

    def switch_off(self, name: str) -> None:
        """Its processes are gone at once, and nobody says so to those that are connected."""
        daemon = self._daemons.pop(name, None)
        if daemon:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(daemon.pid, signal.SIGKILL)
            daemon.wait()

    def start(
        self, command: Sequence[str], folder: Path, environment: Mapping[str, str] | None = None
    ) -> "subprocess.Popen[str]":
        in_folder = ["unshare", "--uts", "bash", "-c", 'hostname head; cd "$0"; exec "$@"', str(folder), *command]
        return subprocess.Popen(
            self.network.command("head", in_folder),
            env={**os.environ, **self.environment, **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def _wait_for(self, name: str) -> None:
        ssh = ["ssh", "-F", f"{self.folder}/ssh_config", "-o", "BatchMode=yes", name, "true"]
        until = time.monotonic() + 20
        while subprocess.run(self.network.command("head", ssh), capture_output=True).returncode:
            assert time.monotonic() < until, (self.folder / f"{name}.log").read_text()
            time.sleep(0.1)
