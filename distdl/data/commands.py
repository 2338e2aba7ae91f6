"""`distdl data ...`: arguments and what they call. Imports numpy and the like only when a command runs."""

import argparse
from collections.abc import Callable
from pathlib import Path

from distdl.errors import EXIT_DONE, UserError

Arguments = argparse.Namespace
Add = Callable[[str, Callable[[Arguments], int], str], argparse.ArgumentParser]

PROBLEMS_FOUND = 1


def add_arguments(add: Add) -> None:
    """`add(name, run, text)` makes the parser of one command."""
    command = add("pack", pack, "turn a corpus into WebDataset shards: DST/train, DST/test ...")
    command.add_argument("kind", metavar="KIND", help="digits, idx, imagefolder or table")
    command.add_argument("folders", nargs="+", metavar="[SRC] DST", help="digits needs no SRC", type=Path)
    command.add_argument(
        "--holdout", type=float, help="imagefolder or table without splits: the share that becomes test"
    )
    command.add_argument("--shard-mb", type=float, help="size of a shard in MB")

    command = add("index", index, "index plain tars, so that they are read by offset")
    command.add_argument("shards", metavar="DST", type=Path, help="folder of tars, or one tar")
    command.add_argument("--to", type=Path, metavar="FOLDER", help="where the shards' own folder can't be written")

    command = add("verify", verify, "check every byte: checksums, images, labels")
    command.add_argument("shards", metavar="DST", type=Path, help="folder of tars, or one tar")
    command.add_argument("--index", type=Path, metavar="FOLDER", help="where the index files are")

    command = add("show", show, "counts, classes and sizes")
    command.add_argument("shards", metavar="DST", type=Path, help="folder of tars, or one tar")
    command.add_argument("--index", type=Path, metavar="FOLDER", help="where the index files are")
    command.add_argument("--sheet", type=Path, metavar="OUT.png", help="write a contact sheet of the first images")


def pack(arguments: Arguments) -> int:
    from distdl.data import pack as packing

    *sources, destination = arguments.folders
    if len(sources) > 1:
        raise UserError(f"one source and one destination are expected (got {len(arguments.folders)} folders)")
    options = {} if arguments.holdout is None else {"holdout": arguments.holdout}
    if arguments.shard_mb is not None:
        if arguments.shard_mb <= 0:
            raise UserError("a shard is larger than 0 MB", where="command line --shard-mb")
        options["shard_bytes"] = int(arguments.shard_mb * 1e6)
    return packing.pack(arguments.kind, sources[0] if sources else None, destination, **options)


def index(arguments: Arguments) -> int:
    from distdl.data.shards import index_folder

    return index_folder(arguments.shards, arguments.to)


def verify(arguments: Arguments) -> int:
    from distdl.data import inspect

    report = inspect.verify(arguments.shards, arguments.index)
    print(report)
    return EXIT_DONE if report.ok else PROBLEMS_FOUND


def show(arguments: Arguments) -> int:
    from distdl.data import inspect

    print(inspect.show(arguments.shards, sheet=arguments.sheet, index_folder=arguments.index))
    return EXIT_DONE
