"""The ops once more, from their definition, in float64 torch: slow, obvious, and independent of the code under test."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

Tensor = torch.Tensor


def sample(plane: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Bilinear samples of plane [h, w, c] at pixels (x, y), zero outside and where a coordinate is not finite."""
    height, width, channels = plane.shape
    flat = plane.reshape(height * width, channels)
    finite = torch.isfinite(x) & torch.isfinite(y)
    x = torch.where(finite, x, torch.full_like(x, -10.0)).clamp(-10, width + 10)
    y = torch.where(finite, y, torch.full_like(y, -10.0)).clamp(-10, height + 10)
    x0, y0 = x.floor(), y.floor()
    result = torch.zeros((*x.shape, channels), dtype=plane.dtype)
    for dy in (0, 1):
        for dx in (0, 1):
            cx, cy = x0 + dx, y0 + dy
            weight = (1 - (x - cx).abs()) * (1 - (y - cy).abs())
            inside = (cx >= 0) & (cx < width) & (cy >= 0) & (cy < height)
            index = (cy.clamp(0, height - 1) * width + cx.clamp(0, width - 1)).long()
            result += flat[index] * (weight * inside).unsqueeze(-1)
    return result


def attend(value: Tensor, location: Tensor, weights: Tensor, shapes: Sequence[tuple[int, int]]) -> Tensor:
    """value [S, H, D], location [Q, H, L, P, 2] as fractions, weights [Q, H, L, P] -> [Q, H, D]."""
    queries, heads, _, _ = weights.shape
    out = torch.zeros((queries, heads, value.shape[-1]), dtype=torch.float64)
    start = 0
    for level, (height, width) in enumerate(shapes):
        planes = value[start : start + height * width].double().reshape(height, width, heads, -1)
        start += height * width
        for head in range(heads):
            x = location[:, head, level, :, 0] * width - 0.5
            y = location[:, head, level, :, 1] * height - 0.5
            samples = sample(planes[:, :, head], x, y)  # [Q, P, D]
            out[:, head] += (samples * weights[:, head, level].unsqueeze(-1)).sum(1)
    return out


def per_level(offsets: Tensor, shapes: Sequence[tuple[int, int]]) -> Tensor:
    """Offsets [..., L, P, 2] in pixels as fractions of their level."""
    sizes = torch.tensor([[width, height] for height, width in shapes], dtype=torch.float64)
    return offsets.double() / sizes[:, None, :]


def ms_deform_attn(
    value: Tensor,
    points: Tensor,
    offsets: Tensor,
    logits: Tensor,
    shapes: Sequence[tuple[int, int]],
    scale: float = 0.0,
) -> Tensor:
    weights = logits.double().softmax(-1).reshape(offsets.shape[:-1])
    location = points.double()[:, :, None, None, None, :] + per_level(offsets, shapes)
    outs = [attend(value[b], location[b], weights[b], shapes) for b in range(len(value))]
    return torch.stack(outs).flatten(2) * (scale or 1.0)


def temporal_self_attn(
    value: Tensor, points: Tensor, offsets: Tensor, logits: Tensor, bev_hw: tuple[int, int], scale: float = 0.0
) -> Tensor:
    outs = []
    for frame in (0, 1):
        location = points[frame].double()[:, None, None, None, :] + per_level(offsets[:, :, frame, None], [bev_hw])
        weights = logits[:, :, frame].double().softmax(-1)[:, :, None]
        outs.append(attend(value[frame], location, weights, [bev_hw]))
    return ((outs[0] + outs[1]) / 2).flatten(1) * (scale or 1.0)


@dataclass(frozen=True)
class Pillars:
    """The geometry that SpatialCrossAttn carries as attributes."""

    bev_hw: tuple[int, int]
    pc_range: tuple[float, ...]
    z_anchors: tuple[float, ...]
    image_hw: tuple[int, int]

    def project(self, lidar2img: Tensor) -> tuple[Tensor, Tensor]:
        """(u, v) of each anchor [N, Q, Z, 2], clamped to -2..3, and whether it is visible [N, Q, Z]; in float32."""
        height, width = self.bev_hw
        low_x, low_y, _, high_x, high_y, _ = torch.tensor(self.pc_range)
        x = (torch.arange(width) + 0.5) / width * (high_x - low_x) + low_x
        y = (torch.arange(height) + 0.5) / height * (high_y - low_y) + low_y
        grid_y, grid_x = torch.meshgrid(y, x, indexing="ij")
        z = torch.tensor(self.z_anchors)
        anchors = len(self.z_anchors)
        corners = torch.stack(
            [grid_x.reshape(-1, 1).expand(-1, anchors), grid_y.reshape(-1, 1).expand(-1, anchors)], -1
        )
        m = lidar2img.float()[:, None, None]  # [N, 1, 1, 4, 4]
        rows = m[..., 0] * corners[None, :, :, 0:1] + m[..., 1] * corners[None, :, :, 1:2] + m[..., 2] * z[:, None]
        cam = rows + m[..., 3]
        depth = cam[..., 2]
        divisor = torch.where(depth < 1e-5, torch.full_like(depth, 1e-5), depth)
        u = cam[..., 0] / divisor / self.image_hw[1]
        v = cam[..., 1] / divisor / self.image_hw[0]
        visible = (depth > 1e-5) & (u > 0) & (u < 1) & (v > 0) & (v < 1)
        return torch.stack([u, v], -1).clamp(-2, 3), visible


def spatial_cross_attn(
    value: Tensor,
    lidar2img: Tensor,
    offsets: Tensor,
    logits: Tensor,
    shapes: Sequence[tuple[int, int]],
    pillars: Pillars,
    scale: float = 0.0,
) -> Tensor:
    weights = logits.double().softmax(-1).reshape(offsets.shape[:-1])
    where, visible = pillars.project(lidar2img)
    anchor = torch.arange(offsets.shape[3]) % len(pillars.z_anchors)
    out = torch.zeros((*offsets.shape[:2], value.shape[-1]), dtype=torch.float64)
    sees = visible.any(-1)  # [N, Q]
    for camera in range(len(value)):
        hit = sees[camera].nonzero().flatten()
        location = where[camera, hit][:, anchor].double()[:, None, None] + per_level(offsets[hit], shapes)
        out[hit] += attend(value[camera], location, weights[hit], shapes)
    return (out / sees.sum(0).clamp(min=1)[:, None, None]).flatten(1) * (scale or 1.0)


def modulated_deform_sample(
    x: Tensor,
    offset: Tensor,
    mask: Tensor,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    scale: float = 0.0,
) -> Tensor:
    batch, channels, _, _ = x.shape
    taps, out_h, out_w = mask.shape[1:]
    columns = torch.zeros((batch, channels, taps, out_h, out_w), dtype=torch.float64)
    base_y = (torch.arange(out_h, dtype=torch.float64) * stride[0] - padding[0]).reshape(-1, 1).expand(out_h, out_w)
    base_x = (torch.arange(out_w, dtype=torch.float64) * stride[1] - padding[1]).reshape(1, -1).expand(out_h, out_w)
    for b in range(batch):
        plane = x[b].double().permute(1, 2, 0)
        for tap in range(taps):
            at_y = base_y + (tap // kernel[1]) * dilation[0] + offset[b, 2 * tap].double()
            at_x = base_x + (tap % kernel[1]) * dilation[1] + offset[b, 2 * tap + 1].double()
            columns[b, :, tap] = sample(plane, at_x, at_y).permute(2, 0, 1) * mask[b, tap].double()
    return columns.reshape(batch, channels * taps, out_h, out_w) * (scale or 1.0)
