"""Which interface is chosen on machines that are made up, what the environment may say, and probes over loopback."""

import ipaddress
import socket
import threading
import time

import pytest

from distdl.errors import UserError
from distdl.net import given, netlink, probe, rate
from distdl.net.choose import Machine, choose
from distdl.net.netlink import Destinations, Interface, Route

TOKEN = b"t" * probe.TOKEN_BYTES


def interface(name: str, *addresses: str, **more) -> Interface:
    return Interface(name=name, index=1, addresses=tuple(map(ipaddress.ip_interface, addresses)), **more)


def machine(*interfaces: Interface) -> Machine:
    """Routes to the networks of the interfaces, the first one preferred."""
    lo = interface("lo", "127.0.0.1/8", "::1/128", is_loopback=True)
    destinations = [Destinations(interface=i.name, network=own.network) for i in interfaces for own in i.addresses]

    def route_to(address):
        if any(own.ip == address for i in (lo, *interfaces) for own in i.addresses):
            return Route(interface="lo", source=address, is_local=True)
        for each in destinations:
            if address in each.network:
                here = next(i for i in interfaces if i.name == each.interface)
                return Route(interface=here.name, source=here.addresses[0].ip)
        return None

    return Machine(interfaces=[lo, *interfaces], destinations=destinations, route_to=route_to)


ETH0, ETH1 = interface("eth0", "10.1.0.1/24"), interface("eth1", "10.2.0.1/24")


# --- choosing ---


def test_one_machine_needs_no_interface_but_loopback():
    choice = choose([], environment={}, machine=machine(ETH0))

    assert (choice.interface, choice.address) == ("lo", "127.0.0.1")
    assert choice.rejected == [("eth0", "is not needed on one machine")]


def test_the_interface_is_the_one_that_the_kernel_sends_by():
    docker = interface("docker0", "172.17.0.1/16", kind="bridge")

    choice = choose(["10.1.0.9"], environment={}, machine=machine(docker, ETH0))

    assert (choice.interface, choice.address) == ("eth0", "10.1.0.1")
    assert choice.reason == "the kernel sends to 10.1.0.9 by it"
    assert dict(choice.rejected)["docker0"] == "has no route to 10.1.0.9 (it is a bridge)"


def test_without_a_way_each_interface_is_named_with_what_is_wrong():
    with pytest.raises(UserError, match=r"no interface leads to 10\.9\.0\.9") as error:
        choose(["10.9.0.9"], environment={}, machine=machine(ETH0, interface("eth1", is_up=False)))

    assert "eth0 has no route to 10.9.0.9" in str(error.value)
    assert "eth1 is down" in str(error.value)


def test_a_dead_link_is_left_aside_though_the_kernel_prefers_it():
    dead = interface("eth0", "10.1.0.1/28", has_carrier=False)

    choice = choose(["10.1.0.9"], environment={}, machine=machine(dead, interface("eth1", "10.1.0.2/24")))

    assert choice.interface == "eth1"
    assert choice.reason.startswith("it leads to 10.1.0.9, and eth0, by which the kernel sends, has no carrier")


def test_what_was_tried_outweighs_the_route():
    tried = {"10.1.0.1": "is one-way", "10.2.0.1": ""}

    choice = choose(["10.1.0.9"], environment={}, tried=tried, machine=machine(ETH0, ETH1))

    assert (choice.interface, choice.address) == ("eth1", "10.2.0.1")
    assert dict(choice.rejected)["eth0"] == "is one-way"


def test_of_several_that_work_it_is_the_one_that_the_kernel_sends_by():
    tried = {"10.1.0.1": "", "10.2.0.1": ""}

    choice = choose(["10.2.0.9"], environment={}, tried=tried, machine=machine(ETH0, ETH1))

    assert choice.interface == "eth1"


def test_peers_on_two_networks_are_worth_a_warning():
    wide = [interface("eth0", "10.1.0.1/8"), interface("eth1", "10.2.0.1/24", "10.1.0.2/8")]
    found = machine(wide[1], wide[0])
    two_ways = Machine(
        interfaces=found.interfaces,
        destinations=found.destinations,
        route_to=lambda address: Route(
            interface="eth1" if str(address).startswith("10.2.") else "eth0",
            source=ipaddress.ip_address("10.2.0.1" if str(address).startswith("10.2.") else "10.1.0.1"),
        ),
    )

    choice = choose(["10.1.0.9", "10.2.0.9", "10.2.0.10"], environment={}, machine=two_ways)

    assert choice.interface == "eth1"
    assert choice.warnings == ["the kernel sends to 10.1.0.9 by eth0, but a job uses one interface: eth1"]


def test_gloo_takes_the_first_address_of_an_interface_which_may_not_be_the_right_one():
    both = interface("eth0", "192.168.1.1/24", "10.1.0.1/24")
    machine_with_both = machine(both)
    route = Route(interface="eth0", source=ipaddress.ip_address("10.1.0.1"))
    with_route = Machine(
        interfaces=machine_with_both.interfaces, destinations=machine_with_both.destinations, route_to=lambda _: route
    )

    choice = choose(["10.1.0.9"], environment={}, machine=with_route)

    assert choice.warnings == ["gloo will use the first address of eth0, 192.168.1.1, where 10.1.0.1 would be right"]


# --- what the user says ---


@pytest.mark.parametrize(
    ("variable", "value", "allowed"),
    [
        (given.GLOO, "eth0", ("eth0",)),
        (given.GLOO, "eth", ()),
        (given.GLOO, "ib0, eth1", ("eth1", "ib0")),
        (given.NCCL, "eth", ("eth0", "eth1")),
        (given.NCCL, "=eth", ()),
        (given.NCCL, "=eth1,ib0", ("eth1", "ib0")),
        (given.NCCL, "^lo,eth", ("ib0",)),
        (given.NCCL, "^=eth0", ("lo", "eth1", "ib0")),
        (given.NCCL, "", None),
    ],
)
def test_each_library_has_a_grammar_of_its_own(variable, value, allowed):
    found = given.read({variable: value}, ["lo", "eth0", "eth1", "ib0"])

    assert [each.allowed for each in found] == ([] if allowed is None else [allowed])


def test_both_libraries_are_told_unless_the_user_did():
    assert given.to_set("eth0", {}) == {"GLOO_SOCKET_IFNAME": "eth0", "NCCL_SOCKET_IFNAME": "=eth0"}
    assert given.to_set("eth0", {"NCCL_SOCKET_IFNAME": "ib"}) == {"GLOO_SOCKET_IFNAME": "eth0"}


def test_the_user_wins_over_the_route_and_is_told_what_speaks_against_it():
    choice = choose(["10.1.0.9"], environment={given.GLOO: "eth1"}, machine=machine(ETH0, ETH1))

    assert (choice.interface, choice.address, choice.reason) == ("eth1", "10.2.0.1", "the environment says so")
    assert "GLOO_SOCKET_IFNAME=eth1 does not lead to the other workers" in choice.warnings[0]


def test_variables_that_contradict_each_other_are_told():
    says = {given.GLOO: "eth0", given.NCCL: "=eth1"}

    choice = choose(["10.1.0.9"], environment=says, machine=machine(ETH0, ETH1))

    assert choice.interface == "eth0"
    assert choice.warnings == ["NCCL_SOCKET_IFNAME==eth1 contradicts GLOO_SOCKET_IFNAME=eth0"]


def test_a_variable_that_names_nothing_is_told_and_the_route_counts():
    choice = choose(["10.1.0.9"], environment={given.GLOO: "enp1s0"}, machine=machine(ETH0))

    assert choice.interface == "eth0"
    assert choice.warnings == ["GLOO_SOCKET_IFNAME=enp1s0 names no interface of this machine, which has lo, eth0"]


# --- the kernel's own answers ---


@pytest.mark.skipif(not netlink.is_available(), reason="not Linux")
def test_the_kernel_says_that_loopback_leads_here():
    assert any(each.is_loopback and each.addresses for each in netlink.interfaces())
    route = netlink.route_to(ipaddress.ip_address("127.0.0.1"))
    assert route and route.is_local and route.interface == "lo"


# --- probes ---


def test_who_has_the_token_gets_an_answer_and_is_remembered():
    with probe.Responder(["127.0.0.1"], TOKEN) as responder:
        answer = probe.ask(responder.targets[0], TOKEN, 3)

    assert answer and 0 < answer.round_trip_s < 1
    assert abs(answer.clock_ahead_s) < 0.1
    assert responder.heard == {"127.0.0.1": {3}}


def test_who_lacks_the_token_is_not_answered_nor_remembered():
    with probe.Responder(["127.0.0.1"], TOKEN) as responder:
        (target,) = responder.targets
        assert probe.ask(target, b"x" * 32, 3, tries=1, wait_s=0.1) is None
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
            stranger.settimeout(0.1)
            stranger.sendto(b"hello", target)
            with pytest.raises(TimeoutError):
                stranger.recv(100)

    assert responder.heard == {"127.0.0.1": set()}


def test_a_responder_listens_at_its_address_alone():
    with probe.Responder(["127.0.0.1"], TOKEN) as responder:
        port = responder.targets[0][1]
        assert probe.ask(("127.0.0.2", port), TOKEN, 3, tries=1, wait_s=0.1) is None


def test_verdicts_tell_one_way_from_no_way():
    heard = {"10.1.0.1": {1, 2}, "10.2.0.1": {1, 2}, "10.3.0.1": {1}}
    answered = {1: ["10.1.0.1", "10.2.0.1", "10.3.0.1"], 2: ["10.2.0.1"]}

    found = probe.verdicts(heard, answered, {1: "a", 2: "b"})

    assert found == {
        "10.1.0.1": "is one-way: what b sends to 10.1.0.1 arrives, but no answer gets back to it",
        "10.2.0.1": "",
        "10.3.0.1": "is not reached by b at 10.3.0.1",
    }


# --- rates ---


def test_a_rate_is_that_of_who_has_the_token():
    with rate.Receiver("127.0.0.1", TOKEN) as receiver:
        threads = [
            threading.Thread(target=rate.send, args=(receiver.target, token, 0.1)) for token in (b"x" * 32, TOKEN)
        ]
        for thread in threads:
            thread.start()
            time.sleep(0.05)
        found = receiver.bits_per_s(0.1)
        for thread in threads:
            thread.join()

    assert found and found > 10e6


def test_nobody_who_sends_is_not_waited_for_longer_than_agreed():
    with rate.Receiver("127.0.0.1", TOKEN) as receiver:
        assert receiver.bits_per_s(0.1, wait_s=0.1) is None
