"""`distdl predict` and `distdl export`: their arguments, and what they call."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from distdl.errors import EXIT_DONE, EXIT_USER_ERROR, UserError

if TYPE_CHECKING:
    from distdl.trainer.trained import Trained

_CLASSES_TOLD = 5
FORMATS = ("safetensors", "timm", "torchvision")


def add_predict(command: argparse.ArgumentParser) -> None:
    command.add_argument("run", metavar="RUN", help="run folder or name, as RUN@STEP at a step")
    command.add_argument("files", nargs="+", type=Path, metavar="FILE", help="images or sounds, or folders of them")
    command.add_argument("--step", help="the checkpoint of this step, or 'best' (default: the newest)")
    command.add_argument(
        "--top", type=int, metavar="K", help="the K best classes (default: 5), or texts with --beam (1)"
    )
    command.add_argument("--json", action="store_true", help="for programs; of sounds with the times of words")
    add_search(command)
    command.add_argument("--stream", action="store_true", help="of sounds: text as it comes, half a second at a time")


def add_search(command: argparse.ArgumentParser) -> None:
    """How transcripts are looked for."""
    command.add_argument("--beam", type=int, metavar="N", help="of transcripts: prefix beam search with N hypotheses")
    command.add_argument("--lm", metavar="FILE", help="language model for it, as `distdl lm` writes, or KenLM's")
    command.add_argument("--alpha", type=float, help="weight of the language model")
    command.add_argument("--beta", type=float, help="bonus for each word")
    command.add_argument("--words", metavar="FILE", help="find nothing but words of this file, one a line")


def decoding(arguments: argparse.Namespace) -> dict[str, object]:
    """What was said of it, as task.args.decode of a config."""
    asked = {name: getattr(arguments, name) for name in ("beam", "lm", "alpha", "beta", "words")}
    return {name: value for name, value in asked.items() if value is not None}


def predict(arguments: argparse.Namespace) -> int:
    """Exit code 2 if one of the files can't be decoded; the others are told all the same."""
    import json
    from dataclasses import asdict

    from distdl.inference.predict import as_text, images_at, predict
    from distdl.trainer.trained import of_run

    if arguments.top is not None and arguments.top < 1:
        raise UserError(f"{arguments.top} are none", where="command line --top")
    trained = of_run(arguments.run, arguments.step, ["train.compile=false"], trust_plugins=arguments.trust_plugins)
    if trained.config.data.sound:
        return _predict_sounds(trained, arguments)
    if decode := decoding(arguments):
        raise UserError("this network makes no transcripts", where=f"command line --{next(iter(decode))}")
    files = images_at(arguments.files)
    predictions = predict(trained, files, arguments.top or _CLASSES_TOLD)
    print(json.dumps([asdict(each) for each in predictions], indent=2) if arguments.json else as_text(predictions))
    n_bad = sum(each.problem is not None for each in predictions)
    if n_bad:
        print(f"error: {n_bad} of {len(files)} files can't be decoded", file=sys.stderr)
    return EXIT_USER_ERROR if n_bad else EXIT_DONE


def _predict_sounds(trained: "Trained", arguments: argparse.Namespace) -> int:
    import json

    from distdl.inference.transcribe import as_json, as_text, sounds_at, streamed, transcribe
    from distdl.speech import search

    decode = decoding(arguments)
    if decode and not hasattr(trained.task, "transcribe"):
        raise UserError("this network makes no transcripts", where=f"command line --{next(iter(decode))}")
    if arguments.top and hasattr(trained.task, "transcribe"):
        if "beam" not in decode and "words" not in decode:
            raise UserError("a search finds several texts", where="command line --top", fix="Add --beam 64.")
        decode["n_best"] = arguments.top
    files = sounds_at(arguments.files)
    if arguments.stream:
        for file in files:
            print(file)
            for seconds, text in streamed(trained, file):
                print(f"{seconds:8.2f} s  {text}", flush=True)
        return EXIT_DONE
    found = search.build(decode, trained.task.vocabulary, "command line") if decode else None
    transcripts = transcribe(trained, files, found, arguments.top or _CLASSES_TOLD)
    print(json.dumps(as_json(transcripts), indent=2, ensure_ascii=False) if arguments.json else as_text(transcripts))
    n_bad = sum(each.problem is not None for each in transcripts)
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
