"""`distdl data verify`: is a corpus what was packed?

It reads every byte. Shards are compared with the checksums in their indexes and dataset.json, those with their own,
images and sounds are decoded and labels compared with the list of classes; whatever is wrong is named by shard, key and
component. The last lines say what can be done about it.
"""

import hashlib
import json
import os
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal, NamedTuple

import xxhash

from distdl.config.schema import RemoteConfig
from distdl.data import labels
from distdl.data.audio import decode_audio, is_audio
from distdl.data.corpus import catalog, descriptor, index
from distdl.data.corpus.catalog import Shard
from distdl.data.corpus.component import read_component
from distdl.data.corpus.descriptor import Descriptor, ShardEntry
from distdl.data.corpus.index import Component, ShardIndex
from distdl.data.corpus.shards import counted
from distdl.data.pictures.image import decode_image, is_image
from distdl.data.remote import listing, places
from distdl.data.remote.patience import NoSuchFile, RemoteFile
from distdl.data.remote.places import Shards
from distdl.errors import UserError
from distdl.launch.binding import cores
from distdl.track.progress import Advance, progress

LABEL = "cls"
_LONGEST_LABEL = 20  # bytes
_MOST_PRINTED = 100
_PIECE = 8 << 20  # bytes that are fetched at once
_FETCHERS = 4  # threads, at least
_KINDS = {"image": is_image, "sound": is_audio}


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    shard: str  # file name of the tar, of its index, or of dataset.json
    key: str = ""
    component: str = ""
    reason: str
    remedy: Literal["copy", "go without", "index", "exclude"] = "copy"  # "go without": the shard; or copy it

    def __str__(self) -> str:
        sample = f" sample '{self.key}'" if self.key else ""
        component = f" component '{self.component}'" if self.component else ""
        return f"{self.shard}:{sample}{component} {self.reason}"


@dataclass(slots=True)
class Report:
    path: str
    index_again: str  # the command
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    n_shards: int = 0
    n_samples: int = 0
    n_bytes: int = 0
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        return not self.problems

    def __str__(self) -> str:
        lines = [*self.notes, *map(str, self.problems[:_MOST_PRINTED])]
        if len(self.problems) > _MOST_PRINTED:
            lines.append(f"... and {len(self.problems) - _MOST_PRINTED:,} more problems")
        read = f"{counted(self.n_samples, 'sample')} in {counted(self.n_shards, 'shard')}, {self.n_bytes / 1e6:,.1f} MB"
        verdict = "no problem found" if self.ok else counted(len(self.problems), "problem")
        return "\n".join([*lines, f"{self.path}: {verdict} ({read}, {self.seconds:.1f} s)", *self._what_to_do()])

    def _what_to_do(self) -> list[str]:
        remedies = {problem.remedy for problem in self.problems}
        lines = []
        if changed := [problem.shard for problem in self.problems if problem.remedy in ("copy", "go without")]:
            names = catalog.few(list(dict.fromkeys(changed)))
            lines.append(f"Copy {names} again, or if that was changed on purpose: `{self.index_again}`.")
        elif "index" in remedies:
            lines.append(f"Write the indexes and {descriptor.FILE_NAME} again: `{self.index_again}`.")
        if "go without" in remedies:
            lines.append(f"To go without a shard: move it out of the folder, then `{self.index_again}`.")
        if sample := next((problem for problem in self.problems if problem.remedy == "exclude"), None):
            line = json.dumps({"shard": sample.shard, "key": sample.key})
            lines.append(
                f"To go without samples: `{self.index_again} --exclude FILE.jsonl`, with a line {line} for each."
            )
        return lines


def verify(path: Shards, index_folder: str | Path | None = None) -> Report:
    """Checks every byte of a folder of tars, one tar, an address, or a list of them.

    What lies elsewhere is fetched shard by shard, and none is kept. Raises UserError only if there is nothing to check.
    """
    local = places.one_local(path)
    began, report = time.perf_counter(), Report(places.shown(path), _index_again(local, index_folder))
    with (
        TemporaryDirectory() as temporary,
        ThreadPoolExecutor(max(_FETCHERS, cores())) as pool,
    ):
        if local is not None:
            found, classes, n_listed = _on_disk(local, index_folder, report)
        else:
            found, classes, n_listed = _elsewhere(path, index_folder, Path(temporary), pool, report)
        with progress("verifying", n_listed) as advance:
            for tar in found:
                shard_index = _verify_shard(tar.path, tar.index_folders, tar.listed, report)
                if shard_index is not None:
                    report.n_samples += shard_index.n_samples
                    report.problems += _verify_samples(tar.path, shard_index, classes, pool, advance)
    report.seconds = time.perf_counter() - began
    return report


def _index_again(local: Path | None, index_folder: str | Path | None) -> str:
    folder = "FOLDER" if local is None else local if local.is_dir() else local.parent
    return f"distdl data index {folder}" + (f" --to {index_folder}" if index_folder else "")


class _Tar(NamedTuple):
    path: Path
    index_folders: list[Path]
    listed: ShardEntry | None


_Found = tuple[Iterable[_Tar], list[str] | None, int | None]  # the tars, the classes, the number of samples


def _on_disk(path: Path, index_folder: str | Path | None, report: Report) -> _Found:
    tars, folders = catalog.find_tars(path), catalog.index_folders(path, index_folder)
    report.n_shards = len(tars)
    listed = _verify_descriptor(path, tars, folders, report)
    entries = {entry.name: entry for entry in listed.shards} if listed else {}
    n_listed = sum(entry.n_samples for entry in listed.shards) if listed else None
    return [_Tar(tar, folders, entries.get(tar.name)) for tar in tars], listed.classes if listed else None, n_listed


def _elsewhere(
    path: Shards, index_folder: str | Path | None, into: Path, pool: ThreadPoolExecutor, report: Report
) -> _Found:
    named = places.places(path)
    listing.check_reachable(named, index_folder)
    shards, _, classes = listing.shards_of(named, index_folder, RemoteConfig(), False, as_remote=False)
    report.n_shards = len(shards)

    def found() -> Iterator[_Tar]:
        for shard in shards:
            entry = ShardEntry(
                name=shard.tar.name,
                n_samples=shard.n_samples,
                size_bytes=shard.size_bytes,
                md5=None,
                xxh3=shard.xxh3,
                index=shard.tar.name + index.SUFFIX,
                excluded=shard.excluded,
            )
            if isinstance(shard.tar, Path):
                beside = [shard.index.parent] if isinstance(shard.index, Path) else []
                yield _Tar(shard.tar, beside, entry if beside else None)
                continue
            tar = into / shard.tar.name
            try:
                _fetch(shard, tar, pool)
                yield _Tar(tar, [into], entry)
            except NoSuchFile as error:
                report.problems.append(Problem(shard=shard.tar.name, reason=error.what))
            finally:
                tar.unlink(missing_ok=True)
                catalog.index_path(tar, into).unlink(missing_ok=True)

    return found(), classes, sum(shard.n_samples for shard in shards)


def _fetch(shard: Shard, tar: Path, pool: ThreadPoolExecutor) -> None:
    """The shard and its index, as they are now. Raises NoSuchFile where there is no shard."""
    assert isinstance(shard.tar, RemoteFile) and isinstance(shard.index, RemoteFile), "it is elsewhere"
    remote, size = shard.tar, shard.tar.store.size(shard.tar.name)
    with tar.open("wb") as file:

        def piece(begin: int) -> None:
            os.pwrite(file.fileno(), remote.read(begin, min(begin + _PIECE, size)), begin)

        list(pool.map(piece, range(0, size, _PIECE)))
    if (content := shard.index.read_whole()) is not None:
        catalog.index_path(tar, tar.parent).write_bytes(content)


def _verify_descriptor(path: Path, tars: list[Path], folders: list[Path], report: Report) -> Descriptor | None:
    for folder in folders:
        try:
            listed = descriptor.read(folder / descriptor.FILE_NAME)
            if listed is not None:
                catalog.listed_shards(path, tars, [folder])  # do its counts and names fit the files?
                return listed
        except UserError as error:
            report.problems.append(Problem(shard=descriptor.FILE_NAME, reason=error.what, remedy="index"))
            return descriptor.read_unchecked(folder / descriptor.FILE_NAME)
    report.notes.append(f"no {descriptor.FILE_NAME}: labels can't be compared with a list of classes")
    return None


def _verify_shard(tar: Path, folders: list[Path], listed: ShardEntry | None, report: Report) -> ShardIndex | None:
    """The whole file against its checksums. Returns its index: a new one where there is none or it is damaged."""
    size, xxh3, md5 = _hash_file(tar)
    report.n_bytes += size
    path = next((path for folder in folders if (path := catalog.index_path(tar, folder)).exists()), None)
    shard_index = None
    if path is None and listed is not None:
        reason = f"its index {tar.name}{index.SUFFIX} is missing"
        report.problems.append(Problem(shard=tar.name, reason=reason, remedy="index"))
    elif path is None:
        report.notes.append(f"{tar.name} has no index, so its data can't be compared with a checksum")
    else:
        try:
            shard_index = index.read(path)
        except UserError as error:
            report.problems.append(Problem(shard=path.name, reason=error.what, remedy="index"))
    expected = {
        entry_xxh3 for entry_xxh3 in (listed and listed.xxh3, shard_index and shard_index.tar_xxh3) if entry_xxh3
    }
    if expected - {xxh3}:
        reason = (
            f"the file is not what was indexed: its xxh3-128 is {xxh3}, recorded is {' and '.join(sorted(expected))}"
        )
        if shard_index and shard_index.tar_size != size:
            reason = f"the file has {size} bytes; when it was indexed it had {shard_index.tar_size}"
        report.problems.append(Problem(shard=tar.name, reason=reason))
    elif listed and listed.md5 is not None and listed.md5 != md5:
        reason = f"its md5, by which wids knows it, is {md5}; {descriptor.FILE_NAME} has {listed.md5}"
        report.problems.append(Problem(shard=tar.name, reason=reason, remedy="index"))
    if listed and shard_index and shard_index.n_samples != listed.n_samples:
        reason = f"it has {shard_index.n_samples} samples; {descriptor.FILE_NAME} has {listed.n_samples}"
        report.problems.append(Problem(shard=f"{tar.name}{index.SUFFIX}", reason=reason, remedy="index"))
    if listed and listed.excluded:
        report.notes.append(f"{tar.name}: {counted(len(listed.excluded), 'sample')} left out on purpose, not looked at")
    if shard_index is None:
        try:
            shard_index = index.build(tar)
        except UserError as error:
            report.problems.append(Problem(shard=tar.name, reason=error.what, remedy="go without"))
    return shard_index


def _verify_samples(
    tar: Path, shard_index: ShardIndex, classes: list[str] | None, pool: ThreadPoolExecutor, advance: Advance
) -> Iterator[Problem]:
    """Every component against its checksum; images and sounds are decoded, labels compared with the classes."""
    labelled = LABEL in shard_index.extensions
    kinds = {kind: is_kind for kind, is_kind in _KINDS.items() if any(map(is_kind, shard_index.extensions))}
    file = os.open(tar, os.O_RDONLY)
    try:
        lost = _beyond(os.fstat(file).st_size, shard_index)
        if lost:
            reason = f"{len(lost):,} of its {counted(shard_index.n_samples, 'sample')} are lost, for it is cut off: "
            reason += f"'{shard_index.key(min(lost))}'" + (" and what follows" if len(lost) > 1 else "")
            yield Problem(shard=tar.name, reason=reason, remedy="go without")

        def check(row: int) -> list[Problem]:
            if row in lost:
                return []
            key, components = shard_index.key(row), shard_index.components(row)
            found = [
                Problem(shard=tar.name, key=key, component=extension, reason=reason, remedy="exclude")
                for extension, component in components.items()
                if (reason := _what_is_wrong(file, extension, component, classes))
            ]
            if labelled and LABEL not in components:
                reason = "is missing; other samples have it"
                found.append(Problem(shard=tar.name, key=key, component=LABEL, reason=reason, remedy="exclude"))
            for kind, is_kind in kinds.items():
                if not any(map(is_kind, components)):
                    reason = f"has no {kind}; other samples have one"
                    found.append(Problem(shard=tar.name, key=key, reason=reason, remedy="exclude"))
            return found

        for found in pool.map(check, range(shard_index.n_samples)):
            advance()
            yield from found
    finally:
        os.close(file)


def _beyond(size: int, shard_index: ShardIndex) -> set[int]:
    """The rows of samples that a tar of this size has no more, or not all of. In bytes."""
    if size >= shard_index.tar_size:
        return set()
    rows = range(shard_index.n_samples)
    return {row for row in rows if any(c.offset + c.size > size for c in shard_index.components(row).values())}


def _what_is_wrong(file: int, extension: str, component: Component, classes: list[str] | None) -> str:
    try:
        data = read_component(file, component)
        if is_image(extension):
            decode_image(data, extension)
        elif is_audio(extension):
            decode_audio(data)
    except (ValueError, OSError) as error:
        return str(error)
    if extension != LABEL:
        return ""
    if classes is None:  # class numbers, or what another task learns
        return "" if labels.are_numbers(data) else f"is not made of numbers: {data[:20]!r}"
    if not data.strip().removeprefix(b"-").isdigit() or len(data) > _LONGEST_LABEL:
        return f"is not a whole number: {data[:20]!r}"
    label = int(data)
    return "" if 0 <= label < len(classes) else f"is the label {label}, but there are {len(classes)} classes"


def _hash_file(path: Path) -> tuple[int, str, str]:
    """(size in bytes, xxh3-128, md5) of a file."""
    digest, md5, size = xxhash.xxh3_128(), hashlib.md5(usedforsecurity=False), 0
    with path.open("rb") as file:
        while chunk := file.read(4 << 20):
            digest.update(chunk)
            md5.update(chunk)
            size += len(chunk)
    return size, digest.hexdigest(), md5.hexdigest()
