"""A real Slurm of several nodes on this machine: each has network, processes and /dev/shm of its own.

Use it with `needs("slurm")`. Traps that cost hours elsewhere, of Slurm 22.05 as Debian has it:
- `ip netns exec` hides the control groups, and slurmd refuses to start unless it is told of cgroup/v1.
- PMIx wants a folder of the node's own for its sockets: /dev/shm.
- A device of a generic resource has to be a file that exists, or the node counts as invalid.
- A requeued job waits for two minutes, unless it is told to start now; and it fails if it is told so within the seconds
  in which the nodes remember that its credential was revoked.
"""

import contextlib
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType

from namespaces import Namespaces, on_a_bridge

_PROGRAMS = ("slurmctld", "slurmd", "sbatch", "srun", "scontrol", "munged")
_REVOKED_S = 7.0
_NOT_OVER = {"PENDING", "RUNNING", "COMPLETING", "CONFIGURING", "REQUEUED", "SUSPENDED", "STAGE_OUT"}
_MUNGE_FILES = {"key-file": ".key", "socket": ".sock", "pid-file": ".pid", "log-file": ".log", "seed-file": ".seed"}
_CONF = """
ClusterName=tests
SlurmctldHost=head({head})
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.sock,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/spool/%n/slurmd.pid
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdLogFile={folder}/log/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
ReturnToService=2
JobRequeue=1
SlurmdTimeout=10
SlurmctldTimeout=10
KillWait=5
MinJobAge=3600
InactiveLimit=0
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=2,sched_min_interval=0
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
GresTypes=gpu
{nodes}
PartitionName=main Nodes=ALL Default=YES MaxTime=60 DefaultTime=10 State=UP
"""


def is_possible() -> bool:
    folders = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin"])
    return all(shutil.which(program, path=folders) for program in _PROGRAMS)


class Cluster:
    """`with Cluster(4, folder) as cluster:`; nodes are node1, node2, ..., and the commands run on the host head."""

    def __init__(self, n: int, folder: Path, n_gpus: int = 2) -> None:
        self.folder = folder
        self.names = [f"node{i + 1}" for i in range(n)]
        self.hosts = Namespaces("bridge", "head", *self.names)
        self._n_gpus = n_gpus
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> "Cluster":
        with contextlib.ExitStack() as undo:
            self.hosts.__enter__()
            undo.callback(self.__exit__, None, None, None)
            self.addresses = on_a_bridge(self.hosts, "bridge", ["head", *self.names], "10.98.0")
            self._configure()
            key = self._path("munge.key")
            key.write_bytes(secrets.token_bytes(128))
            key.chmod(0o400)
            kept = {name: str(self._path(f"munge{end}")) for name, end in _MUNGE_FILES.items()}
            munge = ["munged", "--foreground", "--force", *(f"--{name}={path}" for name, path in kept.items())]
            self._daemons["munged"] = self._start(munge, "munged")
            self._daemons["slurmctld"] = self._start(self._on_head(["slurmctld", "-D", "-c"]), "slurmctld")
            for name in self.names:
                self.start_node(name)
            self.wait_until(lambda: len(self._idle()) == len(self.names), 30.0, "all nodes are idle")
            undo.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for name in reversed(list(self._daemons)):
            self._kill(name)
        self.hosts.__exit__(kind, error, traceback)

    # --- nodes ---

    def start_node(self, name: str) -> None:
        """As a tree of processes, of which none outlives the first."""
        (self._path("spool") / name).mkdir(parents=True, exist_ok=True)
        begin = f"hostname {name}; mount --bind {self._path('hosts')} /etc/hosts; mount -t tmpfs tmpfs /dev/shm; "
        slurmd = f"while true; do slurmd -D -N {name} -f {self._path('slurm.conf')}; sleep 1; done"  # as systemd would
        own = ["unshare", "--uts", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "bash", "-c"]
        self._daemons[name] = self._start(self.hosts.command(name, [*own, begin + slurmd]), name)

    def kill_node(self, name: str) -> None:
        """All of its processes at once, as when its power fails."""
        self._kill(name)

    def kill_daemon(self, name: str, program: str) -> None:
        """The slurmd of a node alone; it is started again at once, as by systemd. What it has started goes on."""
        inside = self._processes(name)
        pids = [pid for pid in inside if Path(f"/proc/{pid}/comm").read_text().strip() == program]
        assert pids, f"no {program} on {name}"
        os.kill(min(pids), signal.SIGKILL)

    def restart_controller(self) -> None:
        self._kill("slurmctld")
        self._daemons["slurmctld"] = self._start(self._on_head(["slurmctld", "-D"]), "slurmctld")
        self.wait_until(lambda: "UP" in self.run(["scontrol", "ping"], self.folder).stdout, 30.0, "slurmctld is up")

    def freeze(self, name: str) -> None:
        """All of its processes stop, as on a machine that hangs: it is lost, but not gone."""
        for pid in self._processes(name):
            os.kill(pid, signal.SIGSTOP)

    def thaw(self, name: str, program: str) -> None:
        """Its processes of this name, such as python, go on."""
        for pid in self._processes(name):
            if program in Path(f"/proc/{pid}/comm").read_text():
                os.kill(pid, signal.SIGCONT)

    def _processes(self, name: str) -> list[int]:
        daemon = self._daemons[name].pid
        first = Path(f"/proc/{daemon}/task/{daemon}/children").read_text().split()[0]
        space = Path(f"/proc/{first}/ns/pid").readlink()
        found = []
        for path in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if (path / "ns/pid").readlink() == space:
                    found.append(int(path.name))
        return found

    # --- commands and jobs ---

    def run(
        self,
        command: Sequence[str],
        folder: Path,
        environment: Mapping[str, str] | None = None,
        timeout_s: float = 120.0,
    ) -> subprocess.CompletedProcess[str]:
        """On the host head, where there is no shared network with anything but the nodes."""
        return subprocess.run(
            self._on_head(command),
            cwd=folder,
            env=self._environment(environment),
            capture_output=True,
            text=True,
            timeout=timeout_s,
            stdin=subprocess.DEVNULL,
        )

    def sbatch(self, script: str, folder: Path, *options: str, environment: Mapping[str, str] | None = None) -> str:
        """The number of the job."""
        (folder / "job.sh").write_text(f"#!/bin/bash\n{script}\n")
        done = self.run(["sbatch", "--parsable", "--output=%j.log", *options, "job.sh"], folder, environment)
        assert not done.returncode, done.stderr
        return done.stdout.strip().partition(";")[0]

    def job(self, number: str) -> dict[str, str]:
        """What Slurm knows of it: JobState, ExitCode, Restarts, NodeList, ..."""
        told = self.run(["scontrol", "--oneliner", "show", "job", number], self.folder).stdout
        return dict(re.findall(r"(\S+?)=(\S*)", told))

    def wait(self, number: str, timeout_s: float = 120.0) -> str:
        """Until the job is over, and for some seconds, since one that queues itself again is over for a moment; its
        state then. One that was requeued is told to start now."""
        until = time.monotonic() + timeout_s
        over_at: float | None = None
        pending_at: float | None = None
        while True:
            job = self.job(number)
            state = job.get("JobState", "PENDING")
            over_at = None if state in _NOT_OVER else over_at or time.monotonic()
            if over_at and time.monotonic() > over_at + (1.0 if state == "COMPLETED" else 6.0):
                return state
            pending_at = (pending_at or time.monotonic()) if state == "PENDING" else None
            if pending_at and time.monotonic() > pending_at + _REVOKED_S and job.get("Reason") == "BeginTime":
                self.run(["scontrol", "update", f"JobId={number}", "StartTime=now"], self.folder)
            assert time.monotonic() < until, f"job {number} is still {state} after {timeout_s:g} s: {job}"
            time.sleep(0.2)

    def cancel_all(self) -> None:
        self.run(["scancel", "--user=root", "--full"], self.folder)
        self.run(["scancel", "--user=root", "--signal=KILL"], self.folder)
        self.wait_until(lambda: not self.run(["squeue", "-h"], self.folder).stdout, 60.0, "no job is left")
        for name in self.names:
            if name not in self._daemons:
                self.start_node(name)
        self.wait_until(lambda: len(self._idle()) == len(self.names), 60.0, "all nodes are idle")

    def wait_until(self, is_so: Callable[[], object], timeout_s: float, what: str) -> None:
        until = time.monotonic() + timeout_s
        while not is_so():
            assert time.monotonic() < until, f"not within {timeout_s:g} s: {what}"
            time.sleep(0.1)

    # --- how ---

    def _configure(self) -> None:
        for name in ("state", "spool", "log", "dev"):
            self._path(name).mkdir(parents=True)
        for number in range(self._n_gpus):
            os.mknod(self._path(f"dev/nvidia{number}"), 0o666 | 0o020000, os.makedev(1, 3))
        devices = f"{self._path('dev')}/nvidia[0-{self._n_gpus - 1}]"
        self._path("gres.conf").write_text(f"AutoDetect=off\nName=gpu Type=fake File={devices}\n")
        self._path("cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")
        self._path("mpi.conf").write_text("PMIxCliTmpDirBase=/dev/shm\n")
        hosts = ["127.0.0.1 localhost", *(f"{address} {name}" for name, address in self.addresses.items())]
        self._path("hosts").write_text("\n".join(hosts) + "\n")
        of_each = f"CPUs=4 RealMemory=4000 Gres=gpu:fake:{self._n_gpus} State=UNKNOWN"
        nodes = [f"NodeName={name} NodeAddr={self.addresses[name]} {of_each}" for name in self.names]
        conf = _CONF.format(folder=self.folder, head=self.addresses["head"], nodes="\n".join(nodes))
        self._path("slurm.conf").write_text(conf)

    def _idle(self) -> list[str]:
        told = self.run(["sinfo", "-h", "-N", "-o", "%N %t"], self.folder).stdout.splitlines()
        return [name for name, state in map(str.split, told) if state == "idle"]  # and not idle*, which does not answer

    def _path(self, name: str) -> Path:
        return self.folder / name

    def _environment(self, more: Mapping[str, str] | None = None) -> dict[str, str]:
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"], "/usr/sbin"])
        return {**os.environ, **(more or {}), "PATH": path, "SLURM_CONF": str(self._path("slurm.conf"))}

    def _on_head(self, command: Sequence[str]) -> list[str]:
        begin = f'hostname head; mount --bind {self._path("hosts")} /etc/hosts; exec "$@"'
        return self.hosts.command("head", ["unshare", "--uts", "--mount", "bash", "-c", begin, "head", *command])

    def _start(self, command: Sequence[str], name: str) -> "subprocess.Popen[bytes]":
        with self._path(f"log/{name}.out").open("ab") as log:
            return subprocess.Popen(
                command,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _kill(self, name: str) -> None:
        daemon = self._daemons.pop(name)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(daemon.pid, signal.SIGKILL)
        daemon.wait()
