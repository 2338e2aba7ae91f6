"""The interface for this job's traffic: the one by which the kernel sends packets to the peers, whatever its name is.

    peers -> their addresses -> the kernel's route to each -> the interface that has the route's source address
                                        + what was found out by asking (probe), which outweighs any route

Every other interface is named with the reason why not: docker0 is fine where it leads to the peers, and eth0 is not
where it doesn't. gloo and NCCL connect by the kernel's routes as well; what they are told by an interface's name is the
address at which the others are to find them.
"""

import ipaddress
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from distdl.errors import UserError
from distdl.net import given, netlink
from distdl.net.given import Given
from distdl.net.netlink import Address, Destinations, Interface, Route


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    interface: str
    address: str  # of this machine, at which the peers find it
    reason: str
    rejected: list[tuple[str, str]]  # each other interface, and why not
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What the kernel says of this machine's network."""

    interfaces: Sequence[Interface]
    destinations: Sequence[Destinations]
    route_to: Callable[[Address], Route | None]

    def holder(self, address: Address) -> Interface | None:
        return next((i for i in self.interfaces if address in [own.ip for own in i.addresses]), None)

    def leads(self, interface: str, address: Address) -> bool:
        """Whether there is a route to `address` by that interface, be it that the kernel prefers another one."""
        return any(each.interface == interface and address in each.network for each in self.destinations)


def read_machine() -> Machine:
    return Machine(interfaces=netlink.interfaces(), destinations=netlink.destinations(), route_to=netlink.route_to)


def choose(
    peers: Sequence[str],
    *,
    environment: Mapping[str, str] = os.environ,
    tried: Mapping[str, str] | None = None,
    machine: Machine | None = None,
) -> Choice:
    """`peers`: names or addresses of the other machines, or the master's, be it this machine.

    `tried`: own address -> "" if it was found to work both ways, or else why not. Raises UserError if no interface
    leads to the peers, with what is wrong with each.
    """
    machine = machine or read_machine()
    places = [_Place.find(peer, machine) for peer in peers]
    others = [place for place in places if not place.is_here]
    own = [place.address for place in places if place.is_here and not place.address.is_loopback]
    if not others and not own:
        return _loopback(machine)
    verdicts = {i.name: _why_not(i, others, own, machine, tried or {}) for i in machine.interfaces}
    usable = [i for i in machine.interfaces if not verdicts[i.name]]
    ranked = sorted(usable, key=lambda i: -_likeness_to_route(i, others, own))
    allowed, warnings = _allowed(given.read(environment, [i.name for i in machine.interfaces]), ranked, machine)
    if not allowed:
        raise _no_way(others, verdicts)
    best = allowed[0]
    address = _address_of(best, others, own, tried or {})
    warnings += _unused_routes(best, ranked, others) + _other_first_address(best, address)
    return Choice(
        interface=best.name,
        address=str(address),
        reason=_reason(best, others, own, tried or {}, address, verdicts),
        rejected=[
            (i.name, verdicts[i.name] or _why_second(i, best, others, ranked)) for i in machine.interfaces if i != best
        ],
        warnings=warnings,
    )


def candidates(machine: Machine) -> list[tuple[str, Address]]:
    """The addresses of this machine at which others could try to find it: (interface, address)."""
    return [
        (i.name, own.ip)
        for i in machine.interfaces
        if i.is_up and i.has_carrier and not i.is_loopback
        for own in i.addresses
        if not own.ip.is_link_local
    ]


def resolve(peer: str) -> list[Address]:
    """The addresses of a name, in the order in which they are to be tried. Raises UserError."""
    try:
        found = socket.getaddrinfo(peer, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise UserError(
            f"'{peer}' can't be resolved to an address ({getattr(error, 'strerror', None) or error})",
            where="network",
            fix="Give its address, or add it to /etc/hosts or the name server.",
        ) from None
    return [ipaddress.ip_address(place[0]) for _, _, _, _, place in found]


# --- where the peers are ---


@dataclass(frozen=True, slots=True)
class _Place:
    peer: str
    address: Address
    route: Route | None  # None: the kernel knows no way
    interface: str  # that has the address from which packets leave for it

    @property
    def is_here(self) -> bool:
        return self.address.is_loopback or (self.route is not None and self.route.is_local)

    @property
    def shown(self) -> str:
        return self.peer if self.peer == str(self.address) else f"{self.peer} ({self.address})"

    @classmethod
    def find(cls, peer: str, machine: Machine) -> "_Place":
        """By the first of its addresses to which there is a way."""
        addresses = resolve(peer)
        for address in addresses:
            if route := machine.route_to(address):
                holder = machine.holder(route.source)
                return cls(peer, address, route, holder.name if holder else route.interface)
        return cls(peer, addresses[0], None, "")


# --- what is wrong with an interface ---


def _why_not(
    interface: Interface,
    others: Sequence[_Place],
    own: Sequence[Address],
    machine: Machine,
    tried: Mapping[str, str],
) -> str:
    """Why it can't be taken; "" if it can."""
    addresses = [each.ip for each in interface.addresses]
    if interface.is_loopback and not any(address in addresses for address in own):
        return "leads to this machine alone"
    if not interface.is_up:
        return "is down"
    if not interface.has_carrier:
        return "has no carrier: no cable, or nothing at its other end"
    if not _meant_for_others(interface, others):
        link_local = " but a link-local one, which leads no further than its cable" if addresses else ""
        return f"has no address{link_local}" + (f" (it is a port of {interface.port_of})" if interface.port_of else "")
    found = [tried[str(address)] for address in addresses if str(address) in tried]
    if "" in found:
        return ""
    if found:
        return found[0]
    if "" in tried.values():
        return "was not found to work"
    if not others:
        return "" if any(address in addresses for address in own) else f"does not have the address {own[0]}"
    return next(filter(None, (_why_not_to(interface, place, machine) for place in others)), "")


def _why_not_to(interface: Interface, place: _Place, machine: Machine) -> str:
    if place.interface == interface.name:
        return ""
    version = place.address.version
    if not any(address.version == version for address in _meant_for_others(interface, [place])):
        return f"has no IPv{version} address, as {place.shown} has"
    if not machine.leads(interface.name, place.address):
        return f"has no route to {place.shown}" + (f" (it is a {interface.kind})" if interface.kind else "")
    return ""


def _meant_for_others(interface: Interface, others: Sequence[_Place]) -> list[Address]:
    is_near = any(place.address.is_link_local for place in others)
    return [own.ip for own in interface.addresses if is_near or not own.ip.is_link_local]


def _why_second(interface: Interface, best: Interface, others: Sequence[_Place], ranked: Sequence[Interface]) -> str:
    if best in ranked and ranked.index(interface) > ranked.index(best):
        return f"leads there too, but the kernel sends by {best.name}"
    return f"leads there too, but {best.name} is what the environment says"


def _no_way(others: Sequence[_Place], verdicts: Mapping[str, str]) -> UserError:
    to = ", ".join(dict.fromkeys(place.shown for place in others)) or "this machine's own address"
    listed = "\n".join(f"  {name} {why or 'is not what the environment says'}" for name, why in verdicts.items())
    return UserError(
        f"no interface leads to {to}",
        where="network",
        fix=f"Is the address right, and the link up?\n{listed}",
    )


# --- which of those that can be taken ---


def _likeness_to_route(interface: Interface, others: Sequence[_Place], own: Sequence[Address]) -> int:
    """The number of peers to which the kernel sends by it, or for which it carries this machine's address."""
    carried = sum(address in [each.ip for each in interface.addresses] for address in own)
    return carried + sum(place.interface == interface.name for place in others)


def _allowed(
    set_by_user: Sequence[Given], ranked: list[Interface], machine: Machine
) -> tuple[list[Interface], list[str]]:
    """Those of `ranked` that the environment allows, or what it says even where nothing speaks for it."""
    allowed, warnings = ranked, []
    for each in set_by_user:
        if not each.allowed:
            here = ", ".join(i.name for i in machine.interfaces)
            warnings.append(f"{each.shown} names no interface of this machine, which has {here}")
            continue
        kept = [i for i in allowed if i.name in each.allowed]
        if kept:
            if kept[0] != allowed[0]:
                warnings.append(f"{each.shown}: without it, it would be {allowed[0].name}, which the kernel prefers")
            allowed = kept
        elif each is set_by_user[0]:
            allowed = [i for i in machine.interfaces if i.name in each.allowed and i.addresses]
            better = f"; {ranked[0].name} does" if ranked else ""
            warnings.append(f"{each.shown} does not lead to the other workers, as far as the kernel knows{better}")
        else:
            warnings.append(f"{each.shown} contradicts {set_by_user[0].shown}")
    return allowed, warnings


def _address_of(
    interface: Interface, others: Sequence[_Place], own: Sequence[Address], tried: Mapping[str, str]
) -> Address:
    here = [each.ip for each in interface.addresses]
    sources = [place.route.source for place in others if place.route]
    wanted = [a for a in here if tried.get(str(a)) == ""] or [a for a in here if a in sources or a in own]
    same_kind = [a for a in here if others and a.version == others[0].address.version]
    in_order = [a for a in wanted if a in sources] or wanted or same_kind or here
    return in_order[0]


def _reason(
    interface: Interface,
    others: Sequence[_Place],
    own: Sequence[Address],
    tried: Mapping[str, str],
    address: Address,
    verdicts: Mapping[str, str],
) -> str:
    proof = ", and was found to work both ways" if tried.get(str(address)) == "" else ""
    routed = [place for place in others if place.interface == interface.name]
    if routed:
        route = routed[0].route
        via = f" (through {route.gateway})" if route and route.gateway else ""
        more = f" and {len(routed) - 1} more" if len(routed) > 1 else ""
        return f"the kernel sends to {routed[0].shown}{more} by it{via}{proof}"
    if any(each.ip in own for each in interface.addresses):
        return f"it has the address {address}, by which the others find this machine{proof}"
    if proof:
        return "it was found to work both ways, and what the kernel prefers was not"
    unusable = next((place for place in others if verdicts.get(place.interface)), None)
    if unusable is None:
        return "the environment says so"
    why = verdicts[unusable.interface]
    return f"it leads to {unusable.shown}, and {unusable.interface}, by which the kernel sends, {why}"


def _unused_routes(best: Interface, ranked: Sequence[Interface], others: Sequence[_Place]) -> list[str]:
    """A job uses one interface: where the kernel would use two that are usable both, this is worth a word."""
    usable = [i.name for i in ranked]
    elsewhere = [place for place in others if place.interface in usable and place.interface != best.name]
    if not elsewhere or not any(place.interface == best.name for place in others):
        return []
    listed = ", ".join(f"{place.shown} by {place.interface}" for place in elsewhere)
    return [f"the kernel sends to {listed}, but a job uses one interface: {best.name}"]


def _other_first_address(interface: Interface, address: Address) -> list[str]:
    """gloo takes the first address of an interface."""
    first = interface.addresses[0]
    if first.ip == address or address in first.network:
        return []
    return [f"gloo will use the first address of {interface.name}, {first.ip}, where {address} would be right"]


def _loopback(machine: Machine) -> Choice:
    loopback = next((i for i in machine.interfaces if i.is_loopback), None)
    name = loopback.name if loopback else "lo"
    return Choice(
        interface=name,
        address="127.0.0.1",
        reason="no other machine takes part",
        rejected=[(i.name, "is not needed on one machine") for i in machine.interfaces if i.name != name],
    )
