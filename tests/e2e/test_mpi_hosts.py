"""An MPI job over two hosts: network namespaces with a bridge between them, and a decoy that both have."""

import os
import re
import shlex
import signal
import sys
import time
from pathlib import Path

import pytest
from mpis import AS_ROOT, OPEN_MPI
from namespaces import Namespaces, on_a_bridge
from test_hang_faults import ANSWER_S, CHANGES, eventually, has_taken

pytestmark = [pytest.mark.timeout(180), pytest.mark.needs("mpi", "namespaces")]

# Instead of ssh: `agent ADDRESS COMMAND...` runs the command on the host with this address, under a name of its own.
AGENT = """#!/bin/bash
while [[ $1 == -* ]]; do shift; done
case $1 in {cases} esac
shift
exec ip netns exec $host unshare --uts bash -c "hostname $name; $*"
"""
DECOY = "link add docker0 type bridge\naddr add 172.17.0.1/16 dev docker0\nlink set docker0 up"


@pytest.fixture
def hosts():
    with Namespaces("a", "b", "bridge") as made:
        yield made


@pytest.fixture
def start(place, hosts):
    """start(n, command): the addresses of the hosts, and an mpirun on host a with `n` processes on each."""
    addresses = on_a_bridge(hosts, "bridge", ["a", "b"])
    for host in "ab":
        hosts.ip(host, DECOY)
    agent = place.path / "agent"
    cases = [f"{address}) host={hosts.name(name)} name=host-{name};;" for name, address in addresses.items()]
    agent.write_text(AGENT.format(cases=" ".join(cases)))
    agent.chmod(0o755)

    def start(n, command):
        interface = [f"--mca {layer}_tcp_if_include eth0" for layer in ("btl", "oob")]
        placed = ",".join(f"{address}:{n}" for address in addresses.values())
        options = ["--mca plm rsh", f"--mca plm_rsh_agent {agent}", *interface, f"--host {placed}", f"-n {2 * n}"]
        mpirun = [*OPEN_MPI.mpirun, *shlex.split(" ".join(options)), *command]
        on_a = ["unshare", "--uts", "bash", "-c", f"hostname host-a; cd {place.path}; exec {shlex.join(mpirun)}"]
        return addresses, hosts.start("a", on_a, {**place.environment, **AS_ROOT, "OMP_NUM_THREADS": "1"})

    return start


MEET = """
import os, socket, torch, torch.distributed as dist
import distdl.comm.mpi

dist.init_process_group("gloo", init_method="mpi://")
number = torch.ones(1)
dist.all_reduce(number)
with open("told-" + os.environ["RANK"], "w") as file:  # mpirun may mix up what several print
    print(os.environ["GROUP_RANK"], socket.gethostname(), os.environ["MASTER_ADDR"], int(number), file=file)
"""


def test_the_hosts_meet_at_an_address_that_both_have_tried(place, start):
    addresses, job = start(2, [sys.executable, "-c", MEET])

    _, trouble = job.communicate(timeout=60)

    assert job.returncode == 0, trouble
    told = [path.read_text() for path in place.path.glob("told-*")]
    assert sorted(told) == [f"{i} host-{'ab'[i]} {addresses['a']} 4\n" for i in (0, 0, 1, 1)]


@pytest.mark.parametrize("way", ["both ways", "one way"])
def test_a_run_of_two_hosts_learns_and_a_link_that_carries_nothing_is_told(place, hosts, start, way):
    """mpirun itself waits for its daemon on the other host for ever."""
    place.config(**CHANGES)
    addresses, job = start(1, [sys.executable, "-m", "distdl", "train", "run.yaml"])
    assert eventually(lambda: has_taken(place, 5), 60)

    hosts.lose("b", "eth0", addresses["a"])
    if way == "both ways":
        hosts.lose("a", "eth0", addresses["b"])
    cut = time.monotonic()
    workers = [place.worker(rank, by="OMPI_COMM_WORLD_RANK") for rank in (0, 1)]
    assert eventually(lambda: not any(map(is_running, workers)), ANSWER_S)
    seconds = time.monotonic() - cut
    for pid in place.processes():
        os.kill(pid, signal.SIGKILL)
    said = "".join(job.communicate(timeout=60))

    assert re.search(r"nothing has come from host-b.* for \S+ s: the link from it, or itself, is down", said), said
    assert seconds < ANSWER_S


def is_running(pid):
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
