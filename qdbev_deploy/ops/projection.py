"""Projection of BEV pillars into the cameras, and which cameras see which cell. Always FP32."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from qdbev_deploy.ops.constants import EPSILON


def cell_centers(bev_hw: tuple[int, int], device: torch.device | None = None) -> Tensor:
    """Centres (x, y) of the BEV cells in 0..1, cell index = y * width + x.  # [cells, 2]"""
    height, width = bev_hw
    ys = (torch.arange(height, dtype=torch.float32, device=device) + 0.5) / height
    xs = (torch.arange(width, dtype=torch.float32, device=device) + 0.5) / width
    return torch.stack([xs.expand(height, width), ys[:, None].expand(height, width)], dim=-1).reshape(-1, 2)


def project_pillars(
    lidar2img: Tensor,
    bev_hw: tuple[int, int],
    pc_range: Sequence[float],
    z_anchors: Sequence[float],
    image_hw: tuple[int, int],
) -> tuple[Tensor, Tensor]:
    """Image coordinates (u, v in 0..1 of the padded image) and visibility of every pillar anchor in every camera.

    lidar2img [cams, 4, 4] -> uv [cams, cells, anchors, 2], visible [cams, cells, anchors]. Not clamped.
    """
    with torch.autocast(lidar2img.device.type, enabled=False):
        centers = cell_centers(bev_hw, lidar2img.device)
        x = centers[:, 0] * (pc_range[3] - pc_range[0]) + pc_range[0]
        y = centers[:, 1] * (pc_range[4] - pc_range[1]) + pc_range[1]
        z = torch.tensor(list(z_anchors), dtype=torch.float32, device=lidar2img.device)
        matrix = lidar2img.float()[:, :3, :, None, None]  # [cams, 3, 4, 1, 1]
        # Written out rather than as a matmul: no TF32 or reduced-precision path may touch it.
        camera = (
            matrix[:, :, 0] * x[:, None] + matrix[:, :, 1] * y[:, None] + matrix[:, :, 2] * z + matrix[:, :, 3]
        )  # [cams, 3, cells, anchors]
        depth = camera[:, 2]
        size = torch.tensor([image_hw[1], image_hw[0]], dtype=torch.float32, device=lidar2img.device)
        uv = torch.stack([camera[:, 0], camera[:, 1]], dim=-1) / depth.clamp(min=EPSILON)[..., None] / size
        visible = (depth > EPSILON) & (uv > 0).all(dim=-1) & (uv < 1).all(dim=-1)
        return uv, visible
