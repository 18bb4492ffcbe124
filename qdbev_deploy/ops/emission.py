"""How an exporting forward writes an op as ONNX nodes instead of its arithmetic. Eager behaviour never changes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from qdbev_deploy.contract import OP_DOMAIN, OP_VERSION


class Emission(NamedTuple):
    """`sample_columns`: a deformable convolution becomes the sampling op and a plain convolution of its columns."""

    sample_columns: bool


_EMISSION: ContextVar[Emission | None] = ContextVar("emission", default=None)


@contextmanager
def emit_nodes(*, sample_columns: bool = False) -> Iterator[None]:
    """While it is open, the ops leave nodes in the graph that torch's exporter records, and compute nothing."""
    token = _EMISSION.set(Emission(sample_columns))
    try:
        yield
    finally:
        _EMISSION.reset(token)


def emission() -> Emission | None:
    """How the ops are to be written; None where they are to be computed."""
    return _EMISSION.get()


def bev_node(
    name: str,
    inputs: Sequence[Tensor],
    attributes: dict[str, int | float | Sequence[int] | Sequence[float]],
    shape: Sequence[int],
) -> Tensor:
    """A node of the `qdbev` domain."""
    return torch.onnx.ops.symbolic(
        f"{OP_DOMAIN}::{name}",
        inputs,
        dict(attributes),
        dtype=torch.float32,
        shape=shape,
        version=OP_VERSION,
    )


class DeformGeometry(NamedTuple):
    """Where the taps of a deformable convolution stand before they are moved."""

    stride: int
    padding: int
    dilation: int


def deform_conv_node(
    x: Tensor, offset: Tensor, mask: Tensor, weight: Tensor, bias: Tensor | None, geometry: DeformGeometry
) -> Tensor:
    """The standard DeformConv; its offsets and masks lie as ours do."""
    return torch.onnx.ops.symbolic(
        "DeformConv",
        (x, weight, offset, bias, mask),
        {
            "kernel_shape": list(weight.shape[2:]),
            "strides": [geometry.stride] * 2,
            "pads": [geometry.padding] * 4,
            "dilations": [geometry.dilation] * 2,
        },
        dtype=x.dtype,
        shape=(x.shape[0], weight.shape[0], *offset.shape[2:]),
        version=19,
    )


def sampled_conv_nodes(
    x: Tensor,
    offset: Tensor,
    mask: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    geometry: DeformGeometry,
    columns: Callable[[Tensor], Tensor] | None,
) -> Tensor:
    """The sampling op, then the convolution that remains: 1x1, over channels times taps."""
    taps = weight.shape[2] * weight.shape[3]
    sampled = bev_node(
        "ModulatedDeformSample",
        (x, offset, mask),
        {
            "kernel": list(weight.shape[2:]),
            "stride": [geometry.stride] * 2,
            "padding": [geometry.padding] * 2,
            "dilation": [geometry.dilation] * 2,
            "value_scale": 0.0,
        },
        (x.shape[0], x.shape[1] * taps, *offset.shape[2:]),
    )
    if columns is not None:
        sampled = columns(sampled)
    return F.conv2d(sampled, weight.flatten(1)[:, :, None, None], bias)
