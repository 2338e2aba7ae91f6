"""The command line. Nothing here imports torch before it has to: --help and every mistake in a config answer at once.

Each command is a function that takes the parsed arguments and returns the exit code.
"""

import argparse
import importlib
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from distdl import __version__
from distdl.errors import EXIT_DONE, EXIT_USER_ERROR, ProcessLost, UserError
from distdl.run import exhausted

Arguments = argparse.Namespace

_SUBMIT_PACK = "submit-data-pack"


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parse(argv)
    if getattr(arguments, "trust_plugins", False):
        os.environ["DISTDL_TRUST_PLUGINS"] = "1"  # see distdl.run.trust; the workers inherit it
    exhausted.raise_open_files()
    try:
        return arguments.command(arguments)
    except (UserError, ProcessLost) as error:
        from distdl.launch import worker

        return worker.refuse(error)
    except BrokenPipeError:  # the reader of our output has seen enough, as in `distdl zoo | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return EXIT_DONE
    except OSError as error:
        mistake = exhausted.as_users_mistake(error)
        if mistake is None:
            raise
        print(f"error: {mistake}", file=sys.stderr)
        return EXIT_USER_ERROR


# --- train ---


def train(arguments: Arguments) -> int:
    """One device: in this process. Several, or --nproc: starts and supervises them. Under torchrun: is a worker."""
    from distdl.comm.world import WorldInfo, detect
    from distdl.config import load
    from distdl.launch import spares, worker
    from distdl.launch.plan import check_number_of_workers, check_started
    from distdl.run import names, places, trust
    from distdl.run.folder import RunFolder
    from distdl.run.open import open_run
    from distdl.trainer.profile import Profile

    worker.tie_to_supervisor()
    if spares.is_spare():
        import distdl.trainer.worker  # noqa: F401 (what takes seconds)

        spares.wait_at_gate()
    worker.tell_of_oneself()
    if worker.is_supervised():
        folder = RunFolder(Path(os.environ["DISTDL_RUN_FOLDER"]))
        own = detect() or WorldInfo()
        config = load(folder.config).config
        places.use(config.paths)
        return _work(arguments, config, own, folder.path, folder, worker.fence())
    if arguments.weights_only and not arguments.start_from:
        raise UserError("whose weights?", where="command line --weights-only", fix="Add --from RUN.")
    if arguments.max_restarts < 0:
        raise UserError(f"{arguments.max_restarts} is less than none", where="command line --max-restarts")
    if arguments.profile:
        Profile.parse(arguments.profile)
    for name in ("min_nodes", "max_nodes"):
        if getattr(arguments, name) is not None and arguments.hosts is None:
            where = f"command line --{name.replace('_', '-')}"
            raise UserError("of which hosts?", where=where, fix="Add --hosts a:8,b:8.")
    config = load(arguments.config, _overrides(arguments)).config
    trust.check_file(arguments.config, config)
    places.use(config.paths)
    worker.leave_when_told(config.train.stop_signals)
    world = detect(backend=config.dist.backend)
    if world is not None:
        check_started(world.local_world_size, arguments.nproc)
        check_number_of_workers(world.world_size, arguments.min_workers, arguments.max_workers)
    path = places.runs_root() / names.of_run(arguments.config, arguments.name)
    if arguments.hosts is not None:
        return _train_on_hosts(arguments, config, path.name, world)
    if world is not None:
        return _work(arguments, config, world, path, None, None)

    nproc = _number_of_workers(arguments, config.train.device)
    if arguments.check:
        path = Path(tempfile.mkdtemp(prefix="distdl-check-")) / path.name
    try:
        opened = open_run(path, config, resume=arguments.resume, per_node=nproc)
        for change in opened.changes:
            print(f"changed since this run was started: {change}")
        if nproc > 1 or arguments.nproc or arguments.max_workers:
            from distdl.launch.local import train_locally

            return train_locally(
                _worker_arguments(arguments),
                nproc,
                opened.folder,
                opened.lease,
                max_restarts=arguments.max_restarts,
                min_workers=arguments.min_workers,
                stop_signals=config.train.stop_signals,
                stall_s=config.dist.stall_s,
                is_mpi=config.dist.backend == "mpi",
            )
        return _work(arguments, config, WorldInfo(), path, opened.folder, opened.lease.fence)
    finally:
        if arguments.check:
            shutil.rmtree(path.parent, ignore_errors=True)


def _train_on_hosts(arguments: Arguments, config: Any, name: str, world: Any) -> int:
    from distdl.launch import hosts, remote

    if world is not None or arguments.nproc or arguments.min_workers or arguments.max_workers:
        what = "a launcher has started this process already" if world else "--hosts says how many workers each host has"
        raise UserError(what, where="command line --hosts", fix="Say it without the other.")
    specs = remote.parse(arguments.hosts)
    least, most = arguments.min_nodes, arguments.max_nodes
    if most is not None and not 0 < most <= len(specs):
        raise UserError(f"there are {len(specs)} hosts", where=f"command line --max-nodes {most}")
    if least is not None and not 0 < least <= (most or len(specs)):
        raise UserError(f"there are {most or len(specs)} hosts", where=f"command line --min-nodes {least}")
    flags, restarts = _worker_arguments(arguments)[2:], arguments.max_restarts
    return hosts.train(specs, config, flags, name, max_restarts=restarts, min_nodes=least, max_nodes=most)


def _work(arguments: Arguments, config: Any, world: Any, path: Path, opened: Any, fence: int | None) -> int:
    from distdl.launch.worker import attempt, leave_undisturbed
    from distdl.trainer.profile import Profile
    from distdl.trainer.worker import Launch, run_worker

    screen = os.environ.get("DISTDL_SCREEN") or ("tty" if sys.stdout.isatty() and world.world_size == 1 else "plain")
    launch = Launch(
        path=path,
        resume=arguments.resume or attempt() > 0,  # torchrun has started the workers again
        opened=opened,
        fence=fence,
        verbosity=arguments.verbose - arguments.quiet,
        screen="tty" if screen == "tty" else "plain",
        start_from=arguments.start_from,
        weights_only=arguments.weights_only,
        check=arguments.check,
        profile=Profile.parse(arguments.profile) if arguments.profile else None,
    )
    code = run_worker(config, launch, world)
    leave_undisturbed(config.train.stop_signals)
    return code


def _overrides(arguments: Arguments) -> list[str]:
    backend = [f"dist.backend={arguments.backend}"] if arguments.backend else []
    return [*arguments.overrides, *backend]


def _number_of_workers(arguments: Arguments, device: str) -> int:
    from distdl.launch.plan import check_nproc, check_number_of_workers, local_devices

    nproc = arguments.max_workers if arguments.nproc is None else arguments.nproc
    if nproc is None:
        nproc = 1 if device == "cpu" else max(1, local_devices())
    check_nproc(nproc)
    check_number_of_workers(nproc, arguments.min_workers, arguments.max_workers)
    return int(nproc)


def _worker_arguments(arguments: Arguments) -> list[str]:
    """The command line of a worker: the run folder's config holds the rest."""
    flags = ["-v"] * arguments.verbose + ["-q"] * arguments.quiet
    flags += ["--resume"] * arguments.resume + ["--check"] * arguments.check
    if arguments.profile:
        flags += ["--profile", arguments.profile]
    if arguments.start_from:
        flags += ["--from", arguments.start_from] + ["--weights-only"] * arguments.weights_only
    return ["train", str(arguments.config), *flags]


# --- looking at runs ---


def evaluate(arguments: Arguments) -> int:
    from distdl.inference.evaluate import evaluate_config, evaluate_runs

    what = Path(arguments.run)
    views: Literal[1, 2, 10] = 10 if arguments.ten_crop else 2 if arguments.mirror else 1
    others = [word for word in arguments.overrides if "=" not in word]
    overrides = [word for word in arguments.overrides if "=" in word]
    if what.suffix in (".yaml", ".yml"):
        if others:
            raise UserError("several opinions are those of runs, not of a config", where=f"command line {others[0]}")
        rows = evaluate_config(what, overrides, arguments.weights, views=views)
    else:
        if arguments.weights and arguments.step:
            raise UserError("--step and --weights are two answers to one question", where="command line --weights")
        if others and (arguments.weights or arguments.step):
            option = "--weights" if arguments.weights else "--step"
            raise UserError("of which of these runs?", where=f"command line {option}", fix="Write RUN@STEP instead.")
        runs = [arguments.run, *others]
        rows = evaluate_runs(runs, arguments.step, overrides, _warn, arguments.weights, views=views)
    _print_json(rows)
    return EXIT_DONE


def hash_(arguments: Arguments) -> int:
    from distdl.checkpoint.load import at_step, weights_hash
    from distdl.run.folder import find

    checkpoint = at_step(find(arguments.run), arguments.step, only="model/", warn=_warn)
    print(f"{weights_hash(checkpoint)}  {arguments.run}@{checkpoint.step}")
    return EXIT_DONE


def average(arguments: Arguments) -> int:
    from distdl.trainer.average import average as average_run

    try:
        steps = [int(step) for step in arguments.steps.split(",")] if arguments.steps else []
        n_samples = None if arguments.bn_samples == "all" else int(arguments.bn_samples)
    except ValueError as error:
        raise UserError(f"not a whole number ({error})", where="command line --steps, --bn-samples") from None
    rows = average_run(
        arguments.run, last=arguments.last, steps=steps, out=arguments.out, bn_samples=n_samples, warn=_warn
    )
    _print_json(rows)
    return EXIT_DONE


# --- configs, networks, data ---


def explain(arguments: Arguments) -> int:
    from distdl.trainer.explain import explain as explain_row

    place = {"step": arguments.step, "rank": arguments.rank, "row": arguments.row}
    print(explain_row(arguments.run, **place, world_size=arguments.world_size))
    return EXIT_DONE


def config_show(arguments: Arguments) -> int:
    from distdl.config import load, show

    print(show(load(arguments.config, arguments.overrides), diff=arguments.diff))
    return EXIT_DONE


def zoo(arguments: Arguments) -> int:
    from distdl.models import zoo as networks

    pattern = arguments.name or "*"
    is_one = "*" not in pattern and arguments.family is None
    found: Any = networks.describe(pattern) if is_one else networks.summary(pattern, arguments.family)
    if arguments.json:
        _print_json(found)
    else:
        print(networks.format_network(found) if is_one else networks.format_table(found))
    return EXIT_DONE


# --- the parser ---


def parse(argv: Sequence[str] | None) -> Arguments:
    """Overrides (a.b=c) may stand anywhere, also behind options, where argparse alone doesn't look for them."""
    top = parser()
    words = list(sys.argv[1:] if argv is None else argv)
    if not words:
        top.print_help(sys.stderr)
        top.exit(EXIT_USER_ERROR)
    if words[:3] == ["submit", "data", "pack"]:  # a command of its own: `data` is no config
        words[:3] = [_SUBMIT_PACK]
    arguments, rest = top.parse_known_args(words)
    unknown = [word for word in rest if word.startswith("-") or not hasattr(arguments, "overrides")]
    if unknown:
        top.error(f"unrecognized arguments: {' '.join(unknown)}")
    if rest:
        arguments.overrides = [*arguments.overrides, *rest]
    return arguments


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="distdl",
        description="Data-parallel training on sharded corpora, over any number of GPUs and nodes.",
        epilog="Start here: distdl train configs/digits/lenet5.yaml --nproc 2",
    )
    top.add_argument("--version", action="version", version=f"distdl {__version__}")
    commands = top.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_train(commands)
    _add_submit(commands)
    _add_data(commands)
    _add_bench(commands)

    command = _add(commands, "config", None, "look at a config")
    show = _add(command.add_subparsers(metavar="COMMAND", required=True), "show", config_show, "the resolved config")
    _config_and_overrides(show)
    show.add_argument("--diff", action="store_true", help="only what differs from the defaults, and where it is set")

    command = _add(commands, "fetch", _later("trainer.published", "fetch_of_config"), "bring here a config's weights")
    _config_and_overrides(command)

    command = _add(commands, "zoo", zoo, "networks: parameters, multiply-accumulates, papers")
    command.add_argument("name", nargs="?", metavar="NAME", help="one network, layer by layer; or some, as 'resnet*'")
    command.add_argument("--family", help="those of a family, such as ResNet")
    command.add_argument("--json", action="store_true", help="for programs")

    command = _add(commands, "eval", evaluate, "evaluate a run, the mean of several, or a config with --weights")
    command.add_argument("run", metavar="RUN|CONFIG", help="run folder or name, as RUN@STEP at a step; or a config")
    command.add_argument(
        "overrides", nargs="*", metavar="RUN|a.b=c", help="further runs, whose probabilities are averaged; config keys"
    )
    views = command.add_mutually_exclusive_group()
    views.add_argument("--mirror", action="store_true", help="the mean of each image and its mirror image")
    views.add_argument("--ten-crop", action="store_true", help="the mean of four corners and centre, each mirrored")
    command.add_argument("--step", help="the checkpoint of this step, or 'best' (default: the newest)")
    command.add_argument("--weights", metavar="FILE|torchvision:NAME|timm:NAME", help="the weights")
    _trust_plugins(command)

    from distdl.inference import commands as inference
    from distdl.speech import commands as speech

    command = _add(commands, "predict", inference.predict, "the best classes of images, the text of sounds, by a run")
    inference.add_predict(command)
    _trust_plugins(command)

    command = _add(commands, "export", inference.export, "a run's weights for other programs")
    inference.add_export(command)
    _trust_plugins(command)

    speech.add_lm(_add(commands, "lm", speech.lm, "learn a language model of words from text"))
    speech.add_pieces(_add(commands, "pieces", speech.pieces, "learn pieces of words from text"))
    speech.add_cmvn(_add(commands, "cmvn", _later("trainer.corpus_statistics", "command"), "a corpus's mean features"))

    command = _add(commands, "average", average, "the mean of a run's last checkpoints, as one file of weights")
    command.add_argument("run", metavar="RUN", help="run folder or name")
    command.add_argument("--last", type=int, metavar="K", help="of the K newest checkpoints")
    command.add_argument("--steps", metavar="A,B,...", help="of the checkpoints of these steps")
    command.add_argument("--out", type=Path, metavar="FILE", help="default: averaged-last-K.safetensors in the run")
    command.add_argument(
        "--bn-samples",
        default="10000",
        metavar="N|all",
        help="training samples from which batch norm's statistics are estimated anew (default: 10000)",
    )
    _trust_plugins(command)

    from distdl.run import listing

    listing.add_arguments(_add(commands, "runs", listing.run, "the runs here, their state and last metrics"))

    command = _add(commands, "why", _later("run.failures", "why"), "the first cause of a run's failure")
    command.add_argument("run", metavar="RUN", help="run folder or name")
    command.add_argument("--quiet", action="store_true", help="say nothing where none is on record")

    command = _add(
        commands,
        "sync",
        _later("track.sync", "run"),
        "send the metrics of runs to wandb, as far as it lacks them; repeatable",
    )
    command.add_argument("runs", nargs="+", metavar="RUN", help="run folder or name")
    command.add_argument("--project", metavar="P", help="instead of track.wandb.project")
    command.add_argument("--entity", metavar="E", help="instead of track.wandb.entity")
    command.add_argument("--mode", choices=("online", "offline"), default="online", help="offline: into files here")

    command = _add(commands, "hash", hash_, "SHA-256 of a run's weights and buffers: are two runs the same?")
    command.add_argument("run", metavar="RUN", help="run folder or name")
    command.add_argument("--step", help="the checkpoint of this step, or 'best' (default: the newest)")

    from distdl.doctor import commands as doctoring

    command = _add(commands, "doctor", doctoring.doctor, "is this machine fit to train on, and are the links to others")
    doctoring.add_arguments(command)

    from distdl.report import commands as reporting

    command = _add(commands, "report", reporting.report, "one HTML file about a run, or about several side by side")
    reporting.add_arguments(command)
    _trust_plugins(command)
    return top


def _add_train(commands: Any) -> None:
    command = _add(commands, "train", train, "train what a config describes")
    _config_and_overrides(command)
    command.add_argument("--nproc", type=int, metavar="N", help="workers on this machine (default: one per GPU)")
    command.add_argument("--hosts", metavar="A:8,B:8|FILE", help="workers on other machines, by ssh")
    command.add_argument(
        "--min-nodes", type=int, metavar="N", help="go on without hosts that are lost, if so many are left"
    )
    command.add_argument("--max-nodes", type=int, metavar="N", help="never on more; the other hosts wait for a place")
    command.add_argument("--backend", choices=("auto", "nccl", "gloo", "mpi"), help="same as dist.backend=...")
    command.add_argument("--name", metavar="RUN", help="name below runs/ (default: the config's stem)")
    command.add_argument("--resume", action="store_true", help="go on with the run, or start it if there is none")
    command.add_argument("--from", dest="start_from", metavar="RUN[@STEP]", help="start from another run's checkpoint")
    command.add_argument("--weights-only", action="store_true", help="with --from: take the weights, start at step 0")
    command.add_argument("--check", action="store_true", help="build all, try one step, evaluation and save, and stop")
    command.add_argument("--profile", metavar="A:B", help="trace steps A to B-1 of this launch, such as 10:13")
    command.add_argument(
        "--max-restarts",
        type=int,
        default=0,
        metavar="N",
        help="restart failed workers, up to N times in a row without a new checkpoint",
    )
    command.add_argument(
        "--min-workers", type=int, metavar="N", help="go on with the others after a restart, if they are so many"
    )
    command.add_argument("--max-workers", type=int, metavar="N", help="never more than so many (default: --nproc)")
    _trust_plugins(command)
    command.add_argument("-v", "--verbose", action="count", default=0, help="more on the screen")
    command.add_argument("-q", "--quiet", action="count", default=0, help="evaluations, warnings and the end only")


def _add_submit(commands: Any) -> None:
    from distdl.launch import sweep
    from distdl.launch.slurm import pack_job, submit

    command = _add(commands, "sweep", sweep.sweep, "a run for each point of a grid, on this machine")
    command.add_argument("config", type=Path, metavar="CONFIG", help="YAML file")
    sweep.add_arguments(command)
    command.add_argument("overrides", nargs="*", metavar="a.b=c", help="change a key of the config")
    _trust_plugins(command)

    text = "train what a config describes, as a job of Slurm's; submit data pack ...: pack a corpus by an array of jobs"
    command = _add(commands, "submit", submit.submit, text)
    _config_and_overrides(command)
    submit.add_arguments(command)
    _trust_plugins(command)

    from distdl.data.commands import add_pack

    command = commands.add_parser(
        _SUBMIT_PACK, prog="distdl submit data pack"
    )  # without a line in the list of commands
    command.set_defaults(command=pack_job.submit_pack)
    pack_job.add_arguments(command, add_pack(command))


def _add_data(commands: Any) -> None:
    data = _add(commands, "data", None, "make and look after shards").add_subparsers(metavar="COMMAND", required=True)
    from distdl.data.commands import add_arguments  # knows the kinds of source; numpy comes only with the commands

    add_arguments(lambda name, run, text: _add(data, name, run, text))
    command = _add(data, "explain", explain, "which sample stood in a row of a batch, and where it lies")
    command.add_argument("run", metavar="RUN", help="run folder or name")
    command.add_argument("--step", type=int, required=True, metavar="S", help="as in metrics.jsonl: the first is 1")
    command.add_argument("--rank", type=int, required=True, metavar="R", help="the worker, from 0 on")
    command.add_argument("--row", type=int, required=True, metavar="I", help="of the worker's rows, from 0 on")
    command.add_argument("--world-size", type=int, metavar="W", help="workers (default: those of the last start)")
    _trust_plugins(command)


def _add_bench(commands: Any) -> None:
    bench = _add(commands, "bench", None, "measure speed").add_subparsers(metavar="COMMAND", required=True)
    from distdl.bench.commands import add_arguments

    add_arguments(lambda name, run, text: _add(bench, name, run, text))


def _trust_plugins(command: argparse.ArgumentParser) -> None:
    command.add_argument("--trust-plugins", action="store_true", help="execute the code that a stranger's run brings")


def _config_and_overrides(command: argparse.ArgumentParser) -> None:
    command.add_argument("config", type=Path, metavar="CONFIG", help="YAML file")
    command.add_argument("overrides", nargs="*", metavar="a.b=c", help="change a key of the config")


def _later(module: str, name: str) -> Callable[[Arguments], int]:
    """A function that is imported when it is called."""
    return lambda arguments: int(getattr(importlib.import_module(f"distdl.{module}"), name)(arguments))


def _add(commands: Any, name: str, run: Callable[[Arguments], int] | None, text: str) -> argparse.ArgumentParser:
    command = commands.add_parser(name, help=text, description=text)
    if run is not None:
        command.set_defaults(command=run)
    return command


def _warn(message: str) -> None:
    print(f"warning: {message}", file=sys.stderr)


def _print_json(value: Any) -> None:
    import json

    print(json.dumps(value, indent=2))
