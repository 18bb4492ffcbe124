"""Protocol buffers' text format, as far as a server's configuration needs it."""

from __future__ import annotations

import json


class Symbol(str):
    """A value of an enumeration, which is written without quotes."""

    __slots__ = ()


# A message is its fields in order. A list of messages or of values repeats its field.
Message = tuple[tuple[str, object], ...]


def text_format(message: Message, indent: int = 0) -> str:
    """One field a line, messages in braces."""
    return "".join(_field(name, value, "  " * indent, indent) for name, value in message)


def _field(name: str, value: object, before: str, indent: int) -> str:
    if _is_message(value):
        return f"{before}{name} {{\n{text_format(value, indent + 1)}{before}}}\n"  # type: ignore[arg-type]
    if isinstance(value, list):
        if value and _is_message(value[0]):
            return "".join(_field(name, item, before, indent) for item in value)
        return f"{before}{name}: [{', '.join(map(_scalar, value))}]\n"
    return f"{before}{name}: {_scalar(value)}\n"


def _is_message(value: object) -> bool:
    return isinstance(value, tuple)


def _scalar(value: object) -> str:
    if isinstance(value, Symbol):
        return str(value)
    if isinstance(value, str):
        return json.dumps(value)  # its escapes are among those of the text format
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)
