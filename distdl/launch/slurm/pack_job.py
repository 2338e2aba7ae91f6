"""`distdl submit data pack`: a corpus packed by an array of jobs; each makes a part, and the last one joins them."""

import argparse
import shlex
import sys
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from distdl.config import of_site
from distdl.config.cluster import SlurmConfig
from distdl.errors import EXIT_DONE, UserError
from distdl.launch.slurm import submit
from distdl.launch.slurm.script import Lines, render_lines
from distdl.run.folder import write_atomic
from distdl.run.secrets import redact

_NOT_OF_ONE_TASK = ("nodes", "ntasks-per-node", "gpus-per-node")


def add_arguments(command: argparse.ArgumentParser, packing: list[argparse.Action]) -> None:
    """`packing`: the arguments of `distdl data pack`, which are the command's already."""
    command.set_defaults(packing=packing)
    submit.add_sbatch_options(command, without=_NOT_OF_ONE_TASK)
    command.add_argument("--parts", type=int, required=True, metavar="N", help="jobs, each of which packs a part")
    command.add_argument("--dry-run", action="store_true", help="print the script, and do nothing")


def submit_pack(arguments: argparse.Namespace) -> int:
    """Raises UserError for a mistake in the options, and where sbatch refuses the jobs."""
    if not 1 <= arguments.parts <= 1000:
        raise UserError("1 to 1000 parts are possible", where=f"command line --parts {arguments.parts}")
    if arguments.part:
        raise UserError("each job packs a part of its own", where="command line --part", fix="Say how many: --parts N.")
    destination = arguments.folders[-1].absolute()
    if destination.exists():
        raise UserError("this exists already", where=str(destination), fix="Choose another name for it.")
    site = _of_site()
    home = (Path("packs") / destination.name).absolute()
    submit.check_place(home)
    folder = submit.next_folder(home)
    options = {**site.sbatch, **submit.passed_options(arguments)}
    lines = Lines(
        command=redact(shlex.join(["distdl", *sys.argv[1:]])),
        folder=folder,
        options={
            "job-name": f"pack-{destination.name}",
            "array": f"0-{arguments.parts - 1}",
            "nodes": 1,
            "ntasks": 1,
            **{name: value for name, value in options.items() if name not in (*_NOT_OF_ONE_TASK, "signal", "job-name")},
            "requeue": options.get("requeue", True),
            "open-mode": "append",
            "output": f"{home}/%A_%a.log",
            "chdir": Path.cwd(),
        },
        setup=site.setup,
        body=[
            f'part="$((SLURM_ARRAY_TASK_ID + 1))/{arguments.parts}"',
            f'exec {shlex.join([site.python or sys.executable, *_command(arguments)])} --part "$part"',
        ],
    )
    if arguments.dry_run:
        print(render_lines(lines), end="")
        return EXIT_DONE
    submit.check_sbatch()
    submit.copy_code(folder)
    write_atomic(folder / "job.sh", render_lines(lines).encode())
    (number,) = submit.queue(folder / "job.sh", 1)
    print(f"submitted job {number}: {arguments.parts} parts of {destination}, which the last one joins")
    print(f"logs     tail -F {home}/{number}_*.log")
    print(f"watch    squeue --jobs {number}")
    print(f"cancel   scancel {number}")
    print(f"go on    sbatch {folder / 'job.sh'}, which packs the parts that are not there yet")
    return EXIT_DONE


def _of_site() -> SlurmConfig:
    try:
        return SlurmConfig.model_validate(of_site("slurm"))
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(map(str, ("slurm", *problem["loc"])))
        raise UserError(problem["msg"], where=f"$DISTDL_SITE: {where}") from None


def _command(arguments: argparse.Namespace) -> list[str]:
    """`-m distdl data pack ...` with what was said of it here."""
    words: list[Any] = ["-m", "distdl", "data", "pack", arguments.kind]
    for action in arguments.packing:
        value = getattr(arguments, action.dest)
        if action.option_strings and value is not None:
            words += [action.option_strings[0]] if value is True else [action.option_strings[0], value]
    return list(map(str, [*words, *arguments.folders]))
