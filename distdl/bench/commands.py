"""`distdl bench ...`: arguments and what they call. Imports torch only when a command runs."""

import argparse
import json
import re
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from distdl.errors import EXIT_DONE, UserError

Arguments = argparse.Namespace
Add = Callable[[str, Callable[[Arguments], int], str], argparse.ArgumentParser]


def add_arguments(add: Add) -> None:
    """`add(name, run, text)` makes the parser of one command."""
    command = add("step", step, "the step of a config: samples/s, its phases, MFU, and against a bare loop")
    command.add_argument("config", type=Path, metavar="CONFIG", help="YAML file")
    command.add_argument("overrides", nargs="*", metavar="a.b=c", help="change a key of the config")
    command.add_argument("--steps", type=int, default=100, metavar="N", help="steps of each loop (default: 100)")
    command.add_argument("--nproc", type=int, default=1, metavar="N", help="workers on this machine (default: 1)")
    command.add_argument("--image", metavar="HxWxC", help="size of images of noise, where the data is not there")
    command.add_argument("--trust-plugins", action="store_true", help="execute the code that a stranger's run brings")
    command.add_argument("--json", action="store_true", help="for programs")


def step(arguments: Arguments) -> int:
    from distdl.comm.world import WorldInfo, detect
    from distdl.config import load
    from distdl.launch import supervise, worker
    from distdl.run import trust
    from distdl.run.folder import RunFolder

    worker.tie_to_supervisor()
    if arguments.steps < 1 or arguments.nproc < 1:
        raise UserError("at least one is needed", where="command line --steps, --nproc")
    image_shape = _image_shape(arguments.image) if arguments.image else None
    config = load(arguments.config, arguments.overrides).config
    trust.check_file(arguments.config, config)
    world = detect()
    if world is None and arguments.nproc > 1:
        with tempfile.TemporaryDirectory(prefix="distdl-bench-") as folder:
            command = [sys.executable, "-m", "distdl", *sys.argv[1:]]
            return supervise.run(command, arguments.nproc, RunFolder(Path(folder)))
    from distdl.bench.step import measure, report

    result = measure(config, world or WorldInfo(), arguments.steps, image_shape)
    if world is None or world.rank == 0:  # rank 0 only
        print(json.dumps(result, indent=2) if arguments.json else report(result))
    return EXIT_DONE


def _image_shape(text: str) -> tuple[int, ...]:
    if not re.fullmatch(r"[1-9]\d*x[1-9]\d*x[13]", text):
        raise UserError(f"'{text}' is not a size of images", where="command line --image", fix="Such as 224x224x3.")
    return tuple(map(int, text.split("x")))
