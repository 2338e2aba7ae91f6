"""`distdl bench ...`: arguments and what they call. Imports torch only when a command runs."""

import argparse
import json
import os
import re
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from distdl.bench import bandwidth
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

    command = add("comm", comm, "latency and bandwidth of the collectives by size, beside a copy in memory")
    command.add_argument(
        "--sizes", default=bandwidth.SIZES, metavar="S,...", help=f"bytes (default: {bandwidth.SIZES})"
    )
    command.add_argument("--ops", metavar="NAME,...", help=f"default: all of {', '.join(bandwidth.FACTORS)}")
    command.add_argument(
        "--backend", default="auto", metavar="B", help="auto (nccl with GPUs, else gloo), gloo, nccl or mpi"
    )
    command.add_argument("--nproc", type=int, metavar="N", help="workers on this machine (default: one per GPU)")
    command.add_argument("--dtype", default="fp32", metavar="T", help="fp32 (the default) or bf16")
    how_long = command.add_mutually_exclusive_group()
    how_long.add_argument(
        "--seconds-each", type=float, default=0.3, metavar="S", help="for each operation and size (default: 0.3)"
    )
    how_long.add_argument("--iterations", type=int, metavar="N", help="or: how many calls of each are timed")
    command.add_argument("--json", action="store_true", help="for programs")
    command.add_argument("--plot", type=Path, metavar="FILE.png", help="bus bandwidth over size, as a picture")


def step(arguments: Arguments) -> int:
    from distdl.comm.world import WorldInfo, detect
    from distdl.config import load
    from distdl.launch import worker
    from distdl.launch.plan import check_nproc
    from distdl.run import places, trust

    worker.tie_to_supervisor()
    worker.tell_of_oneself()
    if arguments.steps < 1:
        raise UserError("at least one is needed", where="command line --steps")
    check_nproc(arguments.nproc)
    image_shape = _image_shape(arguments.image) if arguments.image else None
    config = load(arguments.config, arguments.overrides).config
    trust.check_file(arguments.config, config)
    places.use(config.paths)
    world = detect(backend=config.dist.backend)
    if world is None and arguments.nproc > 1:
        return _start_workers(arguments.nproc, config.dist.backend)
    from distdl.bench.step import measure, report

    world = world or WorldInfo()

    def measure_and_tell() -> None:
        result = measure(config, world, arguments.steps, image_shape)
        if world.rank == 0:  # rank 0 only
            print(json.dumps(result, indent=2) if arguments.json else report(result))

    return _as_worker(world.rank, measure_and_tell)


def comm(arguments: Arguments) -> int:
    from distdl.comm.world import detect
    from distdl.launch import worker
    from distdl.launch.plan import local_devices

    worker.tie_to_supervisor()
    worker.tell_of_oneself()
    wanted = _wanted(arguments)
    world = detect(backend=wanted.backend)
    nproc = arguments.nproc
    if nproc is None:
        nproc = 1 if wanted.backend in ("gloo", "mpi") else local_devices()
    if (nproc if world is None else world.world_size) <= 1:
        raise UserError(
            "one worker alone has nobody to send anything to",
            fix="Add --nproc 2, or start it by torchrun: torchrun --nproc-per-node 2 -m distdl bench comm",
        )
    if world is None:
        return _start_workers(nproc, wanted.backend)
    from distdl.bench.comm import measure

    rank, is_shown = world.rank, world.rank == 0 and not arguments.json

    def measure_and_tell() -> None:
        result = measure(wanted, world, lambda text: print(text, flush=True) if is_shown else None)
        if rank == 0:  # rank 0 only
            result["stored"], told = _store(result)
            print(json.dumps(result, indent=2) if arguments.json else f"\n{told}")
            if arguments.plot:
                bandwidth.plot(result, arguments.plot)
                if is_shown:
                    print(f"plotted in {arguments.plot}")

    return _as_worker(rank, measure_and_tell)


def _wanted(arguments: Arguments) -> bandwidth.Wanted:
    from distdl.launch.plan import check_nproc

    if arguments.nproc is not None:
        check_nproc(arguments.nproc)
    if arguments.iterations is not None and arguments.iterations < 1:
        raise UserError("at least one is needed", where="command line --iterations")
    if not 0 < arguments.seconds_each <= 3600:
        raise UserError("more than 0 and at most 3600 s", where="command line --seconds-each")
    operations = None if arguments.ops is None else bandwidth.parse_operations(arguments.ops)
    if arguments.plot:
        bandwidth.check_plot(arguments.plot, operations)
    return bandwidth.Wanted(
        sizes=bandwidth.parse_sizes(arguments.sizes),
        operations=operations,
        backend=bandwidth.parse_name(arguments.backend, bandwidth.BACKENDS, "backend", "--backend"),
        dtype=bandwidth.parse_name(arguments.dtype, bandwidth.DTYPES, "type", "--dtype"),
        seconds_each=arguments.seconds_each,
        iterations=arguments.iterations,
    )


def _store(result: bandwidth.Row) -> tuple[dict[str, Any] | None, str]:
    """Keeps the all-reduce for runs on this machine, if it was measured well enough; and what there is to say of it."""
    from distdl.run import tuned

    rows = [row for row in result["rows"] if row["operation"] == "all_reduce" and result["dtype"] == "fp32"]
    if result["nodes"] is None or not tuned.is_enough(rows):
        return None, "not stored for dist.bucket_mib: auto: that takes all_reduce, fp32, from 1M or less to 16M or more"
    nodes, per_node, backend = result["nodes"], result["workers_per_node"], result["backend"]
    try:
        path = tuned.record(nodes, per_node, backend, rows, torch_version=result["torch"])
    except (OSError, RuntimeError) as error:
        return None, f"not stored for dist.bucket_mib: auto: {error}"
    bucket_mib = tuned.choose_bucket_mib(rows)
    where = f"{nodes} x {per_node} workers by {backend} here"
    return {"file": str(path), "bucket_mib": bucket_mib}, (
        f"dist.bucket_mib: auto will use {bucket_mib:g} MiB for {where} (not for a tree)\nstored in {path}"
    )


def _as_worker(rank: int, work: Callable[[], None]) -> int:
    """The exit code. A failure is told where this worker's supervisor, if it has one, looks for it."""
    from distdl.comm import ending, mpi_library
    from distdl.launch import worker
    from distdl.run.folder import RunFolder

    try:
        work()
    except Exception as error:
        folder = RunFolder(Path(os.environ["DISTDL_RUN_FOLDER"])) if worker.is_supervised() else None
        code = worker.report(error, folder, rank)
        if mpi_library.is_started():  # at whose end all wait for each other
            ending.without_the_others(code)
        return code
    return EXIT_DONE


def _start_workers(nproc: int, backend: str) -> int:
    """This command as `nproc` workers on this machine."""
    from distdl.launch import supervise
    from distdl.launch.mpi_job import find_launcher
    from distdl.run.folder import RunFolder

    with tempfile.TemporaryDirectory(prefix="distdl-bench-") as folder:
        command = [sys.executable, "-m", "distdl", *sys.argv[1:]]
        return supervise.run(
            command, nproc, RunFolder(Path(folder)), stop_signals=(), mpi=find_launcher() if backend == "mpi" else None
        )


def _image_shape(text: str) -> tuple[int, ...]:
    if not re.fullmatch(r"[1-9]\d*x[1-9]\d*x[13]", text):
        raise UserError(f"'{text}' is not a size of images", where="command line --image", fix="Such as 224x224x3.")
    return tuple(map(int, text.split("x")))
