"""Modulated deformable convolution (DCNv2), one deformable group."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from qdbev_deploy.ops.constants import OUTSIDE
from qdbev_deploy.ops.emission import DeformGeometry, deform_conv_node, emission, sampled_conv_nodes


def modulated_deform_conv2d(
    x: Tensor,
    offset: Tensor,
    mask: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    stride: int = 1,
    padding: int = 1,
    dilation: int = 1,
    columns: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Each kernel tap samples at its own learned place, bilinearly with zeros outside, and is weighted by its mask.

    x [N, C, H, W], offset [N, 2*K, h, w] as (dy, dx) per tap in row-major order, mask [N, K, h, w], weight
    [O, C, kh, kw] -> [N, O, h, w]. The layout is that of ONNX DeformConv. `columns` is applied, element by element, to
    what was sampled before the product with the weights: where a quantised network rounds it.
    """
    if how := emission():
        geometry = DeformGeometry(stride, padding, dilation)
        if how.sample_columns:
            return sampled_conv_nodes(x, offset, mask, weight, bias, geometry, columns)
        return deform_conv_node(x, offset, mask, weight, bias, geometry)
    _, _, in_h, in_w = x.shape
    out_h, out_w = offset.shape[2:]
    kernel_h, kernel_w = weight.shape[2:]
    offset = offset.float()
    rows = torch.arange(out_h, dtype=torch.float32, device=x.device)[:, None] * stride - padding
    cols = torch.arange(out_w, dtype=torch.float32, device=x.device) * stride - padding
    output: Tensor | None = None
    # Tap by tap: the full column matrix would be nine times the activation.
    for tap in range(kernel_h * kernel_w):
        y = rows + dilation * (tap // kernel_w) + offset[:, 2 * tap]
        x_ = cols + dilation * (tap % kernel_w) + offset[:, 2 * tap + 1]
        grid = torch.stack([(2 * x_ + 1) / in_w - 1, (2 * y + 1) / in_h - 1], dim=-1)
        grid = grid.nan_to_num(nan=OUTSIDE).clamp(-OUTSIDE, OUTSIDE).to(x.dtype)
        sampled = F.grid_sample(x, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
        sampled = sampled * mask[:, tap : tap + 1].to(x.dtype)
        if columns is not None:
            sampled = columns(sampled)
        part = torch.einsum("oc,nchw->nohw", weight[:, :, tap // kernel_w, tap % kernel_w], sampled)
        output = part if output is None else output + part
    assert output is not None
    return output if bias is None else output + bias[:, None, None]
