"""Enough of protocol buffers' text format to read a configuration back; every field becomes a list."""

from __future__ import annotations

import json
import re
from typing import Any

_TOKEN = re.compile(r'\s+|#[^\n]*|("(?:[^"\\]|\\.)*")|([A-Za-z_]\w*)|(-?\d+(?:\.\d+)?)|([{}\[\]:,])')


def parse(text: str) -> dict[str, list[Any]]:
    tokens, place = [], 0
    while place < len(text):
        match = _TOKEN.match(text, place)
        assert match, f"no token at {text[place : place + 30]!r}"
        place = match.end()
        if any(match.groups()):
            tokens.append(match.group().strip())
    fields, rest = _fields(tokens)
    assert not rest
    return fields


def _fields(tokens: list[str]) -> tuple[dict[str, list[Any]], list[str]]:
    found: dict[str, list[Any]] = {}
    while tokens and tokens[0] != "}":
        name, mark, tokens = tokens[0], tokens[1], tokens[2:]
        if mark == "{":
            value, tokens = _fields(tokens)
            assert tokens[0] == "}"
            values, tokens = [value], tokens[1:]
        else:
            assert mark == ":"
            if tokens[0] == "[":
                end = tokens.index("]")
                values, tokens = [_scalar(token) for token in tokens[1:end] if token != ","], tokens[end + 1 :]
            else:
                values, tokens = [_scalar(tokens[0])], tokens[1:]
        found.setdefault(name, []).extend(values)
    return found, tokens


def _scalar(token: str) -> Any:
    if token in ("true", "false"):
        return token == "true"
    if token[0] == '"':
        return json.loads(token)
    return token if token[0].isalpha() else float(token) if "." in token else int(token)
