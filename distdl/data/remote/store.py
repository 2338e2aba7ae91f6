"""One folder of files somewhere, as little as is needed of it: `size`, `read` of a range of bytes, `names`.

A store makes one attempt and says in which of four ways it failed; what is done then is decided once for all stores
(patience.py). No text of its errors holds more of an address than `where` does: no password, token or signature.
"""

import time
from collections.abc import Iterator
from typing import Protocol

PIECE = 64 << 10  # bytes between two looks at the clock


class Unavailable(Exception):
    """It may work when tried again. `partial`: the bytes that have arrived; `after_s`: when the server wants it."""

    def __init__(self, reason: str, *, partial: bytes = b"", after_s: float = 0.0) -> None:
        super().__init__(reason)
        self.partial, self.after_s = partial, after_s


class Denied(Exception):
    """The credentials are missing, wrong, or no longer right."""


class Missing(Exception):
    """There is no such file."""


class Unfit(Exception):
    """It will not work however often it is tried. `fix`: what would."""

    def __init__(self, reason: str, fix: str = "") -> None:
        super().__init__(reason)
        self.fix = fix


class Store(Protocol):
    """Its methods are called by many threads at once and raise the four exceptions above."""

    where: str  # for people
    host: str  # requests are counted by

    def size(self, name: str) -> int:
        """Bytes of a file."""
        ...

    def read(self, name: str, begin: int, end: int | None, until: float) -> bytes:
        """Bytes begin .. end of a file, or all from `begin` on; `until` (time.monotonic) or Unavailable."""
        ...

    def names(self) -> list[str] | None:
        """The files' names; None where that can't be asked."""
        ...

    def renew(self) -> None:
        """Looks up the credentials again."""
        ...


def gathered(pieces: Iterator[bytes], size: int | None, until: float) -> bytes:
    """All pieces of an answer of `size` bytes. Raises Unavailable, with what there is, if it is short or slow.

    What `pieces` raises when the connection breaks is made Unavailable by who knows the library.
    """
    found = bytearray()
    try:
        for piece in pieces:
            found += piece
            if time.monotonic() > until and (size is None or len(found) < size):
                raise Unavailable(f"slow: {len(found):,} bytes arrived in time", partial=bytes(found))
    except Unavailable as error:
        error.partial = bytes(found)
        raise
    if size is not None and len(found) != size:
        raise Unavailable(f"a short answer: {len(found):,} of {size:,} bytes", partial=bytes(found[:size]))
    return bytes(found)
