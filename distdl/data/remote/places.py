"""What `data.train.shards` may name, taken apart: folders and tars, on disk or at an address, with braces, or a list.

data/train    /data/{000000..001281}.tar    https://host/train/    s3://bucket/train    [a/000000.tar, b/000001.tar]
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from braceexpand import braceexpand

from distdl.config import addresses
from distdl.errors import UserError
from distdl.run.places import located

Shards = str | Path | Sequence[str]
SCHEMES = ("http", "https", "s3")


@dataclass(slots=True)
class Place:
    folder: str  # a path, or an address with its variables not yet filled in
    tars: list[str] | None  # file names; None: all there are

    @property
    def is_local(self) -> bool:
        return not addresses.is_address(self.folder)


def one_local(shards: Shards) -> Path | None:
    """The path, where it is but one folder or one tar on disk."""
    if isinstance(shards, Path):
        return shards
    if isinstance(shards, str) and not addresses.is_address(shards):
        path = located(shards)
        return path if path.exists() or _expanded(shards) == [shards] else None
    return None


def places(shards: Shards) -> list[Place]:
    """One for each folder, in the order given. Raises UserError for braces that don't match and unknown addresses."""
    found: dict[str, Place] = {}
    for text in [str(shards)] if isinstance(shards, str | Path) else shards:
        for each in [text] if located(text).exists() else _expanded(text):
            folder, tar = _split(each)
            place = found.setdefault(folder, Place(folder, [] if tar else None))
            if tar is None or place.tars is None:
                place.tars = None
            else:
                place.tars.append(tar)
    return list(found.values())


def are_there(shards: Shards) -> bool:
    """Whether it is worth trying to open them: what is on disk is, and addresses may be."""
    local = one_local(shards)
    return local is None or local.exists()


def shown(shards: Shards) -> str:
    """As a person would call it: the first, and how many more."""
    texts = [str(shards)] if isinstance(shards, str | Path) else list(shards)
    return addresses.shown(texts[0]) + (f" and {len(texts) - 1} more" if len(texts) > 1 else "")


def _expanded(text: str) -> list[str]:
    try:
        return list(braceexpand(text))
    except ValueError:
        raise UserError(
            "its braces don't match", where=addresses.shown(text), fix="A range is written {000000..001281}."
        ) from None


def _split(text: str) -> tuple[str, str | None]:
    """The folder, and the file name where it is a tar: (https://host/a?query, 000000.tar)."""
    if not addresses.is_address(text):
        local = located(text)
        is_tar = local.suffix == ".tar" and not local.is_dir()
        return (str(local.parent), local.name) if is_tar else (str(local), None)
    scheme = text.partition("://")[0]
    if scheme not in SCHEMES:
        raise UserError(
            f"'{scheme}://' is not an address that shards can be read from",
            where=addresses.shown(text),
            fix=f"It is one of {', '.join(f'{each}://' for each in SCHEMES)}, or a path.",
        )
    path, mark, query = text.partition("?")
    if not path.endswith(".tar"):
        return path.rstrip("/") + mark + query, None
    folder, _, name = path.rpartition("/")
    return folder + mark + query, name
