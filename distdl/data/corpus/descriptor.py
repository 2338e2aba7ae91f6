"""dataset.json: the shards of a folder with their counts and checksums, the classes' names, and where it came from.

It is a valid wids-shard-index-v1 (github.com/webdataset/webdataset), so that wids opens it: `shardlist` has `url`,
`nsamples`, `filesize` and `md5sum`. Ours are, per shard, `index` and `xxh3` (xxh3-128 of the tar), and at the top
`kind`, `classes`, `created_by` and `checksum`: xxh3-128 of the file's bytes with these 32 digits as zeros. A shard has
the keys of samples that its index leaves out under `excluded`; `nsamples` counts them too, since wids reads the tars.
A corpus of sounds has the length of each under `sounds` of its shard (sound_column.py), and at the top `rules`: what
was done to sounds and transcripts when they were packed.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import xxhash

import distdl
from distdl.errors import UserError
from distdl.run.folder import write_atomic

FILE_NAME = "dataset.json"
_WIDS_KIND = "wids-shard-index-v1"
_NO_CHECKSUM = "0" * 32


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardEntry:
    name: str  # file name of the tar
    n_samples: int
    size_bytes: int
    md5: str | None  # None where it is not known
    xxh3: str  # xxh3-128 of the whole tar, hexadecimal
    index: str  # file name of the index
    excluded: Sequence[str] = ()  # keys of samples in the tar that the index leaves out
    sounds: str = ""  # rates and lengths of its sounds, as sound_column writes them; "" where they are not known


@dataclass(frozen=True, slots=True, kw_only=True)
class Descriptor:
    name: str
    kind: str
    classes: list[str] | None
    shards: list[ShardEntry]
    created_by: str = field(default_factory=lambda: f"distdl {distdl.__version__}")
    rules: dict[str, Any] | None = None  # what was done to the samples


def write(descriptor: Descriptor, folder: Path, tars_in: Path | None = None) -> None:
    """Writes dataset.json into `folder`, atomically; `tars_in` if the tars lie elsewhere. Raises OSError."""
    value = {
        "__kind__": _WIDS_KIND,
        "wids_version": 1,
        "name": descriptor.name,
        "kind": descriptor.kind,
        "created_by": descriptor.created_by,
        "classes": descriptor.classes,
        **({"rules": descriptor.rules} if descriptor.rules else {}),
        "shardlist": [
            {
                "url": str(tars_in.resolve() / shard.name) if tars_in else shard.name,
                "md5sum": shard.md5,
                "nsamples": shard.n_samples + len(shard.excluded),
                "filesize": shard.size_bytes,
                "index": shard.index,
                "xxh3": shard.xxh3,
                **({"excluded": list(shard.excluded)} if shard.excluded else {}),
                **({"sounds": shard.sounds} if shard.sounds else {}),
            }
            for shard in descriptor.shards
        ],
        "checksum": _NO_CHECKSUM,
    }
    content = (json.dumps(value, indent=1) + "\n").encode()
    before, _, after = content.rpartition(_NO_CHECKSUM.encode())
    write_atomic(folder / FILE_NAME, before + xxhash.xxh3_128_hexdigest(content).encode() + after)


def read(path: Path) -> Descriptor | None:
    """None where there is no such file or it is not ours (a plain wids file, another program's dataset.json).

    Raises UserError when it is ours and damaged or edited.
    """
    content = _content(path)
    return None if content is None else parse(content, str(path), str(path.parent))


def parse(content: bytes, where: str, folder: str) -> Descriptor | None:
    """The same of a file's bytes; `where` it came from, and the `folder` to index again if it is damaged."""
    value = _parse(content, where, folder)
    if value is None:
        return None
    checksum = value.get("checksum")
    if not isinstance(checksum, str) or not _checksum_matches(content, checksum):
        raise _damaged(where, folder, "its checksum does not match: it was edited or is damaged")
    descriptor = _descriptor(value)
    if descriptor is None:
        raise _damaged(where, folder, "it is not a list of shards")
    return descriptor


def read_unchecked(path: Path) -> Descriptor | None:
    """What can be had of a dataset.json whose checksum may be wrong, such as one edited on purpose; None if nothing."""
    try:
        content = _content(path)
        value = None if content is None else _parse(content, str(path), str(path.parent))
    except UserError:
        return None
    return _descriptor(value) if value is not None else None


def _content(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UserError(f"can't read it: {error.strerror}", where=str(path)) from error


def _parse(content: bytes, where: str, folder: str) -> dict[str, Any] | None:
    try:
        value = json.loads(content)
    except (ValueError, RecursionError):
        raise _damaged(where, folder, "it is not JSON") from None
    # Two marks, so that no single damaged byte makes one of ours look like another program's.
    return value if isinstance(value, dict) and ("created_by" in value or "checksum" in value) else None


def _checksum_matches(content: bytes, checksum: str) -> bool:
    before, found, after = content.rpartition(checksum.encode("utf-8", "surrogatepass"))
    return bool(found) and xxhash.xxh3_128_hexdigest(before + _NO_CHECKSUM.encode() + after) == checksum


def _descriptor(value: dict[str, Any]) -> Descriptor | None:
    try:
        return Descriptor(
            name=str(value["name"]),
            kind=str(value["kind"]),
            classes=_names(value["classes"]),
            created_by=str(value["created_by"]),
            shards=[_entry(shard) for shard in value["shardlist"]],
            rules=value["rules"] if isinstance(value.get("rules"), dict) else None,
        )
    except (KeyError, TypeError, ValueError):
        return None


def _entry(shard: dict[str, Any]) -> ShardEntry:
    """Only the last part of a path is used: shards and indexes lie where the folder is, wherever that is now."""
    excluded = tuple(_names(shard.get("excluded", [])) or ())
    return ShardEntry(
        name=Path(shard["url"]).name,
        n_samples=_count(_count(shard["nsamples"]) - len(excluded)),
        size_bytes=_count(shard["filesize"]),
        md5=str(shard["md5sum"]),
        xxh3=str(shard["xxh3"]),
        index=Path(shard["index"]).name,
        excluded=excluded,
        sounds=str(shard.get("sounds", "")),
    )


def _count(value: Any) -> int:
    if not isinstance(value, int) or not 0 <= value < 1 << 62:
        raise ValueError(value)
    return value


def _names(value: Any) -> list[str] | None:
    if value is None:
        return None
    if not isinstance(value, Sequence) or not all(isinstance(name, str) for name in value):
        raise ValueError(value)
    return list(value)


def _damaged(where: str, folder: str, how: str) -> UserError:
    return UserError(how, where=where, fix=f"Write it again from the tars: `distdl data index {folder}`.")
