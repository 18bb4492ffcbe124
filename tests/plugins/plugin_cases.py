"""Inputs for the ops: random ones in the ranges that a BEVFormer has, and the hostile ones."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import plugin_reference as reference
import torch

from qdbev_deploy.plugins import PluginLibrary

PC_RANGE = (-51.2, -51.2, -5.0, 51.2, 51.2, 3.0)
Z_ANCHORS = (-4.5, -2.1666667, 0.16666667, 2.5)
FLOATS = {"float32": torch.float32, "float16": torch.float16}


def value_of(generator: torch.Generator, shape: tuple[int, ...], dtype: str) -> torch.Tensor:
    if dtype == "int8":
        return torch.randint(-128, 128, shape, generator=generator, dtype=torch.int8)
    return torch.randn(shape, generator=generator).to(FLOATS[dtype])


def ring_of_cameras(cameras: int, image_hw: tuple[int, int]) -> torch.Tensor:
    """lidar2img [N, 4, 4] of cameras that look outwards all around, level, from a car's roof."""
    height, width = image_hw
    matrices = []
    for index in range(cameras):
        yaw = 2 * np.pi * index / cameras
        forward = np.array([np.cos(yaw), np.sin(yaw), 0.0])
        right = np.array([np.sin(yaw), -np.cos(yaw), 0.0])
        rotation = np.stack([right, [0.0, 0.0, -1.0], forward])
        extrinsic = np.eye(4)
        extrinsic[:3, :3] = rotation
        extrinsic[:3, 3] = -rotation @ (0.8 * forward + np.array([0.0, 0.0, -0.3]))
        focal = 0.75 * width
        intrinsic = np.array([[focal, 0, width / 2, 0], [0, focal, height / 2, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
        matrices.append(intrinsic @ extrinsic)
    return torch.tensor(np.stack(matrices), dtype=torch.float32)


@dataclass
class Case:
    """One call of an op: its inputs, its attributes, and the float64 answer."""

    op: str
    inputs: list[torch.Tensor]
    attributes: dict[str, Any]
    out_shape: tuple[int, ...]
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def value_scale(self) -> float:
        return float(self.attributes.get("value_scale", 0.0))

    def expected(self) -> torch.Tensor:
        if self.op == "MSDeformAttn":
            return reference.ms_deform_attn(*self.inputs, self.extra["shapes"], self.value_scale)
        if self.op == "TemporalSelfAttn":
            return reference.temporal_self_attn(*self.inputs, self.extra["bev_hw"], self.value_scale)
        if self.op == "SpatialCrossAttn":
            return reference.spatial_cross_attn(
                *self.inputs, self.extra["shapes"], self.extra["pillars"], self.value_scale
            )
        return reference.modulated_deform_sample(*self.inputs, **self.extra, scale=self.value_scale)

    def run(
        self, library: PluginLibrary, out_dtype: str = "float32", threads: int = 1, **attributes: Any
    ) -> np.ndarray:
        """What the library computes, into poisoned memory so that an element it does not write is seen."""
        poison = np.full(self.out_shape, 77 if out_dtype == "int8" else np.nan, dtype=out_dtype)
        inputs = [tensor.contiguous().numpy() for tensor in self.inputs]
        return library.run(self.op, inputs, {**self.attributes, **attributes}, poison, threads=threads)


def _scale(dtype: str) -> dict[str, float]:
    return {"value_scale": 0.031} if dtype == "int8" else {}


def ms_deform_case(
    seed: int,
    value_dtype: str = "float32",
    aux_dtype: str = "float32",
    *,
    shapes: tuple[tuple[int, int], ...] = ((13, 17), (7, 9), (4, 5), (2, 3)),
    batch: int = 2,
    queries: int = 37,
    heads: int = 8,
    head_dim: int = 32,
    points: int = 4,
    offset_pixels: float = 3.0,
) -> Case:
    g = torch.Generator().manual_seed(seed)
    tokens = sum(h * w for h, w in shapes)
    levels = len(shapes)
    return Case(
        "MSDeformAttn",
        [
            value_of(g, (batch, tokens, heads, head_dim), value_dtype),
            torch.rand((batch, queries, 2), generator=g),
            (torch.randn((batch, queries, heads, levels, points, 2), generator=g) * offset_pixels).to(
                FLOATS[aux_dtype]
            ),
            (torch.randn((batch, queries, heads, levels * points), generator=g) * 2).to(FLOATS[aux_dtype]),
        ],
        {"spatial_shapes": [extent for shape in shapes for extent in shape], **_scale(value_dtype)},
        (batch, queries, heads * head_dim),
        {"shapes": shapes},
    )


def temporal_case(
    seed: int,
    value_dtype: str = "float32",
    aux_dtype: str = "float32",
    *,
    bev_hw: tuple[int, int] = (11, 13),
    heads: int = 8,
    head_dim: int = 32,
    points: int = 4,
) -> Case:
    g = torch.Generator().manual_seed(seed)
    cells = bev_hw[0] * bev_hw[1]
    grid_y, grid_x = torch.meshgrid(torch.arange(bev_hw[0]), torch.arange(bev_hw[1]), indexing="ij")
    centres = torch.stack([(grid_x + 0.5) / bev_hw[1], (grid_y + 0.5) / bev_hw[0]], -1).reshape(1, cells, 2)
    shift = torch.tensor([[[0.031, -0.07]], [[0.0, 0.0]]])
    return Case(
        "TemporalSelfAttn",
        [
            value_of(g, (2, cells, heads, head_dim), value_dtype),
            (centres + shift).float(),
            (torch.randn((cells, heads, 2, points, 2), generator=g) * 2).to(FLOATS[aux_dtype]),
            torch.randn((cells, heads, 2, points), generator=g).to(FLOATS[aux_dtype]),
        ],
        {"bev_h": bev_hw[0], "bev_w": bev_hw[1], **_scale(value_dtype)},
        (cells, heads * head_dim),
        {"bev_hw": bev_hw},
    )


def spatial_case(
    seed: int,
    value_dtype: str = "float32",
    aux_dtype: str = "float32",
    *,
    shapes: tuple[tuple[int, int], ...] = ((12, 20), (6, 10)),
    bev_hw: tuple[int, int] = (10, 11),
    heads: int = 4,
    head_dim: int = 32,
    points: int = 8,
    cameras: int = 6,
    z_anchors: tuple[float, ...] = Z_ANCHORS,
) -> Case:
    g = torch.Generator().manual_seed(seed)
    image_hw = (96, 160)
    tokens = sum(h * w for h, w in shapes)
    cells = bev_hw[0] * bev_hw[1]
    levels = len(shapes)
    return Case(
        "SpatialCrossAttn",
        [
            value_of(g, (cameras, tokens, heads, head_dim), value_dtype),
            ring_of_cameras(cameras, image_hw),
            (torch.randn((cells, heads, levels, points, 2), generator=g) * 2).to(FLOATS[aux_dtype]),
            torch.randn((cells, heads, levels * points), generator=g).to(FLOATS[aux_dtype]),
        ],
        {
            "spatial_shapes": [extent for shape in shapes for extent in shape],
            "bev_h": bev_hw[0],
            "bev_w": bev_hw[1],
            "pc_range": PC_RANGE,
            "z_anchors": z_anchors,
            "image_h": image_hw[0],
            "image_w": image_hw[1],
            **_scale(value_dtype),
        },
        (cells, heads * head_dim),
        {"shapes": shapes, "pillars": reference.Pillars(bev_hw, PC_RANGE, z_anchors, image_hw)},
    )


def sample_case(
    seed: int,
    value_dtype: str = "float32",
    aux_dtype: str = "float32",
    *,
    batch: int = 2,
    channels: int = 35,
    height: int = 11,
    width: int = 13,
    kernel: tuple[int, int] = (3, 3),
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int] = (1, 1),
    dilation: tuple[int, int] = (1, 1),
) -> Case:
    g = torch.Generator().manual_seed(seed)
    taps = kernel[0] * kernel[1]
    out_h = (height + 2 * padding[0] - dilation[0] * (kernel[0] - 1) - 1) // stride[0] + 1
    out_w = (width + 2 * padding[1] - dilation[1] * (kernel[1] - 1) - 1) // stride[1] + 1
    convolution = {"kernel": kernel, "stride": stride, "padding": padding, "dilation": dilation}
    return Case(
        "ModulatedDeformSample",
        [
            value_of(g, (batch, channels, height, width), value_dtype),
            (torch.randn((batch, 2 * taps, out_h, out_w), generator=g) * 2).to(FLOATS[aux_dtype]),
            torch.rand((batch, taps, out_h, out_w), generator=g).to(FLOATS[aux_dtype]),
        ],
        {**convolution, **_scale(value_dtype)},
        (batch, channels * taps, out_h, out_w),
        convolution,
    )


BUILDERS = {
    "MSDeformAttn": ms_deform_case,
    "TemporalSelfAttn": temporal_case,
    "SpatialCrossAttn": spatial_case,
    "ModulatedDeformSample": sample_case,
}
