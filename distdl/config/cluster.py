"""The keys of a config that belong to a place: paths, and jobs of Slurm's, with what a line of `#SBATCH` may hold."""

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator

from distdl.config.values import REQUIRED, Section, key

_OPTION = re.compile(r"[a-z][a-z0-9-]*")
_VALUE = re.compile(r"[A-Za-z0-9 _.,:;/@%+=()\[\]{}*&|!?~^<>#-]*")
_OWN = {  # what `distdl submit` has to know itself
    "array": "distdl submit --array",
    "dependency": "distdl submit --chain",
    "chdir": "the folder that `distdl submit` is called in",
    "output": "the run folder",
    "ntasks": "nodes and ntasks-per-node",
    "wrap": "the script",
    "parsable": "distdl submit",
    "test-only": "distdl submit --dry-run",
}

Value = str | int | float | bool


def check_options(options: Any) -> Any:
    """Options of sbatch or srun by their long names. Raises ValueError for what might be more than one option."""
    if not isinstance(options, dict):
        raise ValueError("should be a mapping of options, such as {partition: gpu, exclusive: true}")
    for name, value in options.items():
        if not isinstance(name, str) or not _OPTION.fullmatch(name):
            raise ValueError(
                f"{name!r} is no long option of Slurm's: write it without dashes before it, as 'partition'"
            )
        if name in _OWN:
            raise ValueError(f"{name}: that comes from {_OWN[name]}")
        check_value(name, value)
    return options


def check_value(name: str, value: Any) -> None:
    """Raises ValueError for what a line of `#SBATCH` or a command line might take for something else."""
    if value is not None and not isinstance(value, Value):
        raise ValueError(f"{name}: should be a text, a number, true or false")
    if isinstance(value, str) and not _VALUE.fullmatch(value):
        wrong = next(each for each in value if not _VALUE.fullmatch(each))
        raise ValueError(f"{name}: {wrong!r} can't be part of an option's value (got {value!r})")


def _one_line(text: str) -> str:
    if "\0" in text:
        raise ValueError("a line of shell has no NUL in it")
    return text


Options = Annotated[dict[str, Any], BeforeValidator(check_options)]


class ContainerConfig(Section):
    image: str = key(REQUIRED, "file (.sqsh, .sif) or address of the image, as the runtime takes it", min_length=1)
    runtime: Literal["pyxis", "apptainer"] = key("pyxis", "what starts it: srun's pyxis (enroot), or Apptainer")
    binds: list[str] = key(
        [], "folders that it sees besides the one that the job was submitted from: /path, or /path:/there"
    )
    python: str = key("python3", "interpreter in the image")


class SlurmConfig(Section):
    setup: list[Annotated[str, AfterValidator(_one_line)]] = key(
        [], "lines of shell before the workers are started: module load, conda activate, export", free=True
    )
    python: str | None = key(None, "interpreter of the workers (default: the one of `distdl submit`)", free=True)
    container: ContainerConfig | None = key(
        None, "image to run the workers in: {image: /images/distdl.sqsh}", free=True
    )
    sbatch: Options = key(
        {}, "options of sbatch: {partition: gpu, nodes: 4, gpus-per-node: 8, time: 8:00:00}", free=True
    )
    srun: Options = key({}, "options of srun: {mpi: pmix, cpu-bind: none}", free=True)


class PathsConfig(Section):
    """`~` and `$VARIABLES` are filled in on the machine that uses them."""

    runs: str | None = key(None, "folder of run folders (default: $DISTDL_RUNS, or runs/ here)", min_length=1)
    data: str | None = key(
        None, "folder in which relative paths of data and weights are looked for that are not here", min_length=1
    )
    cache: str | None = key(
        None,
        "what can be made again, on a disk of the node's own: compiled code, fetched shards, lists of files "
        "(default: $XDG_CACHE_HOME, $TMPDIR or /var/tmp)",
        min_length=1,
    )
    scratch: str | None = key(None, "temporary files, instead of $TMPDIR", min_length=1)
