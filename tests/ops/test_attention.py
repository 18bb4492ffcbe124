"""The attentions against plain loops, on friendly and on hostile inputs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from qdbev_deploy.ops import PillarGeometry, ms_deform_attn, spatial_cross_attn, temporal_self_attn
from tests.ops import naive

SHAPES = [(5, 7), (3, 4), (1, 1)]
TOKENS = sum(height * width for height, width in SHAPES)
GEOMETRY = PillarGeometry((4, 6), (-20.0, -12.0, -5.0, 20.0, 12.0, 3.0), (-4.5, -2.0, 0.0, 2.5), (32, 48))


def random(*shape: int, scale: float = 1.0, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * scale


def cameras() -> Tensor:
    """Six pinhole cameras around the origin, as a real rig has them; neighbours overlap."""
    matrices = []
    for yaw in np.radians([0, -55, 55, 180, 110, -110]):
        forward, right = [-np.sin(yaw), np.cos(yaw), 0], [np.cos(yaw), np.sin(yaw), 0]
        extrinsic = np.eye(4)
        extrinsic[:3, :3] = [right, [0, 0, -1], forward]
        intrinsic = np.diag([30.0, 30.0, 1.0, 1.0])
        intrinsic[:2, 2] = 24, 16
        matrices.append(intrinsic @ extrinsic)
    return torch.tensor(np.stack(matrices), dtype=torch.float32)


def largest_difference(ours: Tensor, theirs: np.ndarray) -> float:
    return float(np.abs(ours.double().numpy() - theirs).max())


# Offsets of 0.5 and whole pixels put samples on pixel borders and image edges.
OFFSETS = {
    "near": random(2, 6, 3, 3, 4, 2, seed=1),
    "far outside": random(2, 6, 3, 3, 4, 2, scale=50.0, seed=2),
    "pixel borders": random(2, 6, 3, 3, 4, 2, scale=3.0, seed=3).round() / 2,
    "not finite": random(2, 6, 3, 3, 4, 2, seed=4).masked_fill(random(2, 6, 3, 3, 4, 2, seed=5) > 1, float("nan")),
    "infinite": random(2, 6, 3, 3, 4, 2, seed=4).masked_fill(random(2, 6, 3, 3, 4, 2, seed=5) > 1, float("-inf")),
}


@pytest.mark.parametrize("kind", OFFSETS)
def test_ms_deform_attn_is_the_loop(kind: str) -> None:
    value, logits = random(2, TOKENS, 3, 8), random(2, 6, 3, 12, seed=7)
    refs = random(2, 6, 2, seed=8).sigmoid()
    ours = ms_deform_attn(value, refs, OFFSETS[kind], logits, SHAPES)
    theirs = naive.ms_deform_attn(
        value.double().numpy(), refs.double().numpy(), OFFSETS[kind].double().numpy(), logits.double().numpy(), SHAPES
    )
    assert largest_difference(ours, theirs) < 2e-5


def test_temporal_self_attn_is_the_loop() -> None:
    value, refs = random(2, 20, 2, 8), random(2, 20, 2, seed=1).sigmoid()
    offsets, logits = random(20, 2, 2, 4, 2, scale=2.0, seed=2), random(20, 2, 2, 4, seed=3)
    ours = temporal_self_attn(value, refs, offsets, logits, (4, 5))
    theirs = naive.temporal_self_attn(*(t.double().numpy() for t in (value, refs, offsets, logits)), (4, 5))
    assert largest_difference(ours, theirs) < 2e-5


def run_spatial(value: Tensor, matrices: Tensor, offsets: Tensor, logits: Tensor) -> tuple[Tensor, np.ndarray]:
    ours = spatial_cross_attn(value, matrices, offsets, logits, SHAPES, GEOMETRY)
    theirs = naive.spatial_cross_attn(
        *(t.double().numpy() for t in (value, matrices, offsets, logits)),
        SHAPES,
        GEOMETRY.bev_hw,
        GEOMETRY.pc_range,
        GEOMETRY.z_anchors,
        GEOMETRY.image_hw,
    )
    return ours, theirs


@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_spatial_cross_attn_is_the_loop(scale: float) -> None:
    value, offsets = random(6, TOKENS, 2, 8), random(24, 2, 3, 8, 2, scale=scale, seed=1)
    ours, theirs = run_spatial(value, cameras(), offsets, random(24, 2, 24, seed=2))
    assert np.abs(theirs).max() > 0.01  # the cameras do see something
    assert largest_difference(ours, theirs) < 2e-5


def test_spatial_cross_attn_without_a_view_is_zero() -> None:
    blind = torch.zeros(6, 4, 4)
    ours, theirs = run_spatial(random(6, TOKENS, 2, 8), blind, random(24, 2, 3, 8, 2), random(24, 2, 24))
    assert not ours.any()
    assert not theirs.any()


def test_spatial_cross_attn_ignores_a_camera_without_calibration() -> None:
    matrices = cameras()
    offsets, logits = random(24, 2, 3, 8, 2), random(24, 2, 24)
    value = random(6, TOKENS, 2, 8)
    matrices[2] = float("nan")
    ours, _ = run_spatial(value, matrices, offsets, logits)
    matrices[2] = 0.0  # sees nothing
    without, _ = run_spatial(value, matrices, offsets, logits)
    assert torch.equal(ours, without)
    assert torch.isfinite(ours).all()


def test_int8_value_is_the_float_value_times_its_scale() -> None:
    integers = torch.randint(-128, 128, (6, TOKENS, 2, 8), dtype=torch.int8, generator=torch.Generator().manual_seed(0))
    offsets, logits = random(24, 2, 3, 8, 2), random(24, 2, 24)
    quantised = spatial_cross_attn(integers, cameras(), offsets, logits, SHAPES, GEOMETRY, value_scale=0.03)
    in_float = spatial_cross_attn(integers.float() * 0.03, cameras(), offsets, logits, SHAPES, GEOMETRY)
    torch.testing.assert_close(quantised, in_float, rtol=1e-5, atol=1e-5)


def test_gradients_reach_every_input() -> None:
    value, offsets = random(6, TOKENS, 2, 8).requires_grad_(), random(24, 2, 3, 8, 2, seed=1).requires_grad_()
    logits = random(24, 2, 24, seed=2).requires_grad_()
    spatial_cross_attn(value, cameras(), offsets, logits, SHAPES, GEOMETRY).square().sum().backward()
    for tensor in (value, offsets, logits):
        assert tensor.grad is not None
        assert torch.isfinite(tensor.grad).all()
        assert tensor.grad.abs().sum() > 0
