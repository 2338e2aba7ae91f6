"""Walks the members of a tar in one sequential pass, hashing as it goes; nothing is ever extracted to disk.

A tar is a row of members: a 512-byte header, then the data padded to 512. Long names, and sizes above 8 GiB, come in
extra headers before the member: GNU's (type L) or PAX records (types x and g). Headers are parsed by tarfile; walking
is done here because tarfile takes several times as long, and takes an archive that is cut off between two members for
a whole one. Packing needs only the headers, also those of a tar inside of a tar: `headers` skips what is in between.
"""

import os
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import xxhash

from distdl.errors import UserError

BLOCK = 512
_PAX_TYPES = (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE)
_LARGEST_EXTRA_HEADER = 1 << 20  # a name of a megabyte is damage, not a name
_CHUNK = 4 << 20
_HEADERS_BUFFER = 8 * BLOCK  # bytes read for a header whose data is skipped
_PAX_RECORD = re.compile(rb"(\d{1,9}) ")
_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}


@dataclass(frozen=True, slots=True)
class Member:
    """A member of a tar. `offset` and `size` (bytes) are of its data in the file; `xxh3` is xxh3-64 of the data."""

    name: str
    regular: bool  # False for links, devices and pipes; directories are not reported
    offset: int
    size: int
    xxh3: int


def members(path: Path, whole: xxhash.xxh3_128) -> Iterator[Member]:
    """Every member but directories, in order; when exhausted, `whole` has been fed every byte of the file.

    Raises UserError for a file that is not a plain tar, is compressed, damaged, cut off, or has sparse members.
    """
    with path.open("rb", buffering=1 << 20) as file:
        yield from _walk(_Tape(path, file, whole))


def headers(path: Path, inside: Member | None = None) -> Iterator[Member]:
    """As `members`, without reading the data: `xxh3` is 0. With `inside`, of the tar that is this member of `path`.

    Offsets count from the beginning of the file `path` in either case.
    """
    with path.open("rb", buffering=_HEADERS_BUFFER) as file:
        yield from _walk(_SkippingTape(path, file, inside))


def _walk(tape: "_Tape") -> Iterator[Member]:
    defaults: dict[str, str] = {}  # PAX records for all members that follow
    own: dict[str, str] = {}  # for the next member only; "path" beats "gnu_path"
    while (info := _header(tape)) is not None:
        if info.type in _PAX_TYPES:
            own |= _pax_records(tape, info)
        elif info.type == tarfile.XGLTYPE:
            defaults |= _pax_records(tape, info)
        elif info.type == tarfile.GNUTYPE_LONGNAME:
            own["gnu_path"] = _text(tape.padded(_extra_size(tape, info)).split(b"\0", 1)[0])
        elif info.type == tarfile.GNUTYPE_LONGLINK:
            tape.padded(_extra_size(tape, info))
        else:
            member = _member(tape, info, defaults | own)
            own = {}
            if member is not None:
                yield member
    tape.finish()


def leads_outside(name: str) -> bool:
    """Whether a member of this name would be extracted to somewhere else than below the folder of the rest."""
    return name.startswith("/") or ".." in name.split("/")


def _header(tape: "_Tape") -> tarfile.TarInfo | None:
    """The next header, or None at the end-of-archive mark (a block of zeros)."""
    start = tape.position
    if start == tape.size:
        raise tape.cut_off() if start > tape.begin else UserError("this file is empty, not a tar", where=str(tape.path))
    block = tape.read(min(BLOCK, tape.size - start))
    if start == tape.begin:
        _refuse_what_is_no_tar(tape.path, block)
    if len(block) < BLOCK:
        raise tape.cut_off()
    if not block.strip(b"\0"):
        return None
    try:
        info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        if start == tape.begin:
            raise UserError(
                "this file is not a tar", where=str(tape.path), fix="Shards are plain WebDataset tars."
            ) from None
        raise tape.damaged(f"no valid header at byte {start}") from None
    if info.size < 0:
        raise tape.damaged(f"a negative size in the header at byte {start}")
    return info


def _refuse_what_is_no_tar(path: Path, block: bytes) -> None:
    for magic, name in _COMPRESSED.items():
        if block.startswith(magic):
            raise UserError(
                f"this tar is compressed ({name}); samples are read by their place in a plain tar",
                where=str(path),
                fix="Decompress it first (gunzip, bunzip2, unxz or unzstd). Images hardly shrink anyway.",
            )
    if len(block) < BLOCK:
        raise UserError("this file is not a tar", where=str(path), fix="Shards are plain WebDataset tars.")


def _member(tape: "_Tape", info: tarfile.TarInfo, records: dict[str, str]) -> Member | None:
    name = records.get("path", records.get("gnu_path", info.name))
    if info.type == tarfile.GNUTYPE_SPARSE or any(key.startswith("GNU.sparse.") for key in records):
        raise UserError(
            f"member '{name}' is sparse", where=str(tape.path), fix="Write the tar again without tar's --sparse."
        )
    size = info.size
    if "size" in records:
        if not records["size"].isdecimal():
            raise tape.damaged(f"member '{name}' has the size '{records['size']}'")
        size = int(records["size"])
    if not info.isreg() and info.type in tarfile.SUPPORTED_TYPES:
        size = 0  # links, devices and directories have no data, whatever their header says
    offset = tape.position
    if size > tape.size - offset:
        raise tape.cut_off(f" inside '{name}'")
    xxh3 = tape.hash_padded(size)
    return None if info.isdir() else Member(name, info.isreg(), offset, size, xxh3)


def _extra_size(tape: "_Tape", info: tarfile.TarInfo) -> int:
    if info.size > _LARGEST_EXTRA_HEADER:
        raise tape.damaged(f"an extra header of {info.size} bytes at byte {tape.position}")
    return info.size


def _pax_records(tape: "_Tape", info: tarfile.TarInfo) -> dict[str, str]:
    """Records are `<length of the record> <key>=<value>\\n`, back to back."""
    at = tape.position
    data = tape.padded(_extra_size(tape, info))
    records, start = {}, 0
    while start < len(data) and data[start]:
        match = _PAX_RECORD.match(data, start)
        end = start + int(match[1]) if match else start
        key, equals, value = data[match.end() : end - 1].partition(b"=") if match else (b"", b"", b"")
        if not equals or end > len(data):
            raise tape.damaged(f"an unreadable PAX header at byte {at}")
        records[_text(key)] = _text(value).rstrip("/") if key == b"path" else _text(value)
        start = end
    return records


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")


class _Tape:
    """A tar read from its beginning to its end; what is read is fed to the hash of the whole file."""

    begin = 0

    def __init__(self, path: Path, file: BinaryIO, whole: xxhash.xxh3_128) -> None:
        self.path, self.file, self.whole = path, file, whole
        self.size = os.fstat(file.fileno()).st_size
        self.position = 0

    def read(self, size: int) -> bytes:
        if size > self.size - self.position:
            raise self.cut_off()
        data = self.file.read(size)
        if len(data) < size:
            raise self.cut_off()
        self.whole.update(data)
        self.position += size
        return data

    def padded(self, size: int) -> bytes:
        return self.read(size + -size % BLOCK)[:size]

    def hash_padded(self, size: int) -> int:
        """xxh3-64 of the next `size` bytes; goes on to the next block."""
        if size <= _CHUNK:
            return xxhash.xxh3_64_intdigest(self.padded(size))
        part = xxhash.xxh3_64()
        for start in range(0, size, _CHUNK):
            part.update(self.read(min(_CHUNK, size - start)))
        self.read(-size % BLOCK)
        return part.intdigest()

    def finish(self) -> None:
        """Reads the padding that ends a tar."""
        while self.position < self.size:
            if self.read(min(_CHUNK, self.size - self.position)).strip(b"\0"):
                raise UserError(
                    "there is data after the end of the archive, which every reader would leave out",
                    where=str(self.path),
                    fix="If tars were joined with cat: keep them as single files, or join them with tar --concatenate.",
                )

    def cut_off(self, place: str = "") -> UserError:
        return UserError(
            f"this tar is cut off{place} at byte {self.size}",
            where=str(self.path),
            fix="Copy or write it again: the copy or the program that wrote it did not finish.",
        )

    def damaged(self, how: str) -> UserError:
        return UserError(f"this tar is damaged: {how}", where=str(self.path), fix="Copy or write it again.")


class _SkippingTape(_Tape):
    """Skips the members' data. `inside`: the member that is the tar to be read; its end is the end."""

    def __init__(self, path: Path, file: BinaryIO, inside: Member | None) -> None:
        super().__init__(path, file, xxhash.xxh3_128())
        if inside:
            self.path = path / inside.name  # for messages
            self.begin = self.position = inside.offset
            self.size = inside.offset + inside.size
            file.seek(self.begin)

    def hash_padded(self, size: int) -> int:
        padded = size + -size % BLOCK
        if padded > self.size - self.position:
            raise self.cut_off()
        self.file.seek(padded, os.SEEK_CUR)
        self.position += padded
        return 0
