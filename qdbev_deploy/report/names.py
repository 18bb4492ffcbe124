"""Names of layers where there is little room: what tells one from another is kept."""

from __future__ import annotations

import re

# Modules that say no more than the drawing does.
_DROPPED = ("pts_bbox_head.transformer.", "pts_bbox_head.", "pts_bbox_head/", "img_")
_SHORTER = (
    ("attentions", "attn"), (".deformable_attention", ""), ("_branches", ""), ("MatMulAddFusion", "Add"),
    ("DequantizeLinear", "DQ"), ("QuantizeLinear", "Q"),
)  # fmt: skip
_NUMBERED = re.compile(r"([A-Za-z])[A-Za-z_]*(\.\d+)")  # layers.0


def shortened(name: str, letters: int) -> str:
    """A long text without its middle."""
    if len(name) <= letters:
        return name
    front = (letters - 1) // 3
    return f"{name[:front]}…{name[len(name) - (letters - 1 - front) :]}"


def short_layer(name: str, letters: int) -> str:
    """A layer's name in so many letters: its part, the numbers of its modules and its op stay as long as they can."""
    if len(name) <= letters:
        return name
    found = name
    for prefix in _DROPPED:
        found = found.removeprefix(prefix)
    for long, short in _SHORTER:
        found = found.replace(long, short)
    if len(found) <= letters:
        return found
    found = _NUMBERED.sub(lambda match: match[1] + match[2].removeprefix("."), found)  # encoder.l0.a1.value_proj
    if len(found) <= letters:
        return found
    numbered = re.match(r".*\d(?=[./])", found)  # up to the last number of a module
    kept = numbered.end() if numbered else 0
    if 0 < kept <= letters - 8:
        return f"{found[:kept]}…{found[len(found) - (letters - kept - 1) :]}"
    return shortened(found, letters)
