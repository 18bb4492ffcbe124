"""Modulated deformable convolution against plain loops and against the plain convolution."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from qdbev_deploy.ops import modulated_deform_conv2d
from tests.ops import naive


@pytest.mark.parametrize(("stride", "dilation"), [(1, 1), (2, 1), (1, 2)])
@pytest.mark.parametrize("scale", [0.0, 1.5, 40.0])
def test_is_the_loop(stride: int, dilation: int, scale: float) -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(2, 3, 7, 5), torch.randn(4, 3, 3, 3)
    out_h, out_w = (torch.tensor([7, 5]) + 2 * dilation - 2 * dilation - 1) // stride + 1
    offset, mask = torch.randn(2, 18, out_h, out_w) * scale, torch.rand(2, 9, out_h, out_w)
    ours = modulated_deform_conv2d(x, offset, mask, weight, stride=stride, padding=dilation, dilation=dilation)
    theirs = naive.modulated_deform_conv2d(
        *(t.double().numpy() for t in (x, offset, mask, weight)), stride=stride, padding=dilation, dilation=dilation
    )
    assert np.abs(ours.numpy() - theirs).max() < 2e-5


def test_without_offsets_it_is_a_convolution() -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(1, 8, 6, 9), torch.randn(5, 8, 3, 3)
    ours = modulated_deform_conv2d(x, torch.zeros(1, 18, 6, 9), torch.ones(1, 9, 6, 9), weight)
    torch.testing.assert_close(ours, F.conv2d(x, weight, padding=1), rtol=1e-5, atol=1e-5)


def test_offsets_are_dy_then_dx() -> None:
    x = torch.arange(12.0).reshape(1, 1, 3, 4)
    offset = torch.zeros(1, 2, 3, 4)
    offset[:, 0] = 1.0  # one row down
    ours = modulated_deform_conv2d(x, offset, torch.ones(1, 1, 3, 4), torch.ones(1, 1, 1, 1), padding=0)
    assert ours[0, 0, 0, 0] == x[0, 0, 1, 0]
