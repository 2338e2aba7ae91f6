"""`distdl data ...`: arguments and what they call. Imports numpy and the like only when a command runs."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distdl.config import addresses
from distdl.errors import EXIT_DONE, UserError

if TYPE_CHECKING:
    from distdl.data.packing.smaller import Smaller

Arguments = argparse.Namespace
Add = Callable[[str, Callable[[Arguments], int], str], argparse.ArgumentParser]

PROBLEMS_FOUND = 1


def add_arguments(add: Add) -> None:
    """`add(name, run, text)` makes the parser of one command."""
    add_pack(add("pack", pack, "turn a corpus into WebDataset shards: DST/train, DST/test ..."))

    command = add("index", index, "index plain tars, so that they are read by offset")
    command.add_argument(
        "shards", metavar="DST", type=_on_disk, help="folder of tars, one tar, or a wids listing (.json)"
    )
    command.add_argument(
        "--exclude",
        action="append",
        default=[],
        type=Path,
        metavar="FILE.jsonl",
        help="leave out the samples that it names, such as a run's quarantine.jsonl",
    )
    command.add_argument("--to", type=_on_disk, metavar="FOLDER", help="where the shards' own folder can't be written")

    command = add("verify", verify, "check every byte: checksums, images, sounds, labels")
    command.add_argument("shards", metavar="DST", nargs="+", type=_anywhere, help="folder of tars, tars, or addresses")
    command.add_argument(
        "--index", metavar="FOLDER", type=_anywhere, help="where the index files are, or their address"
    )

    command = add("show", show, "counts, classes and sizes")
    command.add_argument("shards", metavar="DST", nargs="+", type=_anywhere, help="folder of tars, tars, or addresses")
    command.add_argument(
        "--index", metavar="FOLDER", type=_anywhere, help="where the index files are, or their address"
    )
    command.add_argument("--sheet", type=Path, metavar="OUT.png", help="write a contact sheet of the first images")


def add_pack(command: argparse.ArgumentParser) -> list[argparse.Action]:
    n_before = len(command._actions)
    command.add_argument(
        "kind",
        metavar="KIND",
        help="imagenet, tiny-imagenet, cifar, idx, imagefolder, table or digits; of speech: librispeech, ljspeech, "
        "commonvoice, fsdd, kaldi, manifest, or speech (a folder of sounds with transcripts)",
    )
    command.add_argument("folders", nargs="+", metavar="[SRC] DST", help="digits needs no SRC", type=_on_disk)
    command.add_argument(
        "--holdout", type=float, help="imagefolder or table without splits: the share that becomes test"
    )
    command.add_argument(
        "--group", metavar="REGEX", help="imagefolder: hold out together what it finds the same in, such as '^(\\d+)_'"
    )
    command.add_argument("--val-labels", metavar="FILE", help="imagenet: the classes of the validation images")
    command.add_argument("--labels", choices=("fine", "coarse"), help="cifar: those of CIFAR-100")
    command.add_argument("--shard-mb", type=float, help="largest size of a shard in MB")
    side = command.add_mutually_exclusive_group()
    side.add_argument("--long-side", type=int, metavar="N", help="make images whose long side is larger smaller")
    side.add_argument("--short-side", type=int, metavar="N", help="make images whose short side is larger smaller")
    command.add_argument("--quality", type=int, metavar="Q", help="JPEG quality of those made smaller (default: 95)")
    _add_speech(command.add_argument_group("speech"))
    command.add_argument("--workers", type=int, metavar="N", help="threads (default: one per core)")
    command.add_argument("--part", metavar="I/N", help="pack the I-th of N parts; whoever is the last joins them")
    return command._actions[n_before:]


def _add_speech(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--rate", type=int, metavar="HZ", help="resample sounds of other rates")
    group.add_argument("--mono", action="store_true", default=None, help="mix several channels to one")
    group.add_argument("--format", choices=("flac", "wav"), help="encode all sounds so (default: as they are)")
    group.add_argument("--min-seconds", type=float, metavar="S", help="leave out sounds that are shorter")
    group.add_argument("--max-seconds", type=float, metavar="S", help="leave out sounds that are longer")
    group.add_argument("--case", choices=("keep", "lower", "upper"), help="of transcripts (default: keep)")
    group.add_argument(
        "--strip-punctuation", action="store_true", default=None, help="of transcripts, but for apostrophes in words"
    )
    group.add_argument(
        "--characters", metavar="ALPHABET", help="leave out transcripts that have others, once they are normalised"
    )
    group.add_argument("--by-speaker", action="store_true", default=None, help="speech: hold out whole speakers")


def _speech_options(arguments: Arguments) -> dict[str, Any]:
    """The options of the kinds of speech: `rules`, if any is given."""
    from distdl.data.pack import SPEECH
    from distdl.data.packing.speech import SpeechRules
    from distdl.data.transcripts import TextRules

    named = {name: getattr(arguments, name) for name in ("rate", "mono", "format", "min_seconds", "max_seconds")}
    of_text = {name: getattr(arguments, name) for name in ("case", "strip_punctuation", "characters")}
    given = [name for name, value in {**named, **of_text}.items() if value is not None]
    by_speaker = {"by_speaker": True} if arguments.by_speaker else {}
    if not given:
        return by_speaker
    if arguments.kind not in SPEECH:
        raise UserError(
            f"this is for speech ({', '.join(SPEECH)}), not for '{arguments.kind}'",
            where=f"command line --{given[0].replace('_', '-')}",
        )
    text = TextRules(
        case=arguments.case or "keep",
        strip_punctuation=bool(arguments.strip_punctuation),
        characters=arguments.characters,
    )
    rules = SpeechRules(
        text=text,
        rate_hz=arguments.rate,
        mono=bool(arguments.mono),
        format=arguments.format,
        min_s=arguments.min_seconds or 0.0,
        max_s=arguments.max_seconds,
    )
    return {"rules": rules, **by_speaker}


def pack(arguments: Arguments) -> int:
    from distdl.data import pack as packing
    from distdl.data.packing.parts import Part

    *sources, destination = arguments.folders
    if len(sources) > 1:
        raise UserError(f"one source and one destination are expected (got {len(arguments.folders)} folders)")
    named = {name: getattr(arguments, name) for name in ("holdout", "group", "val_labels", "labels")}
    options = {name: value for name, value in named.items() if value is not None}
    options |= _speech_options(arguments)
    if arguments.shard_mb is not None:
        if arguments.shard_mb <= 0:
            raise UserError("a shard is larger than 0 MB", where="command line --shard-mb")
        options["shard_bytes"] = int(arguments.shard_mb * 1e6)
    return packing.pack(
        arguments.kind,
        sources[0] if sources else None,
        destination,
        workers=arguments.workers,
        smaller=_smaller(arguments),
        part=Part.parse(arguments.part) if arguments.part else None,
        **options,
    )


def _smaller(arguments: Arguments) -> "Smaller | None":
    from distdl.data.packing.smaller import DEFAULT_QUALITY, Smaller

    if arguments.long_side is None and arguments.short_side is None:
        if arguments.quality is not None:
            raise UserError(
                "images are copied as they are", where="command line --quality", fix="Add --long-side or --short-side."
            )
        return None
    quality = DEFAULT_QUALITY if arguments.quality is None else arguments.quality
    return Smaller(long_side=arguments.long_side, short_side=arguments.short_side, quality=quality)


def index(arguments: Arguments) -> int:
    from distdl.data.corpus.shards import index_folder

    return index_folder(arguments.shards, arguments.to, excluded_by=arguments.exclude)


def verify(arguments: Arguments) -> int:
    from distdl.data import inspect

    report = inspect.verify(_one_or_list(arguments.shards), arguments.index)
    print(report)
    return EXIT_DONE if report.ok else PROBLEMS_FOUND


def show(arguments: Arguments) -> int:
    from distdl.data.show import show as text_of

    print(text_of(_one_or_list(arguments.shards), sheet=arguments.sheet, index_folder=arguments.index))
    return EXIT_DONE


def _on_disk(text: str) -> Path:
    if addresses.is_address(text):
        raise argparse.ArgumentTypeError(f"{addresses.shown(text)} is an address; here a path on disk is expected")
    return Path(text)


def _anywhere(text: str) -> str:
    """A path, or an address without a secret in it. Not a ValueError: argparse would repeat the text."""
    try:
        return addresses.check(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _one_or_list(shards: list[str]) -> str | list[str]:
    return shards if len(shards) > 1 else shards[0]
