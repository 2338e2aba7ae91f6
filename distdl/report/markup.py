"""HTML that can't be injected into: whatever comes from a run is text until `element` has escaped it.

A name, a message or a line of a config may hold anything. Only what `element` made is markup; every other string that
is put into an element or an attribute is escaped there, so no caller has to think of it.
"""

import html
import json
from collections.abc import Iterable, Sequence
from typing import Any

_WITHOUT_END = ("br", "img", "input", "meta")


class Html(str):
    """Markup, as opposed to text that happens to look like it."""

    __slots__ = ()


def element(name: str, /, *children: str | None, **attributes: str | float | bool | None) -> Html:
    """<name ...>children</name>.

    Attributes: `class_` is class, `aria_label` is aria-label; True is a bare one, and None or False leaves it out.
    """
    opening = name
    for key, value in attributes.items():
        if value is True:
            opening += f" {_dashed(key)}"
        elif value is not None and value is not False:
            opening += f' {_dashed(key)}="{html.escape(str(value))}"'
    if name in _WITHOUT_END:
        return Html(f"<{opening}>")
    return Html(f"<{opening}>{join(children)}</{name}>")


def join(parts: Iterable[str | None]) -> Html:
    return Html("".join(part if isinstance(part, Html) else html.escape(part) for part in parts if part is not None))


def table(head: Sequence[str], rows: Iterable[Sequence[str | None]], class_: str | None = None) -> Html:
    """A table in a frame that scrolls sideways on a narrow screen. The first cell of a row is its heading."""
    header = element("tr", *(element("th", cell, scope="col") for cell in head))
    body = [
        element("tr", element("th", first, scope="row"), *(element("td", cell) for cell in cells))
        for first, *cells in rows
    ]
    whole = element("table", element("thead", header) if head else None, element("tbody", *body), class_=class_)
    return element("div", whole, class_="scroll", tabindex=0)


def details(summary: str, *children: str | None, open_: bool = False) -> Html:
    return element("details", element("summary", summary), *children, open=open_)


def json_block(identifier: str, value: Any) -> Html:
    """A script element of data. No `<` is left in it, so that no string can end the element or open a comment."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    return Html(f'<script type="application/json" id="{identifier}">{text}</script>')


def _dashed(key: str) -> str:
    return key.rstrip("_").replace("_", "-")
