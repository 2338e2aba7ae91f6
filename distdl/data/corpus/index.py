"""The index of a shard: `000000.tar` -> `000000.tar.ddx`, which sample lies where, with a checksum for every component.

It makes any plain WebDataset tar readable in any order and is never changed once written. The file, little-endian and
made to be mapped into memory, is a header and fixed-width columns:

    header    magic and version; tar size, n_samples, n_components, n_extensions, bytes of keys and of extensions (u64);
              xxh3-128 of the tar; xxh3-128 of this whole file but for these 16 bytes
    columns   offset, size, xxh3-64 (u64 per component); first component, end of the key's text (u64 per sample, + 1);
              end of the extension's text (u64 per extension, + 1); extension (u16 per component)
    text      keys, then extensions, UTF-8

Members are grouped as webdataset groups them: consecutive members with the same key, which is the path up to the first
dot of the base name; what follows the dot, in lower case, is the extension.
"""

import itertools
import mmap
import re
import struct
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import xxhash

from distdl.data.corpus import tar as tars
from distdl.errors import UserError
from distdl.run.folder import write_atomic

SUFFIX = ".ddx"
_MAGIC = b"distddx\x01"  # the last byte is the version
_HEADER = struct.Struct("<8s6Q16s16s")
_OWN_CHECKSUM = slice(_HEADER.size - 16, _HEADER.size)
_RESERVED = re.compile(r"__[^/]*__($|/)")  # webdataset keeps such names for itself: __info__, __info__/1.txt
_MOST_EXTENSIONS = 1 << 16
_CHUNK = 4 << 20  # bytes

Columns = npt.NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class Component:
    offset: int  # bytes from the start of the tar
    size: int  # bytes
    xxh3: int  # xxh3-64 of the data


class ShardIndex:
    """The samples of one tar. `buffer` holds the index file's bytes: mapped from disk, or just built."""

    def __init__(
        self,
        buffer: bytes | mmap.mmap,
        where: str,
        ignored: tuple[str, ...] = (),
        excluded: tuple[str, ...] = (),
    ) -> None:
        """Raises UserError, naming `where`, for a buffer that is not a whole and consistent index."""
        self.buffer, self.ignored, self.excluded = buffer, ignored, excluded
        self._map(where)

    def _map(self, where: str) -> None:
        view = memoryview(self.buffer)
        if len(view) < _HEADER.size or view[: len(_MAGIC) - 1] != _MAGIC[:-1]:
            raise _damaged(where, "it does not begin as an index does")
        magic, tar_size, n_samples, n_components, n_extensions, key_bytes, extension_bytes, tar_xxh3, checksum = (
            _HEADER.unpack_from(view)
        )
        if magic != _MAGIC:
            raise _damaged(where, f"version {magic[-1]} is unknown; this distdl reads version {_MAGIC[-1]}")
        # Counts are compared with the file's size before anything is made of their size.
        n_words = 3 * n_components + 2 * (n_samples + 1) + n_extensions + 1
        if _HEADER.size + 8 * n_words + 2 * n_components + key_bytes + extension_bytes != len(view):
            raise _damaged(where, f"its {len(view)} bytes are not what its header promises")
        if _checksum(view) != checksum:
            raise _damaged(where, "its checksum does not match")

        self.tar_size: int = tar_size
        self.n_samples: int = n_samples
        self.tar_xxh3: str = tar_xxh3.hex()
        words = np.frombuffer(view, "<u8", n_words, _HEADER.size)
        ends = np.cumsum([n_components, n_components, n_components, n_samples + 1, n_samples + 1])
        self._offset, self._size, self._xxh3, self._first, self._key_end, extension_end = np.split(words, ends)
        at = _HEADER.size + 8 * n_words
        self._extension = np.frombuffer(view, "<u2", n_components, at)
        at += 2 * n_components
        self._keys = view[at : at + key_bytes]
        self._check(where, n_components, n_extensions, extension_end, extension_bytes)
        texts = view[at + key_bytes :]
        self.extensions: tuple[str, ...] = tuple(
            _text(texts[int(a) : int(b)]) for a, b in itertools.pairwise(extension_end)
        )

    def _check(self, where: str, n_components: int, n_extensions: int, extension_end: Columns, texts: int) -> None:
        """A checksum finds accidents; an index made up by someone must not lead outside the tar either."""
        in_the_tar = (self._offset <= self.tar_size) & (self._size <= np.uint64(self.tar_size) - self._offset)
        if not in_the_tar.all():
            raise _damaged(where, "a component lies outside the tar")
        for ends, last in (
            (self._first, n_components),
            (self._key_end, len(self._keys)),
            (extension_end, texts),
        ):
            if ends[0] != 0 or ends[-1] != last or (ends[1:] < ends[:-1]).any():
                raise _damaged(where, "its columns contradict each other")
        if n_components and int(self._extension.max()) >= n_extensions:
            raise _damaged(where, "an extension is not in its table")

    def key(self, row: int) -> str:
        """The sample's key. Raises IndexError unless 0 <= row < n_samples."""
        self._check_row(row)
        return _text(self._keys[int(self._key_end[row]) : int(self._key_end[row + 1])])

    def components(self, row: int) -> dict[str, Component]:
        """The sample's components by extension, in the tar's order. Raises IndexError unless 0 <= row < n_samples."""
        self._check_row(row)
        return {
            self.extensions[self._extension[i]]: Component(int(self._offset[i]), int(self._size[i]), int(self._xxh3[i]))
            for i in range(int(self._first[row]), int(self._first[row + 1]))
        }

    def _check_row(self, row: int) -> None:
        if not 0 <= row < self.n_samples:
            raise IndexError(f"row {row} of a shard with {self.n_samples} samples")


def build(tar: Path, excluded: Collection[str] = (), known: ShardIndex | None = None) -> ShardIndex:
    """Indexes a plain WebDataset tar in one pass. `ignored` names its links, devices and the like.

    Samples whose key is in `excluded` are left out; those that there were are in the index's own `excluded`. With
    `known`, an index of this tar, its samples and their checksums are taken from there, and no header has to be whole.

    Raises UserError for what is not a whole, plain tar; for a key or a component that comes twice; and for an absolute
    name or one with `..`.
    """
    whole = xxhash.xxh3_128()
    builder = _Builder(tar, frozenset(excluded))
    tar_size = 0
    try:
        for member in tars.members(tar, whole) if known is None else _members(known, tar, whole):
            builder.add(member)
        tar_size = tar.stat().st_size
    except OSError as error:
        raise UserError(f"can't read this tar: {error.strerror}", where=str(tar)) from error
    file = builder.encode(tar_size, whole.digest())
    return ShardIndex(file, str(tar), tuple(builder.ignored), tuple(dict.fromkeys(builder.left_out)))


def _members(known: ShardIndex, tar: Path, whole: xxhash.xxh3_128) -> Iterator[tars.Member]:
    """What an index says that the tar holds; when exhausted, `whole` has been fed every byte of the file."""
    for row in range(known.n_samples):
        for extension, component in known.components(row).items():
            name = f"{known.key(row)}.{extension}"
            yield tars.Member(name, True, component.offset, component.size, component.xxh3)
    with tar.open("rb") as file:
        while chunk := file.read(_CHUNK):
            whole.update(chunk)


def write(index: ShardIndex, path: Path) -> None:
    """Writes the index file, atomically. Raises OSError."""
    write_atomic(path, bytes(index.buffer))


def read(path: Path) -> ShardIndex:
    """Maps an index file into memory and checks all of it. Raises UserError for a missing or damaged one."""
    try:
        with path.open("rb") as file:
            buffer = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except ValueError:
        raise _damaged(str(path), "it is empty") from None
    except OSError as error:
        raise UserError(
            f"can't read this index: {error.strerror}", where=str(path), fix="`distdl data index FOLDER` writes it."
        ) from error
    return ShardIndex(buffer, str(path))


def split_name(name: str) -> tuple[str, str] | None:
    """A member's name -> (key, extension in lower case), as webdataset does; None for a member that is no sample's.

    Hidden files such as macOS's `d/._1.jpg` are no sample's; webdataset makes one of them, with the key `d/`.
    """
    folder, slash, base = name.rpartition("/")
    stem, dot, extension = base.partition(".")
    if not stem or not dot or _RESERVED.match(name):
        return None
    return folder + slash + stem, extension.lower()


class _Builder:
    """Gathers the columns of an index while the members of a tar go by."""

    def __init__(self, tar: Path, excluded: frozenset[str] = frozenset()) -> None:
        self.tar, self.excluded = tar, excluded
        self.ignored: list[str] = []
        self.left_out: list[str] = []  # keys, once for each component
        self.keys: dict[str, int] = {}  # key -> its first component
        self.key = ""
        self.in_sample: set[str] = set()
        self.extensions: dict[str, int] = {}
        self.columns: list[tuple[int, int, int, int]] = []  # offset, size, xxh3, extension

    def add(self, member: tars.Member) -> None:
        if not member.regular:
            self.ignored.append(member.name)
            return
        if tars.leads_outside(member.name):
            raise self.error(f"member '{member.name}' points outside the archive", "Write the tar with relative names.")
        key_and_extension = split_name(member.name)
        if key_and_extension is None:
            return
        key, extension = key_and_extension
        if key in self.excluded:
            self.left_out.append(key)
            return
        if key != self.key or not self.keys:
            if key in self.keys:
                raise self.error(
                    f"the key '{key}' comes twice, with other samples in between",
                    "Write a sample's members one after the other (tar --sort=name), and give each sample its own key.",
                )
            self.key, self.in_sample = key, set()
            self.keys[key] = len(self.columns)
        if extension in self.in_sample:
            raise self.error(
                f"sample '{key}' has the component '{extension}' twice",
                "Give every sample its own key: the path up to the first dot of the file's name.",
            )
        self.in_sample.add(extension)
        extension_id = self.extensions.setdefault(extension, len(self.extensions))
        if extension_id >= _MOST_EXTENSIONS:
            raise self.error(
                f"more than {_MOST_EXTENSIONS} different extensions, such as '{extension}'",
                "A key ends at the first dot of the file's name: name the files without other dots.",
            )
        self.columns.append((member.offset, member.size, member.xxh3, extension_id))

    def encode(self, tar_size: int, tar_xxh3: bytes) -> bytes:
        offset, size, xxh3, extension = zip(*self.columns) if self.columns else ((), (), (), ())
        keys, key_ends = _texts(list(self.keys))
        extensions, extension_ends = _texts(list(self.extensions))
        first = [*self.keys.values(), len(self.columns)]
        columns = [np.array(words, "<u8") for words in (offset, size, xxh3, first, key_ends, extension_ends)]
        counts = (len(self.keys), len(self.columns), len(self.extensions), len(keys), len(extensions))
        file = bytearray(_HEADER.pack(_MAGIC, tar_size, *counts, tar_xxh3, bytes(16)))
        for column in [*columns, np.array(extension, "<u2")]:
            file += column.tobytes()
        file += keys + extensions
        file[_OWN_CHECKSUM] = _checksum(memoryview(file))
        return bytes(file)

    def error(self, what: str, fix: str) -> UserError:
        return UserError(what, where=str(self.tar), fix=fix)


def _texts(texts: list[str]) -> tuple[bytes, list[int]]:
    """The texts back to back, and where each begins, with the end of the last: (bytes, len(texts) + 1 ends)."""
    encoded = [text.encode("utf-8", "surrogateescape") for text in texts]
    ends = [0]
    for text in encoded:
        ends.append(ends[-1] + len(text))
    return b"".join(encoded), ends


def _text(view: memoryview) -> str:
    return bytes(view).decode("utf-8", "surrogateescape")


def _checksum(view: memoryview) -> bytes:
    digest = xxhash.xxh3_128(view[: _OWN_CHECKSUM.start])
    digest.update(view[_OWN_CHECKSUM.stop :])
    return digest.digest()


def _damaged(where: str, how: str) -> UserError:
    return UserError(f"this index can't be used: {how}", where=where, fix="Write it again: `distdl data index FOLDER`.")
