"""`distdl sweep`: a run for each point of a grid, as many at once as there are devices.

optim.lr: [0.1, 0.2]        # a mapping: every combination
train.seed: [0, 1]

- {optim.lr: 0.1, train.epochs: 10}     # or a list of the points themselves
"""

import argparse
import contextlib
import itertools
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from distdl.config import load
from distdl.config.layout import flow
from distdl.config.tree import Mistake, Place, parse, plain
from distdl.errors import EXIT_BUG, EXIT_DONE, EXIT_INTERRUPTED, EXIT_PREEMPTED, UserError
from distdl.launch.plan import local_devices
from distdl.launch.process import stop_with_caller
from distdl.run import listing, names, places
from distdl.run.folder import RunFolder

MOST_POINTS = 1000

_POLL_S = 0.1
_LAST_LINES = 3  # of a run that failed


@dataclass(frozen=True, slots=True)
class Point:
    run: str  # its name
    overrides: list[str]  # as on the command line

    @property
    def keys(self) -> list[str]:
        return [override.partition("=")[0] for override in self.overrides]


def add_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("grid", type=Path, metavar="GRID.yaml", help="values of keys, as optim.lr: [0.1, 0.2]")
    command.add_argument("--gpus-each", type=int, default=1, metavar="K", help="devices, and so workers, of each run")
    command.add_argument("--at-once", type=int, metavar="N", help="runs (default: as many as there are GPUs for, or 1)")
    command.add_argument("--name", metavar="NAME", help="what the runs' names begin with (default: the config's stem)")
    command.add_argument("--resume", action="store_true", help="go on with the runs that are there")


def sweep(arguments: argparse.Namespace) -> int:
    """0 if all runs are done, 1 if one has failed. Raises UserError for a mistake in any of them before the first."""
    points = read(arguments.grid, names.of_run(arguments.config, arguments.name))
    check(points, arguments.config, arguments.overrides)
    if not arguments.resume and (there := [each.run for each in points if (places.runs_root() / each.run).exists()]):
        raise UserError(
            f"{places.runs_root()}/{there[0]} exists already" + f", and {len(there) - 1} more" * (len(there) > 1),
            fix="--resume goes on with what is there; another --name makes new ones.",
        )
    if arguments.gpus_each < 1 or (arguments.at_once or 1) < 1:
        raise UserError("at least one is needed", where="command line --gpus-each, --at-once")
    runner = Runner(_devices(arguments.gpus_each, arguments.at_once), arguments.gpus_each)
    code = runner.run(points, [sys.executable, "-m", "distdl", "train", str(arguments.config), *arguments.overrides])
    print(table(points))
    return code


# --- points ---


def read(path: Path, name: str) -> list[Point]:
    """The points of a grid, and what their runs are called. Raises UserError for anything else than a grid."""
    mistakes: list[Mistake] = []
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"can't be read ({getattr(error, 'strerror', None) or error})", where=str(path)) from None
    tree = parse(text, lambda line: Place((0, line), f"{path}:{line}"), mistakes)
    if tree is None or mistakes:
        raise UserError("\n".join(map(str, mistakes)))
    grid = plain(tree)
    points = _listed(grid, path) if isinstance(grid, list) else _combined(grid, path)
    if not 0 < len(points) <= MOST_POINTS:
        raise UserError(f"{len(points):,} points", where=str(path), fix=f"Give 1 to {MOST_POINTS:,}.")
    short = _short_names([key for point in points for key in point])
    found = [
        Point(_name(name, point, short), [f"{key}={flow(value)}" for key, value in point.items()]) for point in points
    ]
    if len({each.run for each in found}) == len(found):
        return found
    return [Point(f"{name}-{number}", each.overrides) for number, each in enumerate(found)]


def check(points: Sequence[Point], config: Path, overrides: Sequence[str]) -> None:
    """Raises UserError with the mistakes of the first point that has some. Its paths are used from then on."""
    for point in points:
        places.use(load(config, [*overrides, *point.overrides]).config.paths)


def _combined(grid: Any, path: Path) -> list[dict[str, Any]]:
    if not isinstance(grid, dict) or not all(isinstance(values, list) and values for values in grid.values()):
        raise UserError(
            "a grid is a list of values for each key, or a list of points",
            where=str(path),
            fix="Write optim.lr: [0.1, 0.2], or - {optim.lr: 0.1} for each point.",
        )
    return [dict(zip(grid, values)) for values in itertools.islice(itertools.product(*grid.values()), MOST_POINTS + 1)]


def _listed(grid: list[Any], path: Path) -> list[dict[str, Any]]:
    if not all(isinstance(point, dict) and point for point in grid):
        raise UserError("each point is a mapping, such as {optim.lr: 0.1}", where=str(path))
    return grid


def _short_names(keys: Sequence[str]) -> Mapping[str, str]:
    """The last part of each key, unless two of them share it."""
    ends: dict[str, set[str]] = {}
    for key in keys:
        ends.setdefault(key.rpartition(".")[2], set()).add(key)
    return {key: end if len(of_end) == 1 else key for end, of_end in ends.items() for key in of_end}


def _name(name: str, point: Mapping[str, Any], short: Mapping[str, str]) -> str:
    """`lenet5-lr=0.1-seed=0`, or the name alone where that can't be a folder's."""
    full = "-".join([name, *(f"{short[key]}={flow(value)}" for key, value in point.items())])
    return full if re.fullmatch(r"[\w.+=-]{1,100}", full) else name


# --- on this machine ---


def _devices(each: int, at_once: int | None) -> list[str | None]:
    """For each run at a time what CUDA_VISIBLE_DEVICES is to say, with its number of workers; None: no devices."""
    n = local_devices()
    if n == 0:
        return [None] * (at_once or 1)
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    devices = visible.split(",")[:n] if visible else [str(number) for number in range(n)]
    slots = [",".join(devices[i : i + each]) for i in range(0, n - each + 1, each)]
    if not slots:
        raise UserError(f"this machine has {n} devices", where=f"command line --gpus-each {each}")
    return list(slots[: at_once or len(slots)])


class Runner:
    """Starts runs one after the other on each of some sets of devices."""

    def __init__(self, devices: Sequence[str | None], workers: int = 1) -> None:
        self._free = list(devices)
        self._workers = workers
        self._running: dict[int, tuple[Point, str | None, subprocess.Popen[bytes]]] = {}
        self._told: int | None = None  # a signal to stop

    def run(self, points: Sequence[Point], command: Sequence[str]) -> int:
        """The worst exit code: a stop's before a failure's."""
        waiting, codes = list(points), [EXIT_DONE]
        before = {
            number: signal.signal(number, self._stop) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
        }
        try:
            while self._running or (waiting and self._told is None):
                while waiting and self._free and self._told is None:
                    self._start(waiting.pop(0), command)
                time.sleep(_POLL_S)
                codes += self._ended()
        finally:
            for number, previous in before.items():
                signal.signal(number, previous)
        if self._told is not None:
            left = f"{len(waiting)} run{'s were' if len(waiting) != 1 else ' was'} not started"
            print(f"{left}; the same command with --resume goes on")
            return EXIT_INTERRUPTED if self._told == signal.SIGINT else EXIT_PREEMPTED
        return EXIT_BUG if any(codes) else EXIT_DONE

    def _start(self, point: Point, command: Sequence[str]) -> None:
        devices = self._free.pop(0)
        folder = places.runs_root()
        folder.mkdir(exist_ok=True)
        own = {} if devices is None else {"CUDA_VISIBLE_DEVICES": devices}
        with _log(point).open("ab") as log:
            process = subprocess.Popen(
                [*command, *point.overrides, "--name", point.run, "--resume", "--nproc", str(self._workers)],
                env={**os.environ, **own, "PYTHONUNBUFFERED": "1"},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C comes to this process, which passes it on
                preexec_fn=stop_with_caller,
            )
        self._running[process.pid] = point, devices, process
        print(f"{point.run}: started{f' on GPU {devices}' if devices else ''}", flush=True)

    def _ended(self) -> list[int]:
        codes = []
        for pid, (point, devices, process) in list(self._running.items()):
            if (code := process.poll()) is None:
                continue
            del self._running[pid]
            self._free.append(devices)
            codes.append(code)
            print(f"{point.run}: {_outcome(code)}", flush=True)
            if code not in (EXIT_DONE, EXIT_PREEMPTED, EXIT_INTERRUPTED):
                lines = _log(point).read_text(errors="replace").rstrip().splitlines()[-_LAST_LINES:]
                print("\n".join(f"  {line}" for line in lines), flush=True)
        return codes

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self._told = number
        for _, _, process in self._running.values():
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(number)


def _log(point: Point) -> Path:
    """What the run's launcher says; what its workers say is in the run folder."""
    return places.runs_root() / f"{point.run}.log"


def _outcome(code: int) -> str:
    return {EXIT_DONE: "done", EXIT_PREEMPTED: "stopped, and saved", EXIT_INTERRUPTED: "stopped, and saved"}.get(
        code, f"failed with exit code {code}"
    )


def table(points: Sequence[Point]) -> str:
    """A line for each run, with what makes it another one than the others."""
    folders = [RunFolder(places.runs_root() / point.run) for point in points]
    rows = [listing.describe(folder) for folder in folders if folder.identity.exists()]
    columns = [*dict.fromkeys(key for point in points for key in point.keys), "best"]
    return listing.format_runs(listing.select(rows, columns=columns), columns)
