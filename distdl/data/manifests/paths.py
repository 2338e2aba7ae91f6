"""Relative paths in a manifest: from its own folder, or from where the command is started; the first file decides."""

from pathlib import Path

from distdl.errors import UserError


class Base:
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._is_absolute_tried = False
        self._base: Path | None = None  # of relative paths

    def __call__(self, name: str) -> Path:
        """Raises UserError where the first absolute path is not there, and the first relative one in neither place."""
        path = Path(name).expanduser()
        if path.is_absolute():
            if not self._is_absolute_tried and not path.is_file():
                raise self._missing(name)
            self._is_absolute_tried = True
            return path
        if self._base is None:
            self._base = next((place for place in (self._folder, Path()) if (place / path).is_file()), None)
        if self._base is None:
            raise self._missing(name)
        return self._base / path

    def _missing(self, name: str) -> UserError:
        return UserError(
            f"its first sound is not there: {name}",
            where=str(self._folder),
            fix="Paths are absolute, or relative to the manifest's folder or to the folder you start in.",
        )
