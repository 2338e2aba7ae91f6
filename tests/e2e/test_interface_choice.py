"""Which interface is chosen among decoys: real ones, in network namespaces that each case makes and removes.

Two hosts, `me` and `peer`. A case says what each has (lines for `ip`), and which interface of `me` is right. Where it
is tried out, `me` answers at each of its addresses, `peer` asks there, and what came of it outweighs the routes.
"""

import json
import sys
from dataclasses import dataclass, field

import pytest
from namespaces import Namespaces, on_a_bridge

pytestmark = [pytest.mark.needs("namespaces"), pytest.mark.timeout(60)]

CHOOSE = """
import json, sys
from distdl.errors import UserError
from distdl.net import choose, probe
peers, token = json.loads(sys.argv[1]), b"t" * 32
addresses = [str(address) for _, address in choose.candidates(choose.read_machine())]
with probe.Responder(addresses, token) as responder:
    print(json.dumps(responder.targets), flush=True)
    answered = json.loads(sys.stdin.readline())
    tried = None if answered is None else probe.verdicts(responder.heard, {1: answered}, {1: "peer"})
try:
    choice = choose.choose(peers, tried=tried)
    print(json.dumps({field: getattr(choice, field) for field in choice.__slots__}))
except UserError as error:
    print(json.dumps({"error": str(error)}))
"""
ASK = """
import json, sys
from distdl.net import probe
targets = {address: (address, port) for address, port in json.loads(sys.stdin.readline())}
found = probe.ask_all(targets, b"t" * 32, 1)
print(json.dumps([address for address, answer in found.items() if answer]))
"""


@dataclass(kw_only=True)
class Case:
    """`interface`: the right one, None if there is none. `why`: part of the reason against each decoy."""

    me: str
    interface: str | None
    peer: str = ""
    peers: tuple[str, ...] = ("10.1.0.2",)
    address: str | None = None
    why: dict[str, str] = field(default_factory=dict)
    lost: tuple[tuple[str, str, str], ...] = ()  # host, interface, to which address
    is_tried: bool = False
    environment: dict[str, str] = field(default_factory=dict)
    warning: str = ""


def link(name: str, network: str = "10.1.0", far: str | None = None) -> str:
    """A cable to `peer` with an address at my end; `me` is .1."""
    return f"""
        link add {name} type veth peer name {far or name} netns {{peer}}
        addr add {network}.1/24 dev {name}
        link set {name} up
    """


def far_end(name: str, network: str = "10.1.0") -> str:
    """The other end of `link`; `peer` is .2."""
    return f"addr add {network}.2/24 dev {name}\nlink set {name} up\n"


def bridge(name: str, address: str) -> str:
    """As Docker makes them: with a container's port, so that it is up and has a carrier."""
    return f"""
        link add {name} type bridge
        addr add {address} dev {name}
        link set {name} up
        link add {name}p type veth peer name {name}c
        link set {name}c up
        link set {name}p master {name} up
    """


BOTH = {"me": link("eth0") + link("eth1", "10.2.0"), "peer": far_end("eth0") + far_end("eth1", "10.2.0")}
CASES = {
    "one link": Case(me=link("eth0"), peer=far_end("eth0"), interface="eth0", why={"lo": "this machine alone"}),
    "docker0 comes first": Case(
        me=bridge("docker0", "172.17.0.1/16") + link("eth0"),
        peer=far_end("eth0"),
        interface="eth0",
        why={"docker0": "no route to 10.1.0.2 (it is a bridge)", "docker0p": "no address but a link-local one"},
    ),
    "docker0 is the right one": Case(
        me=link("docker0", far="eth0") + bridge("eth0", "192.168.7.1/24"),
        peer=far_end("eth0"),
        interface="docker0",
        why={"eth0": "no route to 10.1.0.2"},
    ),
    "one is down": Case(
        me=link("eth1") + "link add eth0 type veth peer name x\naddr add 10.1.0.7/24 dev eth0",
        peer=far_end("eth1"),
        interface="eth1",
        why={"eth0": "is down"},
    ),
    "one has no carrier": Case(
        me=link("eth1") + "link add eth0 type veth peer name x\naddr add 10.3.0.1/24 dev eth0\nlink set eth0 up",
        peer=far_end("eth1"),
        interface="eth1",
        why={"eth0": "no carrier"},
    ),
    "the cable of the shorter way is out": Case(
        me="link add eth0 type veth peer name x\naddr add 10.1.0.7/28 dev eth0\nlink set eth0 up" + link("eth1"),
        peer=far_end("eth1"),
        interface="eth1",
        why={"eth0": "no carrier"},
    ),
    "one has no address": Case(
        me="link add eth0 type veth peer name x\nlink set eth0 up\nlink set x up" + link("eth1"),
        peer=far_end("eth1"),
        interface="eth1",
        why={"eth0": "no address"},
    ),
    "the bridge has the address of its port": Case(
        me="""
            link add eth0 type veth peer name eth0 netns {peer}
            link add br0 type bridge
            link set eth0 master br0 up
            addr add 10.1.0.1/24 dev br0
            link set br0 up
        """,
        peer=far_end("eth0"),
        interface="br0",
        why={"eth0": "(it is a port of br0)"},
    ),
    "through a gateway": Case(
        me=bridge("docker0", "172.17.0.1/16")
        + link("eth0", "10.8.0")
        + link("eth1")
        + "route add default via 10.1.0.2",
        peer=far_end("eth0", "10.8.0") + far_end("eth1"),
        peers=("10.99.0.9", "10.99.0.10"),
        interface="eth1",
        why={"eth0": "no route to 10.99.0.9", "docker0": "no route"},
    ),
    "a longer prefix beats the default route": Case(
        me=link("eth0", "10.8.0") + link("eth1") + "route add default via 10.8.0.2",
        peer=far_end("eth0", "10.8.0") + far_end("eth1"),
        interface="eth1",
        why={"eth0": "the kernel sends by eth1"},
    ),
    "two default routes": Case(
        me=BOTH["me"] + "route add default via 10.1.0.2 metric 200\nroute add default via 10.2.0.2 metric 100",
        peer=BOTH["peer"],
        peers=("10.99.0.9",),
        interface="eth1",
        why={"eth0": "the kernel sends by eth1"},
    ),
    "a docker network that covers the peer": Case(
        me=bridge("docker0", "10.0.0.1/8") + link("eth0"),
        peer=far_end("eth0"),
        interface="eth0",
        why={"docker0": "the kernel sends by eth0"},
    ),
    "IPv6 alone": Case(
        me=link("eth0", "10.8.0")
        + "link add eth1 type veth peer name eth1 netns {peer}\naddr add fd01::1/64 dev eth1 nodad\nlink set eth1 up",
        peer=far_end("eth0", "10.8.0") + "addr add fd01::2/64 dev eth1 nodad\nlink set eth1 up",
        peers=("fd01::2",),
        interface="eth1",
        address="fd01::1",
        is_tried=True,
        why={"eth0": "the kernel sends by eth1"},
    ),
    "the other has but a link-local address": Case(
        me="link add eth0 type veth peer name eth0 netns {peer}\nlink set eth0 up\naddr add fe80::7/64 dev eth0 nodad\n"
        + "link add eth1 type veth peer name eth1 netns {peer}\naddr add fd01::1/64 dev eth1 nodad\nlink set eth1 up",
        peer="link set eth0 up\naddr add fd01::2/64 dev eth1 nodad\nlink set eth1 up",
        peers=("fd01::2",),
        interface="eth1",
        why={"eth0": "link-local"},
    ),
    "a tunnel that nobody serves": Case(
        me="tuntap add tun0 mode tun\naddr add 10.9.0.1/24 dev tun0\nlink set tun0 up" + link("eth0"),
        peer=far_end("eth0"),
        interface="eth0",
        why={"tun0": "no carrier"},
    ),
    "the master's own address": Case(
        me=bridge("docker0", "172.17.0.1/16") + BOTH["me"],
        peer=BOTH["peer"],
        peers=("10.2.0.1",),
        interface="eth1",
        address="10.2.0.1",
        why={"eth0": "does not have the address 10.2.0.1"},
    ),
    "both work": Case(
        **BOTH, interface="eth0", address="10.1.0.1", is_tried=True, why={"eth1": "the kernel sends by eth0"}
    ),
    "one loses what the peer sends": Case(
        **BOTH,
        interface="eth1",
        lost=(("peer", "eth0", "10.1.0.1"),),
        is_tried=True,
        why={"eth0": "is not reached by peer at 10.1.0.1"},
    ),
    "one loses what is answered": Case(
        **BOTH,
        interface="eth1",
        address="10.2.0.1",
        lost=(("me", "eth0", "10.1.0.2"),),
        is_tried=True,
        why={"eth0": "is one-way: what peer sends to 10.1.0.1 arrives"},
    ),
    "no other machine": Case(me=link("eth0"), peer=far_end("eth0"), peers=(), interface="lo", address="127.0.0.1"),
    "the user says so": Case(
        **BOTH,
        interface="eth1",
        environment={"NCCL_SOCKET_IFNAME": "^lo,eth0"},
        warning="NCCL_SOCKET_IFNAME=^lo,eth0 does not lead to the other workers, as far as the kernel knows; eth0 does",
    ),
    "no way": Case(
        me=bridge("docker0", "172.17.0.1/16") + "link add eth0 type veth peer name x", peer="", interface=None
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_the_interface_that_leads_to_the_peer_is_chosen(case: Case):
    with Namespaces("me", "peer") as hosts:
        hosts.ip("me", case.me)
        hosts.ip("peer", case.peer)
        for host, interface, address in case.lost:
            hosts.lose(host, interface, address)

        found = choose(hosts, case)

    if case.interface is None:
        assert "no interface leads to 10.1.0.2" in found["error"]
        assert "eth0 is down" in found["error"] and "docker0 has no route to 10.1.0.2" in found["error"]
        return
    assert found["interface"] == case.interface, found
    assert case.address in (None, found["address"]), found
    reasons = dict(found["rejected"])
    for name, reason in case.why.items():
        assert reason in reasons[name], found
    assert [case.warning] * bool(case.warning) == found["warnings"]


def choose(hosts: Namespaces, case: Case) -> dict:
    chooser = hosts.start("me", [sys.executable, "-c", CHOOSE, json.dumps(case.peers)], case.environment)
    targets = chooser.stdout.readline()
    answered = "null\n"
    if case.is_tried:
        asking = hosts.start("peer", [sys.executable, "-c", ASK])
        answered, errors = asking.communicate(targets, timeout=20)
        assert answered, errors
    output, errors = chooser.communicate(answered, timeout=20)
    assert output, errors
    return json.loads(output)


JOIN = """
import os, torch
from distdl.comm import collectives
from distdl.comm.world import detect
collectives.join(detect(), "gloo", torch.device("cpu"))
total = collectives.sum_(torch.ones(3))
print(os.environ["GLOO_SOCKET_IFNAME"], os.environ["NCCL_SOCKET_IFNAME"], total.tolist())
collectives.leave()
"""


def test_workers_on_two_machines_join_by_the_interface_that_leads_to_the_master():
    """Both have a docker0 with one and the same address, and a host name that leads to neither of them."""
    names = ("a", "b")
    with Namespaces("switch", *names) as hosts:
        for name in names:
            hosts.ip(name, bridge("docker0", "172.17.0.1/16"))
        addresses = on_a_bridge(hosts, "switch", names)
        place = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "1", "MASTER_ADDR": addresses["a"], "MASTER_PORT": "29533"}
        workers = [
            hosts.start(name, [sys.executable, "-c", JOIN], {**place, "RANK": str(rank), "OMP_NUM_THREADS": "1"})
            for rank, name in enumerate(names)
        ]
        ended = [worker.communicate(timeout=50) for worker in workers]

    assert [output.strip() for output, _ in ended] == ["eth0 =eth0 [2.0, 2.0, 2.0]"] * 2, ended
