"""distdl from Python: train, look at what came of it, and take its parts into one's own code.

    result = distdl.train("configs/digits/lenet5.yaml", nproc=2, name="first", optim__lr=0.1)
    rows = distdl.metrics(result.name, kind="eval")      # pandas.DataFrame(rows), if you like
    model = distdl.load_model(result.name, step="best")
    for batch in distdl.batches("configs/digits/lenet5.yaml", split="eval"): ...

Training is the command line in a process of its own: it is what a terminal would have run, it leaves nothing behind in
the caller's process (CUDA, threads, random generators), and both end alike on Ctrl-C. The rest happens here.
"""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distdl.config import Config, load
from distdl.config.layout import flow
from distdl.errors import EXIT_DONE, EXIT_INTERRUPTED, EXIT_PREEMPTED, EXIT_USER_ERROR, UserError, did_you_mean
from distdl.launch.process import stop_with_caller
from distdl.run import failures, places, trust
from distdl.run.folder import RunFolder, find

if TYPE_CHECKING:
    from torch import Tensor, nn

ConfigLike = str | os.PathLike[str] | Mapping[str, Any]

_OUTCOMES = {EXIT_DONE: "done", EXIT_PREEMPTED: "preempted", EXIT_INTERRUPTED: "interrupted"}
_N_LAST_LINES = 30


class TrainingFailed(RuntimeError):
    """A run ended with a failure that was no mistake in its config; the text ends with the run's own last lines."""

    def __init__(self, name: str, exit_code: int, last_lines: Sequence[str]) -> None:
        super().__init__(f"run '{name}' ended with exit code {exit_code}:\n{''.join(last_lines).rstrip()}")
        self.name, self.exit_code, self.last_lines = name, exit_code, list(last_lines)


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What a run came to, so far: it may have been stopped, and can then be resumed."""

    name: str
    folder: Path
    outcome: str  # done, preempted or interrupted
    exit_code: int
    final: dict[str, Any]  # final.json: steps, samples, wall_s, ...

    @property
    def metrics(self) -> dict[str, Any] | None:
        """The last evaluation: loss, top1, ...; None if there was none."""
        return self.final.get("last", {}).get("eval")

    @property
    def best(self) -> dict[str, Any] | None:
        """`metric`, `value` and `step` of the best evaluation by checkpoint.best; None if the config sets none."""
        return self.final.get("best")


# --- training ---


def train(
    config: ConfigLike,
    *,
    name: str | None = None,
    nproc: int | None = None,
    resume: bool = False,
    quiet: bool = False,
    arguments: Sequence[str] = (),
    overrides: Mapping[str, Any] | None = None,
    **more_overrides: Any,
) -> Result:
    """Runs `distdl train` to its end, its output passed on line by line.

    `config` is the path of a YAML file or a mapping like its content, which needs a `name`. Overrides are written
    optim__lr=0.1 or overrides={"optim.lr": 0.1}; `arguments` are further words of the command line, such as
    ("--from", "other"). Raises UserError for a mistake and TrainingFailed for any other failure. Ctrl-C stops the run
    as it would in a terminal: it is saved, and then KeyboardInterrupt is raised; a second one stops it at once.
    """
    if name is None:
        if isinstance(config, Mapping):
            raise UserError("a config that is a mapping has no name", where="distdl.train", fix='Add name="...".')
        name = Path(config).stem
    with _as_file(config) as path:
        changes = _override_words(overrides, more_overrides)
        _load(path, changes, config)  # every mistake in it is told before anything is started
        flags = ["--name", name, *["--resume"] * resume, *["--quiet"] * quiet]
        flags += ["--nproc", str(nproc)] if nproc is not None else []
        command = [sys.executable, "-m", "distdl", "train", str(path), *changes, *flags, *arguments]
        exit_code, last_lines = _run(command)
    if exit_code == EXIT_USER_ERROR:
        raise UserError(_mistake(RunFolder(places.runs_root() / name), "".join(last_lines)))
    if exit_code not in _OUTCOMES:
        raise TrainingFailed(name, exit_code, last_lines)
    folder = RunFolder(places.runs_root() / name)
    final: dict[str, Any] = {}
    with contextlib.suppress(OSError, ValueError):  # stopped before there was anything to write
        final = json.loads(folder.final.read_text())
    return Result(name=name, folder=folder.path, outcome=_OUTCOMES[exit_code], exit_code=exit_code, final=final)


def _mistake(folder: RunFolder, output: str) -> str:
    """What the user did wrong: said after "error: ", or by a worker that left a record of it."""
    if match := re.search(r"(?ms)^error: (.*)", output):
        return match[1].rstrip()
    cause = failures.first_cause(failures.read_all(folder, attempt=0))  # a mistake is not tried again
    return cause.message if cause else output.rstrip()


def _run(command: Sequence[str]) -> tuple[int, list[str]]:
    """The exit code and the last lines of a process, whose output goes to sys.stdout as it comes."""
    last_lines: deque[str] = deque(maxlen=_N_LAST_LINES)
    interrupted = False
    with subprocess.Popen(
        command,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,  # a Ctrl-C in the terminal or notebook reaches this process alone, which passes it on
        preexec_fn=stop_with_caller,  # a notebook whose kernel is killed leaves a run that was saved
    ) as process:
        assert process.stdout
        try:
            while process.returncode is None:
                try:
                    for line in process.stdout:
                        last_lines.append(line)
                        print(line, end="", flush=True)
                    process.wait()
                except KeyboardInterrupt:
                    interrupted = True
                    process.send_signal(signal.SIGINT)
        except BaseException:
            process.terminate()  # "save and stop"; leaving the `with` waits for it
            raise
    if interrupted:
        raise KeyboardInterrupt
    return process.returncode, list(last_lines)


# --- what came of it ---


def metrics(run: str | os.PathLike[str], *, kind: str | None = None) -> list[dict[str, Any]]:
    """The rows of a run's metrics.jsonl, or those of a kind: "train", "eval", "event". `run`: its folder or name."""
    from distdl.track import jsonl

    if kind not in (None, *jsonl.KINDS):
        raise UserError(f"there are no rows of kind '{kind}'{did_you_mean(kind, jsonl.KINDS)}", where="distdl.metrics")
    return [row for row in jsonl.read(find(os.fspath(run)).metrics) if kind in (None, row.get("kind"))]


def load_model(
    run: str | os.PathLike[str], step: int | str | None = None, *, device: str = "cpu", trust_plugins: bool = False
) -> "nn.Module":
    """A run's network in evaluation mode: of a step, "best", or the newest; with the averaged weights if it keeps them.

    Raises UserError, also for a run that brings its own code and is not yours: see `trust_plugins` in distdl.run.trust.
    """
    import torch

    from distdl.trainer import trained

    with torch.random.fork_rng(devices=[]):  # the caller's generator is not ours to seed
        of_run = trained.of_run(os.fspath(run), step, ["train.device=cpu"], trust_plugins=trust_plugins)
    return of_run.model.to(device)


def batches(
    config: ConfigLike,
    *,
    split: str = "train",
    epochs: float = 1.0,
    rank: int = 0,
    world_size: int = 1,
    device: str = "cpu",
    trust_plugins: bool = False,
) -> Iterator[dict[str, "Tensor"]]:
    """The batches of a worker as its network would see them; of one of several, its share of each global batch.

    `image` (rows, channels, height, width) as normalised fp32, `label`, `valid` (0: padding, or a bad sample) and
    `sample_id`, and what else the task asks for. `split` is "train", in the order of training and augmented, or the
    name of an evaluation split ("eval" if there is one), whole and in its own order. Raises UserError.
    """
    import torch

    from distdl import models, plugins, registry
    from distdl.comm.world import WorldInfo
    from distdl.data.order import sequential_rows
    from distdl.data.pictures import resolution
    from distdl.trainer import setup
    from distdl.trainer.loaders import LoaderFactory, build_plan, open_dataset
    from distdl.trainer.step import to_device

    with _as_file(config) as path:
        settings = _load(path, (), config)
        trust.check_file(path, settings, trust_plugins)
    where = split if split == "train" else f"eval.{split}" if split != "eval" else "eval"
    splits = {**settings.data.eval_sets, "train": settings.data.train}
    if not 0 <= rank < world_size:
        raise UserError(f"there is no rank {rank} of {world_size} workers", where="distdl.batches")
    if split not in splits:
        raise UserError(f"the config has no split '{split}'{did_you_mean(split, splits)}", where="data")
    with registry.using(plugins.load(plugins.read(settings.plugins))):
        with torch.random.fork_rng(devices=[]):  # the caller's draws stay as they were
            model = models.build(settings.model.name, settings.model.args)  # its outputs say how labels are read
        make = LoaderFactory(settings, WorldInfo(), torch.device("cpu"), model, setup.build_task(settings))
        dataset = open_dataset(splits[split], f"data.{where}", settings.data, for_training=split == "train")
        plan = build_plan(settings, dataset) if split == "train" else None
        loader = make(splits[split], f"data.{where}", dataset, plan)
    if plan:
        end = plan.end_position(epochs=epochs, steps=None)
        steps = plan.steps(0, end, end=end)
        if growing := settings.train.resolution:
            steps = resolution.with_sides(steps, growing, 0, plan.epoch_length)
        rows = (each.part(rank, world_size) for each in steps)
    else:
        n_samples, n_rows = loader.dataset.n_samples, settings.train.eval_batch
        rows = (sequential_rows(n_samples, i, n_rows) for i in range(rank, -(-n_samples // n_rows), world_size))

    def stream() -> Iterator[dict[str, "Tensor"]]:
        with contextlib.closing(loader), contextlib.closing(loader.stream(rows)) as hosts:
            for host in hosts:
                batch = to_device(host.tensors, loader, torch.device(device), settings.train)
                yield {**batch, "sample_id": host.tensors["sample_id"]}

    return stream()


# --- configs ---


@contextlib.contextmanager
def _as_file(config: ConfigLike) -> Iterator[Path]:
    """The config's path; a mapping is written into a file that is gone afterwards. Its paths start at this folder."""
    if not isinstance(config, Mapping):
        yield Path(config)
        return
    values = dict(config)
    if isinstance(values.get("base"), str | os.PathLike):
        values["base"] = str(Path(values["base"]).absolute())
    if isinstance(values.get("plugins"), list | tuple):
        values["plugins"] = [str(Path(each).absolute()) for each in values["plugins"]]
    with tempfile.TemporaryDirectory(prefix="distdl-") as folder:
        path = Path(folder) / "config.yaml"
        path.write_text("".join(f"{flow(key)}: {_flow(key, value)}\n" for key, value in values.items()), "utf-8")
        yield path


def _load(path: Path, overrides: Sequence[str], config: ConfigLike) -> Config:
    try:
        loaded = load(path, overrides).config
        places.use(loaded.paths)
        return loaded
    except UserError as error:
        if isinstance(config, Mapping):
            raise UserError(str(error).replace(str(path), "config")) from None
        raise


def _override_words(overrides: Mapping[str, Any] | None, more: Mapping[str, Any]) -> list[str]:
    """{"optim.lr": 0.1} and {"optim__lr": 0.1} -> ["optim.lr=0.1"]"""
    given = dict(overrides or {}) | {name.replace("__", "."): value for name, value in more.items()}
    return [f"{name}={_flow(name, value)}" for name, value in given.items()]


def _flow(name: str, value: Any) -> str:
    import yaml

    try:
        return flow(os.fspath(value) if isinstance(value, os.PathLike) else value)
    except yaml.YAMLError:
        raise UserError(f"{value!r} can't be written into a config", where=name, fix="Use plain values.") from None
