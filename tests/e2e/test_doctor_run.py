"""`distdl doctor` on one machine, and as workers in network namespaces that stand for machines with bad links."""

import json
import sys
import time

import pytest
from namespaces import Namespaces, on_a_bridge

DOCTOR = [sys.executable, "-m", "distdl", "doctor"]
MACHINES = ("alpha", "beta", "gamma")
needs_namespaces = pytest.mark.needs("namespaces")
pytestmark = pytest.mark.timeout(120)


def by_name(checks: list[dict]) -> dict[str, dict]:
    return {check["name"]: check for check in checks}


def run_everywhere(
    hosts: Namespaces, addresses: dict[str, str], *arguments: str, master: str = "", size: int | None = None
) -> list[tuple[int, str, str]]:
    """Exit code, output and errors of a worker in each of the namespaces, which have host names of their own."""
    place = {"MASTER_ADDR": master or next(iter(addresses.values())), "MASTER_PORT": "29544", "LOCAL_WORLD_SIZE": "1"}
    place |= {"WORLD_SIZE": str(size or len(addresses)), "OMP_NUM_THREADS": "1", "WANDB_MODE": "disabled"}
    renamed = ["unshare", "--uts", "sh", "-c", 'hostname "$0" && exec "$@"']
    workers = [
        hosts.start(name, [*renamed, name, *DOCTOR, *arguments], {**place, "RANK": str(rank)})
        for rank, name in enumerate(addresses)
    ]
    ended = [worker.communicate(timeout=90) for worker in workers]
    return [(worker.returncode, *each) for worker, each in zip(workers, ended)]


# --- one machine ---


def test_one_machine_is_looked_at_in_seconds(place):
    began = time.monotonic()

    result = place.run("doctor", "--json")

    assert time.monotonic() - began < 20
    assert result.code == 0, result.output
    checks = by_name(json.loads(result.output))
    assert {check["state"] for check in checks.values()} <= {"ok", "warning"}
    assert {"torch", "devices", "backends", "cores", "limits", "runs", "wandb", "interface"} <= set(checks)
    assert not list(place.path.glob(".distdl-doctor-*"))


def test_what_has_failed_comes_with_what_to_do_and_exit_code_1(place):
    result = place.run("doctor", "--hosts", "no-such-host.invalid", "--data", "nowhere")

    assert result.code == 1
    assert "failed   data" in result.output and "-> Name the folder of your data: --data FOLDER." in result.output
    assert "failed   host no-such-host.invalid" in result.output


def test_misuse_is_exit_code_2(place):
    result = place.run("doctor", "--hosts", "a,,b")

    assert result.code == 2
    assert "'a,,b' is not a list of hosts" in result.output


# --- several ---


@needs_namespaces
def test_a_slow_machine_and_a_link_that_works_one_way_are_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with Namespaces("switch", *MACHINES) as hosts:
        addresses = on_a_bridge(hosts, "switch", MACHINES)
        for name in MACHINES[:2]:  # else they are as fast as the processor has time for them
            hosts.slow_down(name, "eth0", "500mbit", burst="256kb")
        hosts.slow_down("gamma", "eth0", "10mbit")
        hosts.slow_down("switch", "port2", "10mbit")
        hosts.lose("gamma", "eth0", addresses["beta"])

        ended = run_everywhere(hosts, addresses, "--json")

    assert [code for code, _, _ in ended] == [1] * 3, ended
    assert [output for _, output, _ in ended[1:]] == ["", ""]
    checks = by_name(json.loads(ended[0][1]))
    assert checks["workers"]["text"] == "3 of 3 on 3 machines"
    assert checks["bandwidth"]["state"] == "warning"
    (slow,) = checks["bandwidth"]["values"]["slow"]
    assert slow.startswith("gamma (10.97.0.3) is slow (both ways): ")
    assert 7 < float(slow.split()[-2]) < 13 and slow.endswith(" Mbit/s")
    assert checks["reach"]["state"] == "failed"
    assert checks["reach"]["text"] == (
        "the link is one-way: what beta (10.97.0.2) sends arrives at gamma (10.97.0.3), but nothing comes back"
    )
    assert checks["clocks"]["state"] == "ok"
    assert checks["interface"]["values"]["interface"] == "eth0"


@needs_namespaces
def test_of_two_links_the_one_that_works_both_ways_is_used(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = MACHINES[:2]
    with Namespaces("switch", *names) as hosts:
        addresses = on_a_bridge(hosts, "switch", names)
        hosts.ip("alpha", "link add eth1 type veth peer name eth1 netns {beta}")
        for number, name in enumerate(names, 1):
            hosts.ip(name, f"addr add 10.98.0.{number}/24 dev eth1\nlink set eth1 up")
            hosts.ip(name, "link add docker0 type veth peer name x\naddr add 172.17.0.1/16 dev docker0")
            hosts.ip(name, "link set docker0 up\nlink set x up")
        hosts.lose("alpha", "eth0", addresses["beta"])

        ended = run_everywhere(hosts, addresses, master="10.98.0.1")

    assert [code for code, _, _ in ended] == [0, 0], ended
    report = ended[0][1]
    assert "eth1 (10.98.0.1): the kernel sends to 10.98.0.2 by it, and was found to work both ways  [alpha]" in report
    assert "eth1 (10.98.0.2): the kernel sends to 10.98.0.1 by it, and was found to work both ways  [beta]" in report
    assert "not eth0: is one-way: what beta sends to 10.97.0.1 arrives, but no answer gets back to it" in report
    assert "not docker0: is not reached by beta at 172.17.0.1" in report  # who asks there asks itself
    assert "both machines reach each other both ways" in report


@needs_namespaces
def test_a_worker_that_does_not_come_is_named_and_not_waited_for_twice(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with Namespaces("switch", "alpha") as hosts:
        addresses = on_a_bridge(hosts, "switch", ("alpha",))
        ((code, report, errors),) = run_everywhere(hosts, addresses, "--wait-s", "2", size=2)

    assert code == 1, errors
    assert "failed   workers        1 of 2 on 1 machine: rank 1 did not come within 2 s" in report
