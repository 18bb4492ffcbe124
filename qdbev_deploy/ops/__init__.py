"""The BEV ops as torch functions: what the model calls, and what ONNX functions and plugins are held against.

torch is loaded with the first of them that is asked for: their ONNX functions and their constants need none.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qdbev_deploy.ops.deform_attn import PillarGeometry, ms_deform_attn, spatial_cross_attn, temporal_self_attn
    from qdbev_deploy.ops.deform_conv import modulated_deform_conv2d
    from qdbev_deploy.ops.projection import project_pillars
    from qdbev_deploy.ops.rotate import rotate_nearest

__all__ = [
    "PillarGeometry",
    "modulated_deform_conv2d",
    "ms_deform_attn",
    "project_pillars",
    "rotate_nearest",
    "spatial_cross_attn",
    "temporal_self_attn",
]

_WHERE = {
    "PillarGeometry": "deform_attn",
    "ms_deform_attn": "deform_attn",
    "spatial_cross_attn": "deform_attn",
    "temporal_self_attn": "deform_attn",
    "modulated_deform_conv2d": "deform_conv",
    "project_pillars": "projection",
    "rotate_nearest": "rotate",
}


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_WHERE[name]}"), name)
