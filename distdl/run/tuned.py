"""What `distdl bench comm` found out about this machine, for runs that come later. Free of torch.

A JSON file for each (host, nodes, workers on a node) in this user's state folder, with an entry for each backend: when
and with which torch it was measured, the all-reduce's rows, and the size of a gradient bucket that follows from them.
"""

import json
import os
import re
import socket
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from distdl.config.schema import Config
from distdl.run.folder import write_json

LEAST_MIB, MOST_MIB = 1.0, 64.0
_MIB = 2**20
_ENOUGH = 0.8  # of the best bandwidth
_FROM_MIB, _TO_MIB = 1, 16  # whole ones: what was measured may be a little more than what was asked for

Row = Mapping[str, Any]  # of it: size_bytes and algorithm_gb_per_s


def choose_bucket_mib(rows: Sequence[Row]) -> float:
    """The size of a gradient bucket in MiB: the smallest measured one at which the all-reduce comes to 80 % of the best
    algorithm bandwidth of all, but between 1 and 64.

    A bucket leaves when backward has filled it: the smaller they are, the earlier the first one leaves, and the less is
    left to wait for after backward. But each has the latency of a collective, which below that size outweighs what it
    carries. From there on the last 20 % of bandwidth cost more hiding than they save.
    """
    enough = _ENOUGH * max(row["algorithm_gb_per_s"] for row in rows)
    size_bytes = min(row["size_bytes"] for row in rows if row["algorithm_gb_per_s"] >= enough)
    return float(min(max(round(size_bytes / _MIB, 3), LEAST_MIB), MOST_MIB))


def is_enough(rows: Sequence[Row]) -> bool:
    """Whether the all-reduce was measured from at most 1 MiB up to at least 16: else the rule sees no difference."""
    sizes = [row["size_bytes"] for row in rows]
    return bool(sizes) and min(sizes) // _MIB <= _FROM_MIB and max(sizes) // _MIB >= _TO_MIB


def record(n_nodes: int, per_node: int, backend: str, rows: Sequence[Row], *, torch_version: str) -> Path:
    """Keeps the rows of the fp32 all-reduce, in place of the backend's former ones, and returns the file.

    Raises OSError if the state folder can't be written, RuntimeError if the user has no home.
    """
    path = _path(n_nodes, per_node)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    entry = {
        "date": time.strftime("%Y-%m-%d %H:%M:%S"),
        "torch": torch_version,
        "bucket_mib": choose_bucket_mib(rows),
        "all_reduce_fp32": [dict(row) for row in rows],
    }
    identity = {"host": socket.gethostname(), "n_nodes": n_nodes, "workers_per_node": per_node}
    write_json(path, {**identity, "backends": {**_entries(path), backend: entry}})
    return path


def bucket_mib(n_nodes: int, per_node: int, backend: str) -> float | None:
    """What was recorded on this host for as many workers. `backend`: gloo, nccl, or auto: nccl's if there is one.

    None if nothing was measured, or the file can't be read or is damaged.
    """
    try:
        entries = _entries(_path(n_nodes, per_node))
    except RuntimeError:  # no home
        return None
    for name in ("nccl", "gloo") if backend == "auto" else (backend,):
        if (found := _valid_bucket(entries.get(name))) is not None:
            return found
    return None


def settled(config: Config, n_nodes: int, per_node: int) -> Config:
    """The config with a number for what `dist` leaves to the machine or to another key; the numbers are then the run's.

    With a tree, whose bits are not to depend on the workers, the size of buckets does not follow them either: on some
    devices a norm's last bit depends on where in memory a gradient begins.
    """
    dist, found = config.dist, {}
    if dist.bucket_mib == "auto":
        backend = "gloo" if config.train.device == "cpu" and dist.backend == "auto" else dist.backend
        measured = None if dist.reduction == "tree" else bucket_mib(n_nodes, per_node, backend)
        found["bucket_mib"] = measured or dist.bucket_size_mib
    if dist.reduction == "tree":
        found["leaves"] = config.n_leaves
    return config.model_copy(update={"dist": dist.model_copy(update=found)})


def _path(n_nodes: int, per_node: int) -> Path:
    """Raises RuntimeError if the user has no home."""
    state = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
    host = re.sub(r"[^\w.-]", "_", socket.gethostname())
    return state / "distdl" / "comm" / f"{host}-{n_nodes}x{per_node}.json"


def _entries(path: Path) -> dict[str, Any]:
    """By backend; none if the file is not there, or damaged."""
    try:
        entries = json.loads(path.read_text())["backends"]
    except (OSError, ValueError, TypeError, KeyError):
        return {}
    return entries if isinstance(entries, dict) else {}


def _valid_bucket(entry: Any) -> float | None:
    value = entry.get("bucket_mib") if isinstance(entry, dict) else None
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    return float(value) if LEAST_MIB <= value <= MOST_MIB else None
