"""Nearest-neighbour rotation of a BEV map about a pixel, by an angle that is a tensor."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F


def rotate_nearest(image: Tensor, angle_deg: Tensor, center_xy: tuple[float, float]) -> Tensor:
    """Turn `image` [C, h, w] counter-clockwise by `angle_deg` (a scalar tensor) about `center_xy`; holes are zero.

    What torchvision's `rotate(..., NEAREST)` computes on tensors, written so that the angle may be a graph input.
    """
    _, height, width = image.shape
    with torch.autocast(image.device.type, enabled=False):
        angle = angle_deg.float() * (math.pi / 180)
        cos, sin = torch.cos(angle), torch.sin(angle)
        center_x, center_y = center_xy[0] - width * 0.5, center_xy[1] - height * 0.5
        xs = torch.arange(width, dtype=torch.float32, device=image.device) - (width - 1) / 2 - center_x
        ys = (torch.arange(height, dtype=torch.float32, device=image.device) - (height - 1) / 2 - center_y)[:, None]
        # Where each output pixel comes from, in pixels from the image's centre, then in grid_sample's -1..1.
        source_x = (cos * xs - sin * ys + center_x) * (2 / width)
        source_y = (sin * xs + cos * ys + center_y) * (2 / height)
        grid = torch.stack([source_x, source_y], dim=-1)
        rotated = F.grid_sample(image[None].float(), grid[None], mode="nearest", align_corners=False)
    return rotated[0].to(image.dtype)
