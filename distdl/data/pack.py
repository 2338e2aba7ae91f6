"""`distdl data pack KIND SRC DST`: converts a corpus into shards, DST/train and DST/test or DST/val.

A kind is a function that reads SRC and returns a Corpus: the names of the classes, and for each split its samples, made
one by one while they are written. All splits appear together, when the last one is written. Until then finished shards
are kept (corpus/unfinished.py), and the same command goes on after them, to the same bytes as if nothing had happened.
"""

import time
from importlib import metadata
from pathlib import Path
from typing import Any

import distdl
from distdl.data.corpus import shards
from distdl.data.corpus.unfinished import Recipe, resumable_folder
from distdl.data.packing import parts
from distdl.data.packing.arrays import digits, idx
from distdl.data.packing.cifar import cifar
from distdl.data.packing.corpus import Corpus, Kind
from distdl.data.packing.folders import imagefolder
from distdl.data.packing.imagenet import imagenet
from distdl.data.packing.parts import Part
from distdl.data.packing.smaller import Smaller
from distdl.data.packing.speech_corpora import commonvoice, fsdd, librispeech, ljspeech
from distdl.data.packing.speech_folders import kaldi, manifest, speech
from distdl.data.packing.table import table
from distdl.data.packing.tiny_imagenet import tiny_imagenet
from distdl.data.packing.write import How, Say, write_split
from distdl.errors import UserError, did_you_mean
from distdl.launch.binding import cores
from distdl.registry import call_with_args

SPEECH: dict[str, Kind] = {
    "librispeech": librispeech,
    "ljspeech": ljspeech,
    "commonvoice": commonvoice,
    "fsdd": fsdd,
    "speech": speech,
    "kaldi": kaldi,
    "manifest": manifest,
}
KINDS: dict[str, Kind] = {
    "digits": digits,
    "idx": idx,
    "cifar": cifar,
    "imagefolder": imagefolder,
    "imagenet": imagenet,
    "tiny-imagenet": tiny_imagenet,
    "table": table,
    **SPEECH,
}


def pack(
    kind: str,
    src: str | Path | None,
    dst: str | Path,
    *,
    say: Say = print,
    shard_bytes: int = shards.DEFAULT_SHARD_BYTES,
    shard_samples: int | None = None,
    workers: int | None = None,
    smaller: Smaller | None = None,
    part: Part | None = None,
    **options: Any,
) -> int:
    """Packs SRC (not used by "digits") into DST; `options` are those of the kind. Returns the exit code.

    `workers`: threads, one per core by default; the bytes are the same for any number. `part`: one of several that are
    packed by themselves, and joined when the last is there. Raises UserError for an unknown
    kind or option, an unreadable source, a destination that exists or is full, and where an unfinished pack of other
    options or another source stands in the way.
    """
    if kind not in KINDS:
        known = ", ".join(KINDS)
        raise UserError(f"unknown kind of corpus '{kind}'{did_you_mean(kind, KINDS)}", fix=f"Known kinds: {known}.")
    if workers is not None and workers < 1:
        raise UserError(f"{workers} threads do nothing", where="command line --workers")
    dst, began = Path(dst), time.perf_counter()
    whole = dst
    if part:
        parts.check_free(whole)
        dst = part.folder(whole)
        if dst.is_dir() or parts.joining(whole).exists():
            say(f"{dst} is there already")
            return _join(whole, part, say)
    src = Path(src) if src is not None else None
    with resumable_folder(dst) as going:
        if src:
            say(f"looking through {src}")
        corpus: Corpus = call_with_args(KINDS[kind], options, f"data pack {kind}", src=src)
        how = How(
            kind=kind,
            classes=corpus.classes,
            shard_bytes=shard_bytes,
            shard_samples=shard_samples,
            smaller=smaller,
            workers=workers or cores(),
            thing=corpus.thing,
            rules=corpus.rules,
        )
        going.begin(_recipe(src, how, options, corpus))
        for note in corpus.notes:
            say(note)
        going.folder.mkdir(exist_ok=True)
        if going.n_finished:
            say(f"going on with a pack that was not finished: {going.kept} there already")
        total_samples = total_bytes = 0
        for split, samples in corpus.splits.items():
            if part and not len(samples := part.of(split, samples)):
                continue
            written = write_split(samples, split, going, how, say)
            n_samples = sum(shard.n_samples for shard in written.shards)
            n_bytes = sum(shard.size_bytes for shard in written.shards)
            in_shards = shards.counted(len(written.shards), "shard")
            say(f"{split}: {n_samples:,} samples in {in_shards}, {n_bytes / 1e6:,.1f} MB")
            total_samples, total_bytes = total_samples + n_samples, total_bytes + n_bytes
    seconds = time.perf_counter() - began
    classes = f"{len(corpus.classes)} classes, " if corpus.classes else ""
    size = f"{total_samples:,} samples, {classes}{total_bytes / 1e6:,.1f} MB"
    say(f"packed {size} in {seconds:.1f} s: {', '.join(str(dst / split) for split in corpus.splits)}")
    return _join(whole, part, say) if part else 0


def _join(whole: Path, part: Part, say: Say) -> int:
    for split in parts.join(whole, part.n) or ():
        n_samples = sum(shard.n_samples for shard in split.shards)
        in_shards = shards.counted(len(split.shards), "shard")
        say(f"joined {part.n} parts: {whole / split.name}, {n_samples:,} samples in {in_shards}")
    return 0


def _recipe(src: Path | None, how: How, options: dict[str, Any], corpus: Corpus) -> Recipe:
    """All that the bytes follow from: a pack goes on only where this is what it was begun with."""
    packages = ("opencv-python-headless", "simplejpeg") if corpus.thing == "image" else ("soundfile", "soxr")
    versions = [f"{name} {metadata.version(name)}" for name in packages if _is_installed(name)]
    return {
        "kind": how.kind,
        "source": str(src.resolve()) if src else None,
        **{f"--{name.replace('_', '-')}": str(value) for name, value in options.items()},
        "bytes of a shard": how.shard_bytes,
        "samples of a shard": how.shard_samples,
        "largest image": str(how.smaller) if how.smaller else None,
        "classes": corpus.classes,
        **{
            f"{corpus.thing}s of {split}": getattr(samples, "fingerprint", None)
            for split, samples in corpus.splits.items()
        },
        "software": ", ".join([f"distdl {distdl.__version__}", *versions]),
    }


def _is_installed(package: str) -> bool:
    try:
        metadata.version(package)
    except metadata.PackageNotFoundError:
        return False
    return True
