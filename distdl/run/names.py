"""What a run may be called."""

import re
from pathlib import Path

from distdl.errors import UserError


def of_run(config: Path, given: str | None) -> str:
    """The name that was given, or else the config's stem. Raises UserError for what can't be a folder's."""
    name = Path(config).stem if given is None else given
    if not re.fullmatch(r"[\w][\w.+=-]{0,99}", name):
        raise UserError(
            f"'{name}' can't be the name of a folder below runs/", fix="Use up to 100 letters, digits and . _ - + ="
        )
    return name
