"""`distdl data index LISTING.json`: a wids-shard-index-v1 (github.com/webdataset/webdataset) instead of a folder.

Its tars have to lie in one folder of this machine, and all tars of that folder have to be listed. What the listing says
of them is checked: size and md5 before they are read, the number of samples once they are indexed.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from distdl.data.corpus.descriptor import ShardEntry
from distdl.errors import UserError

_KIND = "wids-shard-index-v1"


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedTar:
    path: Path
    n_samples: int | None
    size_bytes: int | None
    md5: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    where: str
    name: str
    folder: Path
    tars: list[ListedTar]


def read(path: Path) -> Listing:
    """Raises UserError for what is no listing of tars in one folder of this machine."""
    try:
        value = json.loads(path.read_bytes())
    except OSError as error:
        raise UserError(f"can't read it: {error.strerror}", where=str(path)) from error
    except ValueError:
        raise UserError("it is not JSON", where=str(path)) from None
    if not isinstance(value, dict) or value.get("__kind__") != _KIND:
        raise UserError(f"it is no listing of shards: __kind__ is not {_KIND}", where=str(path))
    try:
        tars = [_listed(shard, path) for shard in value["shardlist"]]
    except (KeyError, TypeError, ValueError):
        raise UserError("its shardlist is damaged", where=str(path), fix="A shard needs its url.") from None
    folders = sorted({str(tar.path.parent) for tar in tars})
    if len(folders) != 1:
        raise UserError(
            f"its shards lie in {len(folders)} folders: {', '.join(folders[:3]) or 'none'}",
            where=str(path),
            fix="One folder of tars is a corpus: move them together.",
        )
    return Listing(where=str(path), name=str(value.get("name") or path.stem), folder=Path(folders[0]), tars=tars)


def _listed(shard: dict[str, Any], path: Path) -> ListedTar:
    url = urlsplit(str(shard["url"]))
    if url.scheme not in ("", "file"):
        raise UserError(
            f"its shards are not on this machine: {shard['url']}", where=str(path), fix="Copy the tars here first."
        )
    local = unquote(url.path) if url.scheme else str(shard["url"])
    n_samples, size_bytes, md5 = (shard.get(name) for name in ("nsamples", "filesize", "md5sum"))
    return ListedTar(
        path=(path.parent / local).resolve(),
        n_samples=None if n_samples is None else int(n_samples),
        size_bytes=None if size_bytes is None else int(size_bytes),
        md5=None if md5 is None else str(md5).lower(),
    )


def check_tars(listing: Listing, tars: Sequence[Path]) -> None:
    """Raises UserError unless the tars that are there are those that are listed, byte by byte."""
    listed = {tar.path.name: tar for tar in listing.tars}
    there = {tar.name: tar for tar in tars}
    if listed.keys() != there.keys():
        name = sorted(listed.keys() ^ there.keys())[0]
        what = f"it lists {name}, which is missing" if name in listed else f"{name} is there and not listed"
        raise UserError(what, where=listing.where, fix=f"List all tars of {listing.folder}, and no others.")
    for name, tar in there.items():
        expected, size_bytes = listed[name], tar.stat().st_size
        if expected.size_bytes not in (None, size_bytes):
            what = f"{tar} has {size_bytes} bytes, but {expected.size_bytes} are listed"
            raise UserError(what, where=listing.where, fix="Copy the shard again.")
        if expected.md5 is not None and expected.md5 != _md5(tar):
            raise UserError(f"{tar} has another md5 than is listed", where=listing.where, fix="Copy the shard again.")


def check_counts(listing: Listing, shards: Sequence[ShardEntry]) -> None:
    """Raises UserError where a tar holds another number of samples than is listed."""
    listed = {tar.path.name: tar.n_samples for tar in listing.tars}
    for shard in shards:
        n_samples = shard.n_samples + len(shard.excluded)
        if listed[shard.name] not in (None, n_samples):
            raise UserError(
                f"{shard.name} holds {n_samples} samples, but {listed[shard.name]} are listed", where=listing.where
            )


def _md5(tar: Path) -> str:
    with tar.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
