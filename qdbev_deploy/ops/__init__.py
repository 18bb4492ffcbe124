"""The BEV ops as torch functions: what the model calls, and what ONNX functions and plugins are held against."""

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
