"""Which store an address or a path names; and the store of a path."""

import os
from pathlib import Path

from distdl.config import addresses
from distdl.config.schema import RemoteConfig
from distdl.data.remote.http import HttpStore
from distdl.data.remote.store import Denied, Missing, Store, Unavailable, Unfit
from distdl.errors import UserError


def open_store(folder: str, remote: RemoteConfig) -> Store:
    """Raises UserError for an address with a variable that is not set, or one that needs what is not installed."""
    if not addresses.is_address(folder):
        return FileStore(Path(folder))
    try:
        address = addresses.filled_in(folder, os.environ)
    except KeyError as error:
        raise UserError(
            f"the environment has no variable {error.args[0]}", where=addresses.shown(folder), fix="Set it."
        ) from None
    if address.startswith("s3://"):
        from distdl.data.remote.s3 import S3Store  # what it imports is optional

        return S3Store(address, remote)
    return HttpStore(address, remote)


class FileStore:
    """A folder of a file system, which may be a slow one."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.where = self.host = str(folder)

    def size(self, name: str) -> int:
        try:
            return (self._folder / name).stat().st_size
        except OSError as error:
            raise _failure(error) from None

    def read(self, name: str, begin: int, end: int | None, until: float) -> bytes:
        try:
            with (self._folder / name).open("rb") as file:
                file.seek(begin)
                found = file.read() if end is None else file.read(end - begin)
        except OSError as error:
            raise _failure(error) from None
        if end is not None and len(found) != end - begin:
            raise Unfit(f"the file ends at byte {begin + len(found):,}")
        return found

    def names(self) -> list[str] | None:
        try:
            return sorted(entry.name for entry in self._folder.iterdir() if entry.is_file())
        except OSError as error:
            raise _failure(error) from None

    def renew(self) -> None:
        """Permissions are asked for at every read."""


def _failure(error: OSError) -> Exception:
    reason = error.strerror or "can't be read"
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return Missing(reason)
    return Denied(reason) if isinstance(error, PermissionError) else Unavailable(reason)
