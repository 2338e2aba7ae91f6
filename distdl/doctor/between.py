"""All workers together: the checks of every machine, and what lies between the machines.

    meet (store) -> each machine answers at all its addresses -> everyone asks everywhere -> who heard whom
      -> each machine's interface: of those that work both ways, the one the kernel sends by
      -> rates of all pairs, in rounds in which nobody is in two pairs, one direction after the other

One worker speaks for its machine. No process group is needed: gloo and NCCL would hang where this tells what is wrong.
"""

import contextlib
import platform
import secrets
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from distdl import __version__
from distdl.comm.meeting import Meeting, Unreachable
from distdl.comm.world import WorldInfo
from distdl.doctor import check, links, network
from distdl.doctor.check import Check
from distdl.doctor.links import Link
from distdl.errors import UserError
from distdl.net import choose, netlink, probe, rate

_STEP_WAIT_S = 30.0
_RATE_S = 0.4  # of each direction

Told = list[Any]  # by rank; None of a worker that did not come


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A machine: the rank of the worker that speaks for it, and what a reader calls it."""

    rank: int
    host: str
    addresses: list[str]


def check_together(world: WorldInfo, local: Sequence[Check], wait_s: float) -> list[Check]:
    """The checks of all machines, on every worker. A worker that can't meet the others says so itself."""
    try:
        with Meeting(world, wait_s) as meeting:
            return _check(meeting, world, local, wait_s)
    except Unreachable as error:
        fix = "Is MASTER_ADDR right and rank 0 started? Can a packet get there, and back? A firewall? See --hosts."
        alone = check.failed("workers", f"rank {world.rank} on {world.host} can't meet the others: {error}", fix)
        if world.rank != 0:
            print(check.shown([alone]), file=sys.stderr)
        return [*local, alone]


def _check(meeting: Meeting, world: WorldInfo, local: Sequence[Check], wait_s: float) -> list[Check]:
    addresses = _own_addresses()
    told = meeting.gather(
        {
            "host": world.host,
            "addresses": addresses,
            "versions": _versions(),
            "checks": [each.as_row() for each in local],
            "token": secrets.token_hex(probe.TOKEN_BYTES) if world.rank == 0 else "",
        },
        wait_s,
    )
    places = find_places(told)
    names = {place.rank: place.host for place in places}
    by_host = {place.host: [Check.from_row(row) for row in told[place.rank]["checks"]] for place in places}
    checks = [check_workers(told, len(places), wait_s), check_versions(told)]
    lost = [place.host for place in places if not place.addresses]
    if len(places) == 1:
        checks.append(network.check_alone())
    elif lost:
        fix = "Give it one: `ip address` shows what there is."
        checks.append(check.failed("interface", f"no address but loopback on {', '.join(lost)}", fix))
    else:
        measured = _Between(meeting, world, places, bytes.fromhex(told[0]["token"])).measure()
        for rank, row in measured.interfaces.items():
            by_host[names[rank]].append(Check.from_row(row))
        checks += measured.checks
    return [*check.merge(by_host), *checks]


def _own_addresses() -> list[str]:
    if not netlink.is_available():
        return []
    return [str(address) for _, address in choose.candidates(choose.read_machine())]


def find_places(told: Told) -> list[Place]:
    """The machines: workers with the same host name and the same addresses are on one."""
    first: dict[tuple[str, tuple[str, ...]], int] = {}
    for rank, each in enumerate(told):
        if each is not None:
            first.setdefault((each["host"], tuple(each["addresses"])), rank)
    n_called = Counter(host for host, _ in first)
    return [
        Place(
            rank=rank,
            host=f"{host} ({addresses[0]})" if n_called[host] > 1 and addresses else host,
            addresses=list(addresses),
        )
        for (host, addresses), rank in first.items()
    ]


# --- the workers ---


def check_workers(told: Told, n_places: int, wait_s: float) -> Check:
    n_here = sum(each is not None for each in told)
    text = f"{n_here} of {len(told)} on {n_places} machine{'s' if n_places > 1 else ''}"
    missing = [str(rank) for rank, each in enumerate(told) if each is None]
    if not missing:
        return check.ok("workers", text, values={"workers": n_here, "machines": n_places})
    what = f"{text}: rank{'s' if len(missing) > 1 else ''} {', '.join(missing)} did not come within {wait_s:g} s"
    return check.failed("workers", what, "Were they started, and with the same MASTER_ADDR and MASTER_PORT?")


def check_versions(told: Told) -> Check:
    here = [each for each in told if each is not None]
    unlike = []
    for name in here[0]["versions"]:
        found: dict[str, list[str]] = {}
        for each in here:
            hosts = found.setdefault(each["versions"][name], [])
            if each["host"] not in hosts:
                hosts.append(each["host"])
        if len(found) > 1:
            unlike.append(", ".join(f"{name} {version} on {'/'.join(hosts)}" for version, hosts in found.items()))
    if unlike:
        fix = "Install the same on all machines, or start from one environment that all see."
        return check.failed("same software", "; ".join(unlike), fix)
    shown = ", ".join(f"{name} {version}" for name, version in here[0]["versions"].items())
    return check.ok("same software", shown)


def _versions() -> dict[str, str]:
    import torch

    return {"distdl": __version__, "python": platform.python_version(), "torch": torch.__version__}


# --- between machines ---


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    interfaces: dict[int, dict[str, Any]]  # a check's row of each machine
    checks: list[Check]


class _Between:
    """The steps of the module's docstring, which all workers take alike."""

    def __init__(self, meeting: Meeting, world: WorldInfo, places: Sequence[Place], token: bytes) -> None:
        self._meeting, self._rank, self._token = meeting, world.rank, token
        self._names = {place.rank: place.host for place in places}
        self._speaks = world.rank in self._names
        self._addresses = next((place.addresses for place in places if place.rank == world.rank), [])
        self._elsewhere = [place.addresses[0] for place in places if place.rank != world.rank]

    def measure(self) -> Measured:
        answers, heard = self._ask_everywhere()
        mine = self._choose(answers, heard) if self._speaks else None
        chosen = {rank: each for rank, each in enumerate(self._gather(mine)) if each}
        at = {rank: each["address"] for rank, each in chosen.items() if each["address"]}
        got = {
            (asker, place): answers[asker][_key(place, address)]
            for place, address in at.items()
            for asker in self._names
            if answers[asker] and _key(place, address) in answers[asker]
        }
        came = {(asker, place) for place, address in at.items() for asker in heard[place].get(address, ())}
        good = {(a, b) for a, b in got if links.works(a, b, got)}
        rates = self._rates(at, good)
        first = min(self._names)
        names = {rank: _named(name, at.get(rank, "")) for rank, name in self._names.items()}
        no_address = [rank for rank in self._names if rank not in at]
        return Measured(
            interfaces={rank: each["check"] for rank, each in chosen.items()},
            checks=[
                links.check_reach(names, got, came, no_address),
                links.check_latency(names, {link: got[link][0] for link in sorted(good)}),
                links.check_rates(names, rates),
                links.check_clocks(names, {b: clock for (a, b), (_, clock) in got.items() if a == first}),
            ],
        )

    def _gather(self, value: Any) -> Told:
        return self._meeting.gather(value, _STEP_WAIT_S)

    def _ask_everywhere(self) -> tuple[Told, Told]:
        """Of each rank: key of a target -> round trip and clock of its answer; own address -> who asked there."""
        with probe.Responder(self._addresses, self._token, self._rank) as responder:
            targets = {
                _key(rank, address): (address, port)
                for rank, each in enumerate(self._gather(responder.targets))
                if rank in self._names and rank != self._rank and each
                for address, port in each
            }
            asked = probe.ask_all(targets, self._token, self._rank) if self._speaks else {}
            right = {key: a for key, a in asked.items() if a and key.startswith(_key(a.who, ""))}
            answers = self._gather({key: [a.round_trip_s, a.clock_ahead_s] for key, a in right.items()})
            heard = self._gather({address: sorted(ranks) for address, ranks in responder.heard.items()})
        return answers, [each or {} for each in heard]

    def _choose(self, answers: Told, heard: Told) -> dict[str, Any]:
        """This machine's interface and address, and the check that tells of them."""
        others = {rank: name for rank, name in self._names.items() if rank != self._rank}
        answered = {
            rank: [own for own in self._addresses if _key(self._rank, own) in (answers[rank] or {})] for rank in others
        }
        tried = probe.verdicts(heard[self._rank], answered, others)
        if "" not in tried.values():  # none works with all of them: those that work with most are left to the routes
            n_peers = {own: sum(own in each for each in answered.values()) for own in tried}
            tried = {own: why for own, why in tried.items() if n_peers[own] < max(n_peers.values())}
        reached: dict[str, str] = {}  # rank -> the first of its addresses that answered here
        for key in answers[self._rank]:
            rank, _, address = key.partition(" ")
            reached.setdefault(rank, address)
        try:
            choice = choose.choose(list(reached.values()) or self._elsewhere, tried=tried)
        except UserError as error:
            row = check.failed("interface", error.what, error.fix).as_row()
            return {"address": "", "check": row}
        text = f"{choice.interface} ({choice.address}): {choice.reason}"
        return {"address": choice.address, "check": network.told(text, choice).as_row()}

    def _rates(self, at: dict[int, str], good: set[Link]) -> dict[Link, float]:
        """Bits a second of each link that works both ways."""
        mine: dict[str, float] = {}  # what came here, by the sender's rank
        for pairs in links.rounds(sorted(at)):
            pair = next((pair for pair in pairs if self._rank in pair and pair in good), None)
            with contextlib.ExitStack() as stack:
                receiver = stack.enter_context(rate.Receiver(at[self._rank], self._token)) if pair else None
                targets = self._gather(receiver.target if receiver else None)
                if pair is None or receiver is None:
                    continue
                other = pair[pair[0] == self._rank]
                for sender in pair:
                    if sender == self._rank and targets[other]:
                        with contextlib.suppress(OSError):  # the receiver says that nothing came
                            rate.send(tuple(targets[other]), self._token, _RATE_S)
                    elif sender != self._rank:
                        mine[str(other)] = receiver.bits_per_s(_RATE_S) or 0.0
        return {
            (int(sender), receiver): found
            for receiver, each in enumerate(self._gather(mine))
            for sender, found in (each or {}).items()
        }


def _key(rank: int, address: str) -> str:
    return f"{rank} {address}"


def _named(host: str, address: str) -> str:
    return host if not address or address in host else f"{host} ({address})"
