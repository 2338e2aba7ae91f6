"""Interfaces, addresses and routes, asked of the kernel itself (rtnetlink): images often lack the program `ip`.

Numbers are those of <linux/netlink.h>, <linux/rtnetlink.h>, <linux/if_link.h> and <linux/if_addr.h>.
"""

import errno
import ipaddress
import os
import socket
import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Interfaced = ipaddress.IPv4Interface | ipaddress.IPv6Interface

_DONE, _ERROR = 3, 2
_GET_LINK, _GET_ADDRESS, _GET_ROUTE = 18, 22, 26
_REQUEST, _DUMP = 0x1, 0x300
_IS_UP, _IS_LOOPBACK, _HAS_CARRIER = 0x1, 0x8, 0x10000
_IFLA_NAME, _IFLA_MASTER, _IFLA_INFO, _IFLA_INFO_KIND = 3, 10, 18, 1
_IFA_ADDRESS, _IFA_LOCAL = 1, 2
_RTA_DESTINATION, _RTA_INTERFACE, _RTA_GATEWAY, _RTA_SOURCE, _RTA_SEVERAL = 1, 4, 5, 7, 9
_UNICAST, _LOCAL = 1, 2
_TIMEOUT_S = 5.0

Message = tuple[bytes, dict[int, bytes]]  # the fixed part, attributes by number


@dataclass(frozen=True, slots=True, kw_only=True)
class Interface:
    name: str
    index: int
    is_up: bool = True
    has_carrier: bool = True
    is_loopback: bool = False
    kind: str = ""  # of a virtual one: bridge, veth, vlan, bond, tun, ...
    port_of: str = ""  # the bridge or bond that it is a part of
    addresses: tuple[Interfaced, ...] = ()  # with the length of their network's prefix


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    interface: str
    source: Address
    gateway: str = ""
    is_local: bool = False  # it leads to this machine itself


@dataclass(frozen=True, slots=True, kw_only=True)
class Destinations:
    """Where packets go that leave by an interface."""

    interface: str
    network: Network


def is_available() -> bool:
    return sys.platform == "linux" and hasattr(socket, "AF_NETLINK")


def interfaces() -> list[Interface]:
    """Of this network namespace, in the kernel's order. Raises OSError."""
    addresses: dict[int, list[Interfaced]] = {}
    for fixed, attributes in _ask(_GET_ADDRESS, bytes(8)):
        prefix, index = fixed[1], struct.unpack_from("=I", fixed, 4)[0]
        packed = attributes.get(_IFA_LOCAL) or attributes.get(_IFA_ADDRESS)
        if packed and len(packed) in (4, 16):
            addresses.setdefault(index, []).append(ipaddress.ip_interface((packed, prefix)))
    links = []
    for fixed, attributes in _ask(_GET_LINK, bytes(16)):
        index, flags = struct.unpack_from("=iI", fixed, 4)
        info = dict(_attributes(attributes.get(_IFLA_INFO, b"")))
        links.append((index, flags, attributes, _text(info.get(_IFLA_INFO_KIND, b""))))
    names = {index: _text(attributes[_IFLA_NAME]) for index, _, attributes, _ in links}
    return [
        Interface(
            name=names[index],
            index=index,
            is_up=bool(flags & _IS_UP),
            has_carrier=bool(flags & _HAS_CARRIER),
            is_loopback=bool(flags & _IS_LOOPBACK),
            kind=kind,
            port_of=names.get(_number(attributes.get(_IFLA_MASTER, bytes(4))), ""),
            addresses=tuple(addresses.get(index, ())),
        )
        for index, flags, attributes, kind in links
    ]


def route_to(address: Address) -> Route | None:
    """The way that the kernel sends packets to `address`; None if it knows none. Raises OSError for anything else."""
    family, bits = _family(address), address.max_prefixlen
    attributes = _attribute(_RTA_DESTINATION, address.packed)
    if scope := getattr(address, "scope_id", None):
        attributes += _attribute(_RTA_INTERFACE, struct.pack("=I", _index(scope)))
    try:
        found = list(
            _ask(_GET_ROUTE, struct.pack("=BBBBBBBBI", family, bits, 0, 0, 0, 0, 0, 0, 0) + attributes, dump=0)
        )
    except OSError as error:
        if error.errno in (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EACCES, errno.EINVAL, errno.ESRCH):
            return None  # EACCES: a route that says "prohibited"; EINVAL: a black hole
        raise
    fixed, answer = found[0]
    kind, source = fixed[7], answer.get(_RTA_SOURCE)
    if kind not in (_UNICAST, _LOCAL) or source is None or _RTA_INTERFACE not in answer:
        return None
    gateway = answer.get(_RTA_GATEWAY)
    return Route(
        interface=socket.if_indextoname(_number(answer[_RTA_INTERFACE])),
        source=ipaddress.ip_address(source),
        gateway=str(ipaddress.ip_address(gateway)) if gateway else "",
        is_local=kind == _LOCAL,
    )


def destinations() -> list[Destinations]:
    """All routes to other machines, of all tables: who could lead where, whichever of them the kernel prefers."""
    names = dict(socket.if_nameindex())
    found = []
    for fixed, attributes in _ask(_GET_ROUTE, bytes(12)):
        family, length, kind = fixed[0], fixed[1], fixed[7]
        if kind != _UNICAST or family not in (socket.AF_INET, socket.AF_INET6):
            continue
        packed = attributes.get(_RTA_DESTINATION, bytes(4 if family == socket.AF_INET else 16))
        indices = [_number(attributes[_RTA_INTERFACE])] if _RTA_INTERFACE in attributes else []
        indices += _next_hops(attributes.get(_RTA_SEVERAL, b""))
        network = ipaddress.ip_network((packed, length), strict=False)
        found += [Destinations(interface=names[i], network=network) for i in indices if i in names]
    return found


# --- messages ---


def _ask(kind: int, payload: bytes, dump: int = _DUMP) -> Iterator[Message]:
    sizes = {_GET_LINK: 16, _GET_ADDRESS: 8, _GET_ROUTE: 12}
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as asking:
        asking.settimeout(_TIMEOUT_S)
        asking.sendto(struct.pack("=IHHII", 16 + len(payload), kind, _REQUEST | dump, 1, 0) + payload, (0, 0))
        while True:
            content = asking.recv(1 << 17)
            while len(content) >= 16:
                length, answer = struct.unpack_from("=IH", content)
                body, content = content[16:length], content[_aligned(length) :]
                if answer == _DONE:
                    return
                if answer == _ERROR:
                    code = -struct.unpack_from("=i", body)[0]
                    raise OSError(code, os.strerror(code))
                yield body[: sizes[kind]], dict(_attributes(body[sizes[kind] :]))
                if not dump:
                    return


def _attributes(content: bytes) -> Iterator[tuple[int, bytes]]:
    while len(content) >= 4:
        length, kind = struct.unpack_from("=HH", content)
        if length < 4:
            return
        yield kind & 0x3FFF, content[4:length]  # without the flags "nested" and "network byte order"
        content = content[_aligned(length) :]


def _attribute(kind: int, value: bytes) -> bytes:
    padding = bytes(_aligned(len(value)) - len(value))
    return struct.pack("=HH", 4 + len(value), kind) + value + padding


def _next_hops(content: bytes) -> Iterator[int]:
    """The interfaces of a route with several (struct rtnexthop)."""
    while len(content) >= 8:
        length, _, _, index = struct.unpack_from("=HBBi", content)
        if length < 8:
            return
        yield index
        content = content[_aligned(length) :]


def _aligned(length: int) -> int:
    return (length + 3) & ~3


def _number(value: bytes) -> int:
    return int.from_bytes(value[:4], sys.byteorder)


def _text(value: bytes) -> str:
    return value.rstrip(b"\0").decode(errors="replace")


def _family(address: Address) -> int:
    return socket.AF_INET if address.version == 4 else socket.AF_INET6


def _index(scope: str) -> int:
    return int(scope) if scope.isdigit() else socket.if_nametoindex(scope)
