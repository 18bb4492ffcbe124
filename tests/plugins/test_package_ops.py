"""The C++ ops and the package's torch ops are the same functions, hostile inputs included."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from plugin_cases import PC_RANGE, Z_ANCHORS, Case, ms_deform_case, sample_case, spatial_case, temporal_case

from qdbev_deploy.ops.deform_attn import PillarGeometry, ms_deform_attn, spatial_cross_attn, temporal_self_attn
from qdbev_deploy.ops.deform_conv import modulated_deform_conv2d
from qdbev_deploy.plugins import PluginLibrary

HOSTILE = torch.tensor([float("nan"), float("inf"), -float("inf"), 3e38, -3e38, 1e5, -1e5])


def sprinkle(offsets: torch.Tensor) -> None:
    flat = offsets.view(-1)
    chosen = torch.arange(3, flat.numel(), 11)
    flat[chosen] = HOSTILE[torch.arange(len(chosen)) % len(HOSTILE)]


def close(actual: np.ndarray, expected: torch.Tensor, case: Case) -> None:
    # Both are FP32; int8 samples differ by the fixed-point bound of bilinear.h.
    allowed = 0.012 * case.value_scale + 2e-5 * expected.abs().max().item()
    assert np.abs(actual - expected.numpy()).max() <= allowed


@pytest.mark.parametrize("hostile", [False, True])
@pytest.mark.parametrize("value_dtype", ["float32", "int8"])
def test_ms_deform_attn(library: PluginLibrary, value_dtype: str, hostile: bool) -> None:
    case = ms_deform_case(50, value_dtype)
    if hostile:
        sprinkle(case.inputs[2])
    expected = ms_deform_attn(*case.inputs, case.extra["shapes"], case.value_scale)
    close(case.run(library), expected, case)


@pytest.mark.parametrize("hostile", [False, True])
@pytest.mark.parametrize("value_dtype", ["float32", "int8"])
def test_temporal_self_attn(library: PluginLibrary, value_dtype: str, hostile: bool) -> None:
    case = temporal_case(51, value_dtype)
    if hostile:
        sprinkle(case.inputs[2])
    close(case.run(library), temporal_self_attn(*case.inputs, case.extra["bev_hw"], case.value_scale), case)


@pytest.mark.parametrize("hostile", [False, True])
@pytest.mark.parametrize("value_dtype", ["float32", "int8"])
def test_spatial_cross_attn(library: PluginLibrary, value_dtype: str, hostile: bool) -> None:
    case = spatial_case(52, value_dtype, bev_hw=(20, 20))
    if hostile:
        sprinkle(case.inputs[2])
        case.inputs[1][2] = float("nan")
        case.inputs[1][5] *= -1
    geometry = PillarGeometry((20, 20), PC_RANGE, Z_ANCHORS, case.extra["pillars"].image_hw)
    expected = spatial_cross_attn(*case.inputs, case.extra["shapes"], geometry, case.value_scale)
    close(case.run(library), expected, case)


@pytest.mark.parametrize("hostile", [False, True])
@pytest.mark.parametrize("stride", [1, 2])
def test_columns_times_weights_are_the_convolution(library: PluginLibrary, stride: int, hostile: bool) -> None:
    """weight.reshape(O, C*kh*kw) @ columns, as the 1x1 convolution after the op, equals the deformable convolution."""
    case = sample_case(53, stride=(stride, stride))
    if hostile:
        sprinkle(case.inputs[1])
    x, offset, mask = case.inputs
    weight = torch.randn((7, x.shape[1], 3, 3), generator=torch.Generator().manual_seed(1)) / 10
    columns = torch.from_numpy(case.run(library))
    product = torch.einsum("ok,bkhw->bohw", weight.reshape(7, -1), columns)
    expected = modulated_deform_conv2d(x, offset, mask, weight, stride=stride, padding=1)
    close(product.numpy(), expected, case)
