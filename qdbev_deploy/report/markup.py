"""Elements of HTML and SVG. Whatever is not an element already is escaped, so that no text of a file becomes markup."""

from __future__ import annotations

import html
import json
from typing import Any

_VOID = {"meta", "br", "hr", "img", "input"}


class Element(str):
    """Text that is markup already; only the functions of this file make it."""

    __slots__ = ()


def text(value: object) -> Element:
    """Any value as text: an element stays one, everything else is escaped."""
    return value if isinstance(value, Element) else Element(html.escape(str(value), quote=True))


def tag(name: str, /, *children: object, **attributes: object) -> Element:
    """An element. `class_` is class, other underscores are hyphens; an attribute that is None is left out."""
    said = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(_attribute(value), quote=True)}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in _VOID:
        return Element(f"<{name}{said}>")
    return Element(f"<{name}{said}>{''.join(text(child) for child in children)}</{name}>")


def _attribute(value: object) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)


def join(*children: object) -> Element:
    return Element("".join(text(child) for child in children))


def json_script(identifier: str, value: Any) -> Element:
    """A JSON document inside a page, which no string in it can leave."""
    content = json.dumps(value, allow_nan=False, separators=(",", ":"))
    for mark in "<>&\u2028\u2029":
        content = content.replace(mark, f"\\u{ord(mark):04x}")
    return Element(f'<script type="application/json" id="{html.escape(identifier)}">{content}</script>')


def raw(content: str) -> Element:
    """Content of our own files (style, script). Never for anything that was read from elsewhere."""
    return Element(content)
