"""What the two ends of a JPEG file tell without decoding it."""

from __future__ import annotations

from pathlib import Path

_HEAD = 4096  # the size of the image stands in it unless a preview comes first
_STANDALONE = {0x01, *range(0xD0, 0xD8)}
_FRAMES = set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


def jpeg_problem(path: Path, width: int, height: int) -> str | None:
    """What is wrong with a JPEG of which a table says its size; None where its ends show nothing."""
    try:
        with path.open("rb", buffering=0) as file:
            head = file.read(_HEAD)
            size = file.seek(0, 2)
            file.seek(max(size - 32, 0))
            tail = file.read()
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    if not head.startswith(b"\xff\xd8"):
        return "no JPEG"
    if not tail.rstrip(b"\0").endswith(b"\xff\xd9"):
        return f"cut off after {size} bytes"
    found = _size(head)
    if found is not None and found != (width, height):
        return f"{found[0]}x{found[1]} pixels, by the table {width}x{height}"
    return None


def _size(head: bytes) -> tuple[int, int] | None:
    """Width and height as the frame header has them; None where it does not lie in the first bytes."""
    at = 2
    while at + 9 <= len(head) and head[at] == 0xFF:
        marker = head[at + 1]
        if marker in _FRAMES:
            return int.from_bytes(head[at + 7 : at + 9], "big"), int.from_bytes(head[at + 5 : at + 7], "big")
        if marker == 0xFF:  # filling
            at += 1
        elif marker in _STANDALONE:
            at += 2
        else:
            at += 2 + int.from_bytes(head[at + 2 : at + 4], "big")
    return None
