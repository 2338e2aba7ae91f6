"""The script of a job, as a person would write it: options, setup, one srun, and what follows from its exit code.

What stands in it was checked (distdl/config/cluster.py) or is quoted for the shell: a name, a path or a host list is
never run by it, nor read as a line of `#SBATCH`. The lines of `slurm.setup` alone are the user's own shell.
"""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from distdl.config.cluster import ContainerConfig
from distdl.errors import EXIT_DONE, EXIT_PREEMPTED, EXIT_USER_ERROR


@dataclass(frozen=True, kw_only=True)
class Job:
    """One that trains a run, goes on where it was stopped, and ends with the run."""

    runs: Sequence[str]  # the name of the run; of several, each is a task of an array
    folder: Path  # of this submission; absolute
    working_folder: Path
    command: str  # that submitted it
    options: Mapping[str, Any]  # of sbatch
    srun: Mapping[str, Any] = field(default_factory=dict)
    setup: Sequence[str] = ()
    python: str
    container: ContainerConfig | None = None
    min_nodes: int | None = None  # with which the run goes on where others are lost
    is_chained: bool = False  # another job follows it, instead of itself

    def config(self, run: str) -> Path:
        return self.folder / f"{run}.yaml"

    @property
    def over(self) -> Path:
        """Says to the jobs of a chain that nothing is left to do."""
        return self.folder / "over"


@dataclass(frozen=True, kw_only=True)
class Lines:
    """What every script has."""

    command: str  # that submitted it
    folder: Path  # with the code
    options: Mapping[str, Any]  # of sbatch
    setup: Sequence[str] = ()
    body: Sequence[str] = ()
    before: Sequence[str] = ()  # the setup


def render(job: Job) -> str:
    over = f"if [ -e {_q(job.over)} ]; then exit 0; fi  # an earlier job of this chain has come to the end"
    lines = Lines(
        command=job.command,
        folder=job.folder,
        options=job.options,
        setup=[*job.setup, f"cd {_q(job.working_folder)}"] if job.setup else (),
        before=[over] if job.is_chained else (),
        body=[*_start(job), "", *_end(job)],
    )
    return render_lines(lines)


def render_lines(lines: Lines) -> str:
    options = [f"#SBATCH {option}" for option in map(_option, lines.options.items()) if option]
    setup = ["# slurm.setup", *lines.setup] if lines.setup else []
    parts = [
        ["#!/bin/bash", _comment(lines.command)],
        options,
        lines.before,
        setup,
        _environment(lines.folder),
        lines.body,
    ]
    return "\n\n".join("\n".join(part) for part in parts if part) + "\n"


def _option(item: tuple[str, Any]) -> str:
    """`--name=value`, `--name` for true, nothing for false; as Slurm reads it, which takes quotes as a shell does."""
    name, value = item
    if value is None or value is False:
        return ""
    if value is True:
        return f"--{name}"
    text = str(value)
    return f'--{name}="{text}"' if set(text) & set(" ;#&|()<>*?!{}~^") or not text else f"--{name}={text}"


def _environment(folder: Path) -> list[str]:
    code = _q(folder / "code")
    return [
        "# distdl as it was when this job was submitted",
        f"export PYTHONPATH={code}${{PYTHONPATH:+:$PYTHONPATH}} PYTHONNOUSERSITE=1",
    ]


def _start(job: Job) -> list[str]:
    srun = ["srun"]
    if "cpus-per-task" in job.options:  # which srun does not take from the job any more
        srun.append(_argument(("cpus-per-task", job.options["cpus-per-task"])))
    srun += [argument for argument in map(_argument, job.srun.items()) if argument]
    if job.container:
        srun += _in_container(job.container, job.working_folder)
    python = _q(job.container.python if job.container else job.python)
    lines, config, name = [], _q(job.config(job.runs[0])), _q(job.runs[0])
    if len(job.runs) > 1:
        lines = [f"runs=({' '.join(map(_q, job.runs))})", "run=${runs[$SLURM_ARRAY_TASK_ID]}"]
        config, name = f'{_q(job.folder)}/"$run.yaml"', '"$run"'
    if job.min_nodes:
        return [
            *lines,
            "# Starts the workers of each node by srun, and goes on without nodes that fail.",
            f"{python} -m distdl train {config} --name {name} --resume \\",
            f"  --hosts slurm --min-nodes {job.min_nodes} --max-restarts {_RESTARTS}",
            "code=$?",
        ]
    return [
        *lines,
        f"{' '.join(srun)} \\",
        f"  {python} -m distdl train {config} --name {name} --resume",
        "code=$?",
    ]


def _in_container(container: ContainerConfig, folder: Path) -> list[str]:
    binds = [str(folder), *container.binds]
    if container.runtime == "pyxis":
        mounts = ",".join(bind if ":" in bind else f"{bind}:{bind}" for bind in binds)
        options = ["container-image", container.image], ["container-mounts", mounts], ["container-workdir", folder]
        return [f"--{name}={_q(value)}" for name, value in options]
    words = ["apptainer", "exec", "--nv", "--pwd", folder, *(f"--bind={bind}" for bind in binds), container.image]
    return [_q(word) for word in words]


def _argument(item: tuple[str, Any]) -> str:
    name, value = item
    return "" if value is None or value is False else f"--{name}" if value is True else f"--{name}={_q(value)}"


def _end(job: Job) -> list[str]:
    if job.is_chained:
        return [
            "case $code in",
            f"  {EXIT_DONE}) touch {_q(job.over)} ;;  # the run is finished",
            f"  {EXIT_USER_ERROR}) touch {_q(job.over)} ;;  # a mistake in its config, which stays one",
            f"  {EXIT_PREEMPTED}) ;;  # stopped and saved: the next job goes on, as after a failure",
            "esac",
            *_why(job),
            'exit "$code"',
        ]
    lines = []
    if not job.options.get("no-requeue"):
        lines = [
            f'if [ "$code" -eq {EXIT_PREEMPTED} ]; then  # stopped by a signal or by the clock, and saved',
            f"  scontrol requeue {_ONE_OF_ARRAY if len(job.runs) > 1 else _JOB} && sleep 60  # which ends this script",
            f"  echo {_q(f'not queued again; to go on: sbatch {_q(job.folder / _NAME)}')}",
            "fi",
        ]
    return [*lines, *_why(job), 'exit "$code"']


def _why(job: Job) -> list[str]:
    """The cause once more, since srun's own remarks come after it."""
    if job.container or job.min_nodes:
        return []
    name = '"$run"' if len(job.runs) > 1 else _q(job.runs[0])
    is_failed = f'[ "$code" -eq {EXIT_DONE} ] || [ "$code" -eq {EXIT_PREEMPTED} ]'
    return [f"{is_failed} || {_q(job.python)} -m distdl why --quiet {name}"]


_NAME = "job.sh"
_JOB = '"$SLURM_JOB_ID"'
_ONE_OF_ARRAY = '"${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID"'  # the last one's own number is that of the whole array
_RESTARTS = 3


def _comment(text: str) -> str:
    return f"# {' '.join(text.split())}"


def _q(word: object) -> str:
    return shlex.quote(str(word))
