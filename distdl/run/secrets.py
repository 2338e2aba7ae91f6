"""Takes passwords and tokens out of what a run writes down about itself: its command, its environment, its git diff.

    redact(text)            known shapes of tokens, `user:password@` in URLs, and values whose names say what they are
    redact_values(config)   the same for nested values; a text below a name such as api_key goes as a whole

When in doubt it takes out too much: a word lost from a diff is cheaper than a key in a shared run folder. What stays is
code that only mentions a secret: `token = next(tokens)`, `password: str`, `--token $TOKEN`.
"""

import re
from typing import Any

MARK = "***"

# How a secret's name ends: `api_key`, `GITHUB_TOKEN` and `dbPassword` do, `max_tokens` does not.
_NAME = (
    r"(?:password|passwd|passphrase|secrets?|credentials?|token"
    r"|(?:api|access|account|auth|private|secret|signing)[_-]?key)\d*"
)
_KEY = r"(?<![^\W_])key"  # only where nothing but a name can stand: code is full of `key=`

# Tokens that can be told by their looks, wherever they stand.
_SHAPES = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)"
    r"|\b(?:AKIA|ASIA)[0-9A-Z]{16}\b"  # AWS
    r"|\bgh[pousr]_[0-9A-Za-z]{20,}|\bgithub_pat_\w{20,}|\bglpat-[\w-]{20,}"  # GitHub, GitLab
    r"|\bhf_[0-9A-Za-z]{20,}"  # Hugging Face
    r"|\bwandb_v\d+_\w{20,}|(?<![0-9A-Za-z])[0-9a-f]{40}(?![0-9A-Za-z])"  # wandb, new and old; a commit looks alike
    r"|\bsk-[\w-]{20,}|\bAIza[\w-]{30,}|\bya29\.[\w.-]{20,}"  # OpenAI, Anthropic, Google
    r"|\bxox[a-z]-[\w-]{10,}|\bnpm_[0-9A-Za-z]{20,}|\bpypi-[\w-]{20,}"  # Slack, npm, PyPI
    r"|\beyJ[\w-]{5,}\.eyJ[\w-]{5,}\.[\w-]*",  # a JSON web token
    re.DOTALL,
)
_USER_IN_URL = re.compile(r"(?<=://)[^\s/'\"@:]{0,256}:[^\s/'\"]{0,1024}@|(?<=https://)[^\s/'\"@:]{1,1024}@")

_QUOTED = r"\"(?:[^\"\\\n]|\\.)*\"|'(?:[^'\\\n]|\\.)*'"
_BARE = r"[^\s\"',;&]+"
_EQUALS = r"(?::\s*[\w.]+(?:\s*\|\s*None)?\s*=(?!=)|:(?!:)|=(?!=))"  # name = value, name: value, name: type = value
_GIVEN = [
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        r"(?P<before>[?&](?:(?:x-amz-|x-goog-)?signature|sig)=)(?P<value>[^\s&'\"]+)",  # a presigned URL
        r"(?P<before>\b(?:bearer|basic)\s+)(?P<value>(?=\S*[\d=])[\w.~+/=-]{8,})",  # an HTTP header
        rf"(?P<before>(?<=')[\w.-]*{_NAME}=)(?P<value>[^'\n]+)(?=')",  # a word that the shell needs in quotes
        rf"(?P<before>{_NAME}[\"']?\s*{_EQUALS}\s*)(?P<value>{_QUOTED}|{_BARE})",
        rf"(?P<before>(?<!\S)--?[\w.-]*(?:{_NAME}|{_KEY})\s+)(?P<value>{_QUOTED}|(?!--?[a-z]){_BARE})",  # --token value
    )
]
_NO_SECRET = re.compile(
    r"(?:none|null|true|false|str|int|float|bool|bytes|any|lambda|\*+"
    r"|\$\w+|\$?\{\w+\}|\{(?:\w+:)?"  # variables; a mapping, whose inside is looked at by itself
    r"|[a-z_][\w.]*(?:\(.*\)|\[.*\]|[\[(]))"  # a call or a look-up
    r"[\])}:]*",
    re.IGNORECASE,
)
_SECRET_NAME = re.compile(rf"(?:{_NAME}|{_KEY})$", re.IGNORECASE)


def redact(text: str) -> str:
    """`text` with each secret that can be recognised replaced by `***`."""
    text = _USER_IN_URL.sub(f"{MARK}@", _SHAPES.sub(MARK, text))
    for pattern in _GIVEN:
        text = pattern.sub(_without_value, text)
    return text


def redact_values(value: Any, name: str = "") -> Any:
    """A copy of nested mappings, lists and scalars; `name` is the key that the value stands below."""
    if isinstance(value, dict):
        return {key: redact_values(item, str(key)) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [redact_values(item, name) for item in value]
    if not isinstance(value, str):
        return value
    return MARK if value and _SECRET_NAME.search(name) else redact(value)


def _without_value(match: re.Match[str]) -> str:
    before, value = match["before"], match["value"]
    if value[0] in "\"'":
        return f"{before}{value[0]}{MARK}{value[0]}" if value[1:-1] else match[0]
    return match[0] if _NO_SECRET.fullmatch(value) else before + MARK
