"""The three deformable attentions of BEVFormer, from raw offsets and logits to the weighted sum."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from qdbev_deploy.contract import VariantSpec
from qdbev_deploy.ops.constants import CLAMP_HIGH, CLAMP_LOW, OUTSIDE
from qdbev_deploy.ops.emission import bev_node, emission
from qdbev_deploy.ops.projection import project_pillars

Shapes = Sequence[tuple[int, int]]  # (h, w) of each level
Attend = Callable[[Tensor, Tensor, Tensor, Tensor, Shapes], Tensor]  # as `_attend`

_SUBSTITUTE: ContextVar[Attend | None] = ContextVar("substitute", default=None)


@contextmanager
def attending_with(attend: Attend) -> Iterator[None]:
    """While it is open, `attend` computes the weighted sums: something faster than torch's ops, for training."""
    token = _SUBSTITUTE.set(attend)
    try:
        yield
    finally:
        _SUBSTITUTE.reset(token)


def _levels(spatial_shapes: Shapes) -> Iterator[tuple[int, slice, int, int]]:
    start = 0
    for level, (height, width) in enumerate(spatial_shapes):
        yield level, slice(start, start + height * width), height, width
        start += height * width


def _gather(tokens: Tensor, height: int, width: int, locations: Tensor) -> Tensor:
    """Bilinear samples of one level, zero outside, pixel centres at half integers.

    tokens [N, h*w, H, D], locations [N, Q, H, P, 2] in 0..1 -> [N, H, D, Q, P]
    """
    count, _, heads, channels = tokens.shape
    maps = tokens.permute(0, 2, 3, 1).reshape(count * heads, channels, height, width)
    # Everything outside -3..3 lies outside the map whatever its size; a NaN counts as outside. This keeps the
    # conversion of coordinates to integers defined.
    grid = (2 * locations - 1).nan_to_num(nan=OUTSIDE).clamp(-OUTSIDE, OUTSIDE)
    grid = grid.transpose(1, 2).flatten(0, 1)  # [N*H, Q, P, 2]
    samples = F.grid_sample(maps, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    return samples.reshape(count, heads, channels, *samples.shape[2:])


def _attend(value: Tensor, references: Tensor, offsets: Tensor, weights: Tensor, spatial_shapes: Shapes) -> Tensor:
    """Weighted sum over levels and points.

    value [N, S, H, D], references [N, Q, 1 or P, 2], offsets [N, Q, H, L, P, 2] in pixels, weights [N, Q, H, L, P]
    -> [N, Q, H*D]
    """
    substitute = _SUBSTITUTE.get()
    if substitute is not None:
        return substitute(value, references, offsets, weights, spatial_shapes)
    total: Tensor | None = None
    for level, tokens, height, width in _levels(spatial_shapes):
        size = torch.tensor([width, height], dtype=torch.float32, device=value.device)
        locations = references[:, :, None].float() + offsets[:, :, :, level].float() / size
        samples = _gather(value[:, tokens], height, width, locations.to(value.dtype))
        part = (samples * weights[:, :, :, level].transpose(1, 2)[:, :, None]).sum(dim=-1)  # [N, H, D, Q]
        total = part if total is None else total + part
    assert total is not None
    return total.permute(0, 3, 1, 2).flatten(2)


def _flat(spatial_shapes: Shapes) -> list[int]:
    return [int(size) for shape in spatial_shapes for size in shape]


def _as_float(value: Tensor) -> Tensor:
    return value if value.is_floating_point() else value.float()


def _rescale(output: Tensor, value_scale: float) -> Tensor:
    """int8 values were summed as integers; one multiplication gives them their unit back."""
    return output * value_scale if value_scale > 0 else output


def ms_deform_attn(
    value: Tensor,
    reference_points: Tensor,
    sampling_offsets: Tensor,
    attention_logits: Tensor,
    spatial_shapes: Shapes,
    value_scale: float = 0.0,
) -> Tensor:
    """`qdbev::MSDeformAttn`; shapes in `contract.OPS`."""
    if emission():
        batch, queries, heads = sampling_offsets.shape[:3]
        return bev_node(
            "MSDeformAttn",
            (value, reference_points, sampling_offsets, attention_logits),
            {"spatial_shapes": _flat(spatial_shapes), "value_scale": value_scale},
            (batch, queries, heads * value.shape[-1]),
        )
    levels, points = sampling_offsets.shape[3:5]
    weights = attention_logits.softmax(dim=-1).unflatten(-1, (levels, points))
    output = _attend(_as_float(value), reference_points[:, :, None], sampling_offsets, weights, spatial_shapes)
    return _rescale(output, value_scale)


def temporal_self_attn(
    value: Tensor,
    reference_points: Tensor,
    sampling_offsets: Tensor,
    attention_logits: Tensor,
    bev_hw: tuple[int, int],
    value_scale: float = 0.0,
) -> Tensor:
    """`qdbev::TemporalSelfAttn`; shapes in `contract.OPS`."""
    if emission():
        return bev_node(
            "TemporalSelfAttn",
            (value, reference_points, sampling_offsets, attention_logits),
            {"bev_h": bev_hw[0], "bev_w": bev_hw[1], "value_scale": value_scale},
            (sampling_offsets.shape[0], value.shape[2] * value.shape[3]),
        )
    offsets = sampling_offsets.permute(2, 0, 1, 3, 4)[:, :, :, None]  # [2, Q, H, 1, P, 2]
    weights = attention_logits.softmax(dim=-1).permute(2, 0, 1, 3)[:, :, :, None]  # [2, Q, H, 1, P]
    output = _attend(_as_float(value), reference_points[:, :, None], offsets, weights, [bev_hw])
    return _rescale(output.mean(dim=0), value_scale)


@dataclass(frozen=True)
class PillarGeometry:
    """The attributes of SpatialCrossAttn that say where a BEV cell's pillar stands."""

    bev_hw: tuple[int, int]
    pc_range: tuple[float, ...]
    z_anchors: tuple[float, ...]
    image_hw: tuple[int, int]

    @classmethod
    def of(cls, spec: VariantSpec) -> PillarGeometry:
        return cls(spec.bev_hw, spec.pc_range, spec.pillar_heights, spec.image_hw)


def spatial_cross_attn(
    value: Tensor,
    lidar2img: Tensor,
    sampling_offsets: Tensor,
    attention_logits: Tensor,
    spatial_shapes: Shapes,
    geometry: PillarGeometry,
    value_scale: float = 0.0,
) -> Tensor:
    """`qdbev::SpatialCrossAttn`; shapes in `contract.OPS`.

    Offsets and logits belong to the query, so they exist once; each camera gathers for the queries it sees, no others.
    """
    cams, _, heads, channels = value.shape
    queries, _, levels, points, _ = sampling_offsets.shape
    if emission():
        return bev_node(
            "SpatialCrossAttn",
            (value, lidar2img, sampling_offsets, attention_logits),
            {
                "spatial_shapes": _flat(spatial_shapes),
                "bev_h": geometry.bev_hw[0],
                "bev_w": geometry.bev_hw[1],
                "pc_range": list(geometry.pc_range),
                "z_anchors": list(geometry.z_anchors),
                "image_h": geometry.image_hw[0],
                "image_w": geometry.image_hw[1],
                "value_scale": value_scale,
            },
            (queries, heads * channels),
        )
    value = _as_float(value)
    uv, visible = project_pillars(lidar2img, geometry.bev_hw, geometry.pc_range, geometry.z_anchors, geometry.image_hw)
    uv = uv.clamp(CLAMP_LOW, CLAMP_HIGH)
    # The anchor varies fastest over the points: point p hangs on anchor p % Z.
    references = uv.repeat(1, 1, points // len(geometry.z_anchors), 1)  # [cams, Q, P, 2]
    seen = visible.any(dim=-1)  # [cams, Q]
    weights = attention_logits.softmax(dim=-1).unflatten(-1, (levels, points))
    output = value.new_zeros(queries, heads * channels)
    for cam in range(cams):
        index = seen[cam].nonzero()[:, 0]
        part = _attend(
            value[cam : cam + 1],
            references[cam : cam + 1, index],
            sampling_offsets[None, index],
            weights[None, index],
            spatial_shapes,
        )
        output = output.index_add(0, index, part[0].to(output.dtype))
    return _rescale(output / seen.sum(dim=0).clamp(min=1)[:, None].to(output.dtype), value_scale)
