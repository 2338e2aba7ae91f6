"""Addresses such as https://host/prefix/ and s3://bucket/prefix: what they may hold, how they are shown.

A config is kept with its run and shown to others, a command line by the shell, so that they hold no password, token or
signed link. Where one is needed the address names a variable of the environment, https://host/prefix/?${QUERY}, which
is filled in when the address is opened and is written down nowhere.
"""

import re
from collections.abc import Mapping

_VARIABLE = re.compile(r"\$\{(\w+)\}")
_USER = re.compile(r"(?<=://)[^/\s'\"@?]*@")
_QUERY = re.compile(r"(://[^\s'\"?]*)\?[^\s'\"]*")


def is_address(text: str) -> bool:
    """Whether it is an address, as against a path."""
    return "://" in text


def check(text: str) -> str:
    """Raises ValueError, whose text does not repeat it, for an address with a password, a token or a signature."""
    plain = _VARIABLE.sub("", text)
    user = _USER.search(plain)
    if (user and user[0].strip(":@")) or (is_address(plain) and plain.partition("?")[2]):
        raise ValueError(
            "an address has no user, password or '?...' in plain text, for it is kept, with a run or by a shell: "
            "write ${NAME} for what a variable of the environment holds, on a command line in single quotes"
        )
    return text


def shown(text: str) -> str:
    """The text with what may be secret in its addresses replaced by `***`."""
    return _QUERY.sub(r"\1?***", _USER.sub("***@", text))


def filled_in(text: str, environment: Mapping[str, str]) -> str:
    """With `${NAME}` replaced by the variable's value. Raises KeyError with the name of one that is not set."""
    return _VARIABLE.sub(lambda match: environment[match[1]], text)
