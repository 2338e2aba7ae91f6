"""What the user's own GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME allow, each in its library's grammar.

gloo    eth0,eth1            these interfaces, by their whole names
NCCL    eth,ib               whose names begin so;  =eth0,=ib0  by their whole names;  ^docker,lo  all but these
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

GLOO, NCCL = "GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    variable: str
    value: str
    allowed: tuple[str, ...]  # of the interfaces that are here

    @property
    def shown(self) -> str:
        return f"{self.variable}={self.value}"


def read(environment: Mapping[str, str], names: Sequence[str]) -> list[Given]:
    """What is set of the two variables; gloo's first, since it carries what every job needs."""
    found = []
    for variable, matches in ((GLOO, _gloo), (NCCL, _nccl)):
        if value := environment.get(variable, "").strip():
            found.append(Given(variable=variable, value=value, allowed=tuple(n for n in names if matches(value, n))))
    return found


def to_set(interface: str, environment: Mapping[str, str]) -> dict[str, str]:
    """The variables for both libraries, without those that the user has set."""
    wanted = {GLOO: interface, NCCL: f"={interface}"}
    return {name: value for name, value in wanted.items() if not environment.get(name, "").strip()}


def _gloo(value: str, name: str) -> bool:
    return name in [each.strip() for each in value.split(",")]


def _nccl(value: str, name: str) -> bool:
    sign = value[: len(value) - len(value.lstrip("^="))]
    words = [each.strip().lstrip("=") for each in value[len(sign) :].split(",")]
    found = name in words if "=" in sign else any(name.startswith(word) for word in words if word)
    return found != ("^" in sign)
