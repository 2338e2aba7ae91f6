"""The tasks of a step of Slurm's `srun`: who this process is among them. Free of torch.

Where the tasks meet: slurm_meeting.py.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass

from distdl.errors import UserError
from distdl.launch.slurm.lists import expand, tasks_per_node


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
