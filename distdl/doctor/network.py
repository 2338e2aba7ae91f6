"""Which interface would be used, and why no other one: by the kernel's routes, as far as one machine can tell alone."""

from collections.abc import Sequence
from typing import Any

from distdl.doctor import check
from distdl.doctor.check import Check
from distdl.errors import UserError
from distdl.net import netlink
from distdl.net.choose import ANYWHERE, Choice, choose


def check_alone() -> Check:
    """On one machine loopback is used; which interface leads away from it is worth knowing all the same."""
    if not netlink.is_available():
        return check.ok("interface", "not known on this system: gloo and NCCL choose")
    try:
        choice = choose([ANYWHERE])
    except UserError as error:
        return check.ok("interface", "lo, on this machine alone: no route leads to others", details=_reasons(error))
    text = f"lo, on this machine alone; away from it {choice.interface} ({choice.address}) leads"
    return told(text, choice)


def check_hosts(hosts: Sequence[str]) -> list[Check]:
    """The way to each of some other machines, and the one interface for all of them."""
    checks = []
    for host in hosts:
        try:
            choice = choose([host])
            text = f"by {choice.interface} from {choice.address}: {choice.reason}"
            checks.append(check.ok(f"host {host}", text, values=_values(choice)))
        except UserError as error:
            checks.append(check.failed(f"host {host}", error.what, error.fix.partition("\n")[0]))
    try:
        choice = choose(hosts)
        checks.append(told(f"{choice.interface} ({choice.address}): {choice.reason}", choice))
    except UserError as error:
        checks.append(check.failed("interface", error.what, error.fix))
    return checks


def told(text: str, choice: Choice) -> Check:
    """With every other interface, and why it is not taken."""
    rejected = [f"not {name}: {why}" for name, why in choice.rejected]
    if choice.warnings:
        fix = "Look at GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME, and at `ip route`."
        text = f"{text}; but {'; '.join(choice.warnings)}"
        return check.warning("interface", text, fix, details=rejected, values=_values(choice))
    return check.ok("interface", text, details=rejected, values=_values(choice))


def _values(choice: Choice) -> dict[str, Any]:
    return {
        "interface": choice.interface,
        "address": choice.address,
        "reason": choice.reason,
        "rejected": dict(choice.rejected),
    }


def _reasons(error: UserError) -> list[str]:
    return [f"not {line.strip()}" for line in error.fix.splitlines()[1:]]
