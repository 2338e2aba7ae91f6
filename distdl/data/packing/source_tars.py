"""Images in the tars of a source, found by the tars' headers alone and read by offset: nothing is extracted to disk.

A tar is someone else's: a member whose name leads outside of it is refused, and links and devices are left out, never
followed.
"""

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from distdl.data.corpus import tar as tars
from distdl.data.corpus.tar import Member
from distdl.data.packing.corpus import IMAGE_FILES, Others
from distdl.errors import UserError


class SourceTar:
    """The members of a tar, or of the tar that is its member `inside`. `others`: what is not handed on."""

    def __init__(self, path: Path, inside: Member | None = None) -> None:
        self.path, self.inside, self.others = path, inside, Others()

    def images(self) -> Iterator[Member]:
        return self._members(IMAGE_FILES)

    def tars(self) -> Iterator[Member]:
        return self._members((".tar",))

    def _members(self, endings: tuple[str, ...]) -> Iterator[Member]:
        """Raises UserError for a tar that is damaged, and for two members of one name, of which a reader takes one."""
        seen: set[str] = set()
        for member in self._headers():
            if tars.leads_outside(member.name):
                raise self._error(f"member '{member.name}' leads outside of the archive")
            name = PurePosixPath(member.name)
            if not member.regular or name.suffix.lower() not in endings or name.name.startswith("."):
                self.others.add(member.name, "" if member.regular else "link or device")
                continue
            if member.name in seen:
                raise self._error(f"member '{member.name}' comes twice")
            seen.add(member.name)
            yield member

    def _headers(self) -> Iterator[Member]:
        try:
            yield from tars.headers(self.path, self.inside)
        except OSError as error:
            raise UserError(f"can't read this tar: {error.strerror}", where=str(self.path)) from error

    def _error(self, what: str) -> UserError:
        where = f"{self.path}: {self.inside.name}" if self.inside else str(self.path)
        return UserError(what, where=where, fix="This is not the official archive: download it again.")
