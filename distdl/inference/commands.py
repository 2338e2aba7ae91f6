"""`distdl predict` and `distdl export`: their arguments, and what they call."""

import argparse
import sys
from pathlib import Path

from distdl.errors import EXIT_DONE, EXIT_USER_ERROR, UserError

FORMATS = ("safetensors", "timm", "torchvision")


def add_predict(command: argparse.ArgumentParser) -> None:
    command.add_argument("run", metavar="RUN", help="run folder or name, as RUN@STEP at a step")
    command.add_argument("files", nargs="+", type=Path, metavar="FILE", help="images, or folders of them")
    command.add_argument("--step", help="the checkpoint of this step, or 'best' (default: the newest)")
    command.add_argument("--top", type=int, default=5, metavar="K", help="show the K best classes (default: 5)")
    command.add_argument("--json", action="store_true", help="for programs")


def predict(arguments: argparse.Namespace) -> int:
    """Exit code 2 if one of the files can't be decoded; the others are told all the same."""
    import json
    from dataclasses import asdict

    from distdl.inference.predict import as_text, images_at, predict
    from distdl.trainer.trained import of_run

    if arguments.top < 1:
        raise UserError(f"{arguments.top} classes are none", where="command line --top")
    files = images_at(arguments.files)
    trained = of_run(arguments.run, arguments.step, ["train.compile=false"], trust_plugins=arguments.trust_plugins)
    predictions = predict(trained, files, arguments.top)
    print(json.dumps([asdict(each) for each in predictions], indent=2) if arguments.json else as_text(predictions))
    n_bad = sum(each.problem is not None for each in predictions)
    if n_bad:
        print(f"error: {n_bad} of {len(files)} files can't be decoded", file=sys.stderr)
    return EXIT_USER_ERROR if n_bad else EXIT_DONE


def add_export(command: argparse.ArgumentParser) -> None:
    command.add_argument("run", metavar="RUN", help="run folder or name, as RUN@STEP at a step")
    command.add_argument("--format", choices=FORMATS, required=True, help="whose names and files")
    command.add_argument("--step", help="the checkpoint of this step, or 'best' (default: the newest)")
    command.add_argument("--out", type=Path, metavar="FOLDER", help="default: export-FORMAT in the run's folder")


def export(arguments: argparse.Namespace) -> int:
    from distdl.inference.export import export
    from distdl.trainer.trained import of_run

    trained = of_run(arguments.run, arguments.step, ["train.device=cpu"], trust_plugins=arguments.trust_plugins)
    for line in export(trained, arguments.format, arguments.out):
        print(line)
    return EXIT_DONE
