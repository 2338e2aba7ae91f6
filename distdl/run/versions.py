"""What has to be the same on all hosts of a run, or they would go different ways, or not understand each other."""

import hashlib
import importlib.metadata
import platform
from collections.abc import Sequence
from pathlib import Path

import distdl
from distdl.errors import UserError

Versions = dict[str, str]


def here() -> Versions:
    return {
        "distdl": f"{distdl.__version__} ({digest_of_code()[:12]})",
        "torch": _version("torch"),
        "Python": platform.python_version(),
    }


def check(found: Sequence[tuple[str, Versions]]) -> None:
    """`found`: of each host, by its name. Raises UserError for the first that is not as the first one."""
    name, first = found[0]
    for other, versions in found[1:]:
        for what, version in versions.items():
            if version != first[what]:
                raise UserError(
                    f"{what} {version} is not that of {name}, {first[what]}",
                    where=other,
                    fix="Install the same on all hosts.",
                )


def digest_of_code() -> str:
    """Of distdl's own files."""
    digest, root = hashlib.sha256(), Path(distdl.__file__).parent
    for path in sorted(root.rglob("*.py")):
        digest.update(f"{path.relative_to(root)}\n".encode() + path.read_bytes())
    return digest.hexdigest()


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "none"
