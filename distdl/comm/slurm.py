"""The tasks of a step of Slurm's `srun`: who this process is among them. Free of torch.

Where the tasks meet: slurm_meeting.py.
"""

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product

from distdl.errors import UserError

MOST_HOSTS = 100_000  # that a list may stand for

_WORD = r"[A-Za-z0-9._-]+"
_LISTED = re.compile(r"(?:[A-Za-z0-9._-]|\[[0-9,-]+\])+")
_RANGE = re.compile(r"(\d+)(?:-(\d+))?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A place in a step. Ranks follow one another on a node, whatever --distribution says: rank 0 is on the first."""

    rank: int
    size: int
    local_rank: int
    local_size: int
    node: int
    hosts: list[str]  # of the step
    word: str  # that all its tasks know


def task(environment: Mapping[str, str]) -> Task | None:
    """Of this process; None if it isn't one of several tasks of a step. Raises UserError if its variables clash."""
    if not is_one_of_several(environment):
        return None
    try:
        sizes = tasks_per_node(environment["SLURM_STEP_TASKS_PER_NODE"])
        hosts = expand(environment["SLURM_STEP_NODELIST"])
        node, local_rank = int(environment["SLURM_NODEID"]), int(environment["SLURM_LOCALID"])
        job = [environment[name] for name in ("SLURM_JOB_ID", "SLURM_STEP_ID")]
    except KeyError as error:
        raise UserError(f"{error.args[0]} is not set, though srun has started this process", where="Slurm") from None
    except ValueError as error:
        raise UserError(str(error), where="Slurm's variables SLURM_STEP_..., SLURM_NODEID, SLURM_LOCALID") from None
    if len(sizes) != len(hosts) or not 0 <= node < len(sizes) or not 0 <= local_rank < sizes[node]:
        raise UserError(
            f"task {local_rank} of node {node}, where {len(hosts)} nodes have {sizes} tasks", where="Slurm's variables"
        )
    job += [environment.get(name, "") for name in ("SLURM_CLUSTER_NAME", "SLURM_RESTART_COUNT", "SLURM_JOB_UID")]
    return Task(
        rank=sum(sizes[:node]) + local_rank,
        size=sum(sizes),
        local_rank=local_rank,
        local_size=sizes[node],
        node=node,
        hosts=hosts,
        word=hashlib.sha256(json.dumps(job).encode()).hexdigest(),
    )


def is_one_of_several(environment: Mapping[str, str]) -> bool:
    """Whether srun has started this process as one of several tasks: not as a batch script, nor by an mpirun that has
    srun start one helper on each node."""
    n = environment.get("SLURM_STEP_NUM_TASKS", "")
    if "SLURM_STEP_ID" not in environment or not n.isdigit() or int(n) < 2:
        return False
    return all(environment.get(name, n) == n for name in ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE"))


# --- lists ---


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
