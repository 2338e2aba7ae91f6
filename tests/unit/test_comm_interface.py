"""What a worker tells gloo and NCCL of the network interface before it joins the others."""

import ipaddress

import pytest

from distdl.comm import interface
from distdl.comm.world import WorldInfo
from distdl.errors import UserError
from distdl.net import choose as choosing
from distdl.net.choose import Machine
from distdl.net.netlink import Destinations, Interface, Route

MINE = ipaddress.ip_interface("10.1.0.1/24")
TWO_MACHINES = WorldInfo(rank=1, world_size=4, local_world_size=2)
ONE_MACHINE = WorldInfo(rank=1, world_size=2, local_world_size=2)


@pytest.fixture(autouse=True)
def machine(monkeypatch):
    """eth0 is 10.1.0.1 and has the default route."""
    lo = Interface(name="lo", index=1, is_loopback=True, addresses=(ipaddress.ip_interface("127.0.0.1/8"),))
    eth0 = Interface(name="eth0", index=2, addresses=(MINE,))

    def route_to(address):
        if address.is_loopback or address == MINE.ip:
            return Route(interface="lo", source=address, is_local=True)
        return Route(interface="eth0", source=MINE.ip)

    everywhere = Destinations(interface="eth0", network=ipaddress.ip_network("0.0.0.0/0"))
    made = Machine(interfaces=[lo, eth0], destinations=[everywhere], route_to=route_to)
    monkeypatch.setattr(choosing, "read_machine", lambda: made)
    monkeypatch.setattr(interface.netlink, "is_available", lambda: True)


def settled(info: WorldInfo, **environment: str) -> tuple[dict[str, str], list[str]]:
    warnings = interface.settle(info, environment)
    return environment, warnings


@pytest.mark.parametrize("master", ["10.1.0.9", "10.1.0.1"], ids=["elsewhere", "here"])
def test_both_libraries_are_told_what_leads_to_the_master_or_has_its_address(master):
    told, warnings = settled(TWO_MACHINES, MASTER_ADDR=master)

    assert told == {"MASTER_ADDR": master, "GLOO_SOCKET_IFNAME": "eth0", "NCCL_SOCKET_IFNAME": "=eth0"}
    assert warnings == []


def test_what_the_user_says_stays():
    told, _ = settled(TWO_MACHINES, MASTER_ADDR="10.1.0.9", GLOO_SOCKET_IFNAME="eth0", NCCL_SOCKET_IFNAME="ib")

    assert (told["GLOO_SOCKET_IFNAME"], told["NCCL_SOCKET_IFNAME"]) == ("eth0", "ib")


def test_on_one_machine_gloo_uses_loopback_and_nccl_is_left_alone():
    told, warnings = settled(ONE_MACHINE, MASTER_ADDR="127.0.0.1")

    assert told == {"MASTER_ADDR": "127.0.0.1", "GLOO_SOCKET_IFNAME": "lo"}
    assert warnings == []


def test_a_master_that_is_loopback_to_itself_alone_is_not_believed():
    told, warnings = settled(TWO_MACHINES, MASTER_ADDR="127.0.1.1")

    assert told["GLOO_SOCKET_IFNAME"] == "eth0"
    assert warnings == [
        "MASTER_ADDR=127.0.1.1 is loopback here, though other machines take part: "
        "eth0 is taken, which leads off this network"
    ]


def test_one_worker_needs_nothing():
    assert settled(WorldInfo(), MASTER_ADDR="10.1.0.9") == ({"MASTER_ADDR": "10.1.0.9"}, [])


def test_a_master_that_has_no_address_is_the_users_mistake():
    with pytest.raises(UserError, match="no-such-host"):
        settled(TWO_MACHINES, MASTER_ADDR="no-such-host.invalid")
