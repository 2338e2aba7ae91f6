"""`distdl config show`: the resolved config as YAML with a comment on each key, what it means or where it was set.

The output is a config again: `distdl config show x.yaml > y.yaml` gives the same run.
"""

import textwrap

from distdl.config.layout import WIDTH, Line, lines
from distdl.config.loader import Loaded

LONGEST_ALIGNED = 42  # columns; comments of longer lines do not push all others to the right


def show(loaded: Loaded, diff: bool) -> str:
    """YAML without a newline at its end.

    The whole config, commented with the meaning of each key; or with `diff` what differs from the schema's defaults,
    commented with where each value comes from: file and line, or the override.
    """
    shown = lines(loaded.config, changed_only=diff)
    column = 2 + max(len(line.text) for line in shown if len(line.text) <= LONGEST_ALIGNED)
    found: list[str] = []
    for number, line in enumerate(shown):
        if number and len(line.path) == 1:
            found.append("")
        comment = _source(line, loaded) if diff else line.description
        found += _commented(line.text, comment, column)
    return "\n".join(found)


def _source(line: Line, loaded: Loaded) -> str:
    return "" if line.is_header else loaded.sources.get(line.path, "")


def _commented(text: str, comment: str, column: int) -> list[str]:
    """The comment to the right of the text, wrapped; or above it where it would not fit there."""
    comment = " ".join(comment.split())  # an override may hold a line break
    if not comment:
        return [text]
    if len(text) + 2 > column:
        one_line = f"{text}  # {comment}"
        indent = " " * (len(text) - len(text.lstrip()))
        above = textwrap.wrap(comment, WIDTH, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}# ")
        return [one_line] if len(one_line) <= WIDTH else [*above, text]
    first, *more = textwrap.wrap(comment, WIDTH - column - 2, break_long_words=False)
    return [f"{text:<{column}}# {first}", *(f"{'':<{column}}# {line}" for line in more)]
