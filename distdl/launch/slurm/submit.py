"""`distdl submit`: a run as a job of Slurm's, with a copy of config and code, so that later edits don't reach it."""

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import distdl
from distdl.config import dump, load
from distdl.config.cluster import ContainerConfig, check_value
from distdl.config.schema import Config
from distdl.errors import EXIT_DONE, UserError
from distdl.launch import sweep
from distdl.launch.slurm.script import Job, render
from distdl.launch.sweep import Point
from distdl.run import names, places, trust
from distdl.run.folder import write_atomic
from distdl.run.open import open_run
from distdl.run.secrets import redact

_WARNED_S = 120  # before the time limit; of a short job a quarter of it

# Options of the command line that are sbatch's, and what they stand for.
_PASSED = {
    "nodes": "N",
    "gpus-per-node": "G",
    "ntasks-per-node": "K",
    "cpus-per-task": "C",
    "time": "T",
    "partition": "P",
    "account": "A",
    "qos": "Q",
    "constraint": "LIST",
    "mem": "SIZE",
    "gres": "LIST",
}
_HELP = {
    "ntasks-per-node": "workers on each node (default: one per GPU)",
    "cpus-per-task": "cores of each worker",
    "time": "limit, such as 8:00:00: before it the run is saved, and the job queued again",
}


def add_sbatch_options(command: argparse.ArgumentParser, without: Sequence[str] = ()) -> None:
    for name, value in _PASSED.items():
        if name not in without:
            command.add_argument(f"--{name}", metavar=value, help=_HELP.get(name, f"sbatch's --{name}"))


def add_arguments(command: argparse.ArgumentParser) -> None:
    add_sbatch_options(command)
    command.add_argument("--min-nodes", type=int, metavar="N", help="go on with so many where others fail")
    command.add_argument("--container", metavar="IMAGE", help="same as slurm.container.image=...")
    command.add_argument("--name", metavar="RUN", help="name below runs/ (default: the config's stem)")
    command.add_argument("--resume", action="store_true", help="go on with the run, or start it if there is none")
    command.add_argument(
        "--chain", type=int, metavar="N", help="N jobs one after the other, where jobs may not be queued again"
    )
    command.add_argument("--array", type=Path, metavar="GRID.yaml", help="a run for each point, as of distdl sweep")
    command.add_argument("--dry-run", action="store_true", help="print the script, and do nothing")


def submit(arguments: argparse.Namespace) -> int:
    """Raises UserError for a mistake in the config or the options, and where sbatch refuses the job."""
    config = load(arguments.config, arguments.overrides).config
    trust.check_file(arguments.config, config)
    places.use(config.paths)
    name = names.of_run(arguments.config, arguments.name)
    if arguments.chain is not None and arguments.chain < 1:
        raise UserError(f"{arguments.chain} jobs", where="command line --chain")
    points = [Point(name, [])]
    if arguments.array:
        if arguments.chain is not None:
            raise UserError("a chain of arrays is not possible", where="command line --array, --chain")
        points = sweep.read(arguments.array, name)
        sweep.check(points, arguments.config, arguments.overrides)
    folder = (Path("sweeps") / name if arguments.array else places.runs_root() / name / "slurm").absolute()
    options = sbatch_options(config, arguments, name, folder, len(points))
    job = job_of(config, arguments, options, [point.run for point in points], folder)
    script = render(job)
    check_shell(script)
    if arguments.dry_run:
        print(script, end="")
        return EXIT_DONE
    check_sbatch()
    for point in points:
        own = load(arguments.config, [*arguments.overrides, *point.overrides]).config
        prepare(job, own, point.run, resume=arguments.resume)
    copy_code(job.folder)
    write_atomic(job.folder / "job.sh", script.encode())
    numbers = queue(job.folder / "job.sh", arguments.chain or 1)
    print(_told(job, numbers))
    return EXIT_DONE


def sbatch_options(
    config: Config, arguments: argparse.Namespace, name: str, folder: Path, n_points: int = 1
) -> dict[str, Any]:
    """All that the script says to sbatch: slurm.sbatch under the command line, and what follows from both."""
    given = {**config.slurm.sbatch, **passed_options(arguments)}
    nodes = _number(given.get("nodes", 1), "nodes")
    workers = given.pop("ntasks-per-node", None) or given.get("gpus-per-node") or _gpus_of(given.get("gres")) or 1
    least = arguments.min_nodes
    if least is not None and not 0 < least <= nodes:
        raise UserError(f"{nodes} nodes are asked for", where=f"command line --min-nodes {least}")
    elastic = {} if least is None else {"no-kill": True}
    requeues = given.pop("requeue", True) and arguments.chain is None
    options: dict[str, Any] = {
        "job-name": name,
        "nodes": nodes,
        "ntasks-per-node": _number(str(workers).rpartition(":")[2], "ntasks-per-node"),
        **{option: value for option, value in given.items() if option not in ("nodes", "signal", "job-name")},
        "requeue" if requeues else "no-requeue": True,
        "open-mode": "append",
        "output": f"{folder}/{'%A_%a' if n_points > 1 else '%j'}.log",
        "chdir": Path.cwd(),
    }
    limit_s = seconds(str(given["time"])) if "time" in given else None
    warning = f"USR1@{min(_WARNED_S, limit_s // 4)}" if limit_s else None
    array = {"array": f"0-{n_points - 1}"} if n_points > 1 else {}
    return options | elastic | {"signal": given.get("signal", warning)} | array


def passed_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """Those of sbatch that the command line has. Raises UserError for a value that might be more than one."""
    given = {}
    for option in _PASSED:
        value = getattr(arguments, option.replace("-", "_"), None)
        if value is not None:
            try:
                check_value(option, value)
            except ValueError as error:
                raise UserError(str(error), where=f"command line --{option}") from None
            given[option] = value
    return given


def check_sbatch() -> None:
    if not shutil.which("sbatch"):
        fix = "Submit on a login node of the cluster; --dry-run shows the script."
        raise UserError("there is no sbatch here", where="Slurm", fix=fix)


def check_place(folder: Path) -> None:
    """Raises UserError for a folder, or a working folder, that can't stand in a script."""
    for place in (folder, Path.cwd()):
        if not re.fullmatch(r"[\w/.,:@+= -]+", str(place)):
            raise UserError(f"'{place}' has characters that Slurm reads otherwise", fix="Submit from another folder.")


def job_of(
    config: Config, arguments: argparse.Namespace, options: Mapping[str, Any], runs: Sequence[str], folder: Path
) -> Job:
    container = config.slurm.container
    if arguments.container:
        container = (container or ContainerConfig(image=arguments.container)).model_copy(
            update={"image": arguments.container}
        )
    if container and arguments.min_nodes:
        raise UserError("workers in a container are srun's alone to start", where="command line --min-nodes")
    check_place(folder)
    return Job(
        runs=runs,
        folder=next_folder(folder),
        working_folder=Path.cwd(),
        command=redact(shlex.join(["distdl", *sys.argv[1:]])),
        options=options,
        srun=config.slurm.srun,
        setup=config.slurm.setup,
        python=config.slurm.python or sys.executable,
        container=container,
        min_nodes=arguments.min_nodes,
        is_chained=arguments.chain is not None,
    )


def prepare(job: Job, config: Config, run: str, *, resume: bool) -> None:
    """Its run folder, and its config beside the script."""
    per_node, nodes = int(job.options["ntasks-per-node"]), int(job.options["nodes"])
    opened = open_run(places.runs_root() / run, config, resume=resume, n_nodes=nodes, per_node=per_node)
    opened.lease.close()
    for change in opened.changes:
        print(f"changed since this run was started: {change}")
    job.folder.mkdir(parents=True, exist_ok=True)
    resolved = load(opened.folder.config).config  # with the run's own copies of its plugins
    copies = [os.path.relpath(each, job.folder) for each in resolved.plugins]
    write_atomic(job.config(run), dump(resolved.model_copy(update={"plugins": copies})).encode())


def check_shell(script: str) -> None:
    """Raises UserError for setup lines that bash could not read: an `if` without its `fi`."""
    if not shutil.which("bash"):
        return
    read = subprocess.run(["bash", "-n"], input=script, capture_output=True, text=True)
    if read.returncode:
        raise UserError(f"bash can't read these lines: {read.stderr.strip()}", where="slurm.setup")


def copy_code(folder: Path) -> None:
    """What the script runs, beside it."""
    package = Path(distdl.__file__).parent
    shutil.copytree(package, folder / "code" / package.name, ignore=shutil.ignore_patterns("__pycache__"))


def queue(script: Path, n: int) -> list[str]:
    """The numbers of the jobs, of which each waits for the one before it."""
    numbers: list[str] = []
    for _ in range(n):
        after = [f"--dependency=afterany:{numbers[-1]}"] if numbers else []
        done = subprocess.run(
            ["sbatch", "--parsable", *after, str(script)],
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
        )
        number = done.stdout.strip().partition(";")[0]
        if done.returncode or not number.isdigit():
            _cancel(numbers)
            raise UserError(
                f"sbatch refused the job: {done.stderr.strip() or done.stdout.strip()}",
                where=str(script),
            )
        numbers.append(number)
    return numbers


def _cancel(numbers: Sequence[str]) -> None:
    if numbers:
        subprocess.run(["scancel", *numbers], capture_output=True, stdin=subprocess.DEVNULL)


def _told(job: Job, numbers: Sequence[str]) -> str:
    nodes, workers, some = job.options["nodes"], job.options["ntasks-per-node"], ",".join(numbers)
    again = shlex.join(["sbatch", os.path.relpath(job.folder / "job.sh")])
    what, table = job.runs[0], "distdl runs"
    if len(job.runs) > 1:
        what = f"{len(job.runs)} runs, each"
        table += f" --name {shlex.quote(f'{job.folder.parent.name}-*')} --sort best"
    log = os.path.relpath(job.folder.parent / (f"{numbers[0]}.log" if len(job.runs) == 1 else f"{numbers[0]}_0.log"))
    return "\n".join(
        [
            f"submitted job {some}: {what} on {nodes} node{'s' * (nodes != 1)} with {workers} worker"
            f"{'s' * (workers > 1)} each",
            f"log      tail -F {log}",
            f"watch    squeue --jobs {some}; {table}",
            f"cancel   scancel {some}",
            f"go on    {again}",
        ]
    )


def next_folder(path: Path) -> Path:
    """Of this submission: the first, second, ..."""
    numbers = [int(each.name) for each in path.glob("*") if each.name.isdigit()]
    return path / str(max(numbers, default=0) + 1)


def _number(value: Any, name: str) -> int:
    if not str(value).isdigit() or int(value) < 1:
        raise UserError(f"'{value}' is not a number of {name}", where=f"--{name}, or slurm.sbatch.{name}")
    return int(value)


def _gpus_of(gres: Any) -> int | None:
    """`gpu:4` and `gpu:a100:4` -> 4."""
    match = re.search(r"(?:^|,)gpu(?::[^:,()]+)?:(\d+)", str(gres or ""))
    return int(match[1]) if match else None


def seconds(limit: str) -> int | None:
    """A time limit as Slurm writes it: minutes, MM:SS, HH:MM:SS, D-HH, D-HH:MM, D-HH:MM:SS; None for UNLIMITED.

    Raises UserError for anything else.
    """
    if limit.upper() in ("UNLIMITED", "INFINITE"):
        return None
    match = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", limit)
    if not match:
        raise UserError(
            f"'{limit}' is not a time limit", where="--time, or slurm.sbatch.time", fix="Write 8:00:00 or 2-12:00:00."
        )
    days, first, second, third = (int(each or 0) for each in match.groups())
    if match[1] is not None:
        return ((days * 24 + first) * 60 + second) * 60 + third
    if match[4] is not None:
        return (first * 60 + second) * 60 + third
    return first * 60 + second
