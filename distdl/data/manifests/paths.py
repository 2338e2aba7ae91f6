"""Relative paths in a manifest: from its own folder, or from where the command is started; the first file decides."""

from pathlib import Path

from distdl.errors import UserError


class Base:
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._base: Path | None = None

    def __call__(self, name: str) -> Path:
        """Raises UserError where the first file is in neither place."""
        path = Path(name).expanduser()
        if self._base is None:
            places = [Path()] if path.is_absolute() else [self._folder, Path()]
            there = next((place for place in places if (place / path).is_file()), None)
            if there is None:
                raise UserError(
                    f"its first sound is not there: {name}",
                    where=str(self._folder),
                    fix="Paths are absolute, or relative to the manifest's folder or to the folder you start in.",
                )
            if path.is_absolute():
                return path
            self._base = there
        return self._base / path
