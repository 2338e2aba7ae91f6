"""Lists as Slurm writes them: of hosts, and of how many tasks each has."""

import math
import re
from itertools import product

MOST_HOSTS = 100_000  # that a list may stand for

_WORD = r"[A-Za-z0-9._-]+"
_LISTED = re.compile(r"(?:[A-Za-z0-9._-]|\[[0-9,-]+\])+")
_RANGE = re.compile(r"(\d+)(?:-(\d+))?")


def expand(hosts: str) -> list[str]:
    """`node[1-3,07],head` as the names of hosts. Raises ValueError on anything that is no such list."""
    found: list[str] = []
    for listed in _split(hosts):
        if not _LISTED.fullmatch(listed):
            raise ValueError(f"{hosts[:200]!r} is no list of hosts")
        parts = [_numbers(part) for part in re.findall(rf"{_WORD}|\[[0-9,-]+\]", listed)]
        if len(found) + math.prod(map(len, parts)) > MOST_HOSTS:
            raise ValueError(f"{hosts[:200]!r} stands for too many hosts")
        found += ["".join(each) for each in product(*parts)]
    return found


def _split(hosts: str) -> list[str]:
    """At the commas outside of brackets."""
    return re.split(r",(?![^\[]*\])", hosts)


def _numbers(part: str) -> list[str]:
    """`[1-3,07]` -> 1, 2, 3, 07; anything without brackets is itself."""
    if not part.startswith("["):
        return [part]
    found: list[str] = []
    for each in part[1:-1].split(","):
        match = _RANGE.fullmatch(each)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if not match or not 0 <= last - first < MOST_HOSTS:
            raise ValueError(f"{part[:200]!r} is no range of hosts")
        found += [str(number).zfill(len(match[1])) for number in range(first, last + 1)]
    return found


def tasks_per_node(text: str) -> list[int]:
    """`2(x3),1` -> [2, 2, 2, 1]. Raises ValueError on anything else."""
    found: list[int] = []
    for each in text.split(","):
        match = re.fullmatch(r"(\d{1,6})(?:\(x(\d{1,6})\))?", each)
        if not match or int(match[2] or 1) > MOST_HOSTS:
            raise ValueError(f"{text[:200]!r} does not say how many tasks each node has")
        found += [int(match[1])] * int(match[2] or 1)
    return found
