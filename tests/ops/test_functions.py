"""The ONNX functions against the torch ops: ONNX Runtime at every optimisation level, friendly and hostile inputs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper
from torch import Tensor

from qdbev_deploy.contract import OP_DOMAIN, OP_VERSION, OPS
from qdbev_deploy.ops import modulated_deform_conv2d, ms_deform_attn, spatial_cross_attn, temporal_self_attn
from qdbev_deploy.ops.functions import op_function
from tests.ops.test_attention import GEOMETRY, OFFSETS, SHAPES, TOKENS, cameras, random

LEVELS = (
    onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL,
    onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL,
)
FLAT = [size for shape in SHAPES for size in shape]
SPATIAL = {
    "spatial_shapes": FLAT,
    "bev_h": GEOMETRY.bev_hw[0],
    "bev_w": GEOMETRY.bev_hw[1],
    "pc_range": list(GEOMETRY.pc_range),
    "z_anchors": list(GEOMETRY.z_anchors),
    "image_h": GEOMETRY.image_hw[0],
    "image_w": GEOMETRY.image_hw[1],
}


def one_node_model(name: str, inputs: Sequence[Tensor], opset: int, attributes: dict[str, object]) -> onnx.ModelProto:
    """A file with one node of that op and its function, checked in full."""
    attributes = {"value_scale": 0.0, **attributes}
    assert set(attributes) == set(OPS[name].attributes)
    names = list(OPS[name].inputs)
    infos = [
        helper.make_tensor_value_info(
            key, helper.np_dtype_to_tensor_dtype(np.dtype(str(value.dtype).removeprefix("torch."))), list(value.shape)
        )
        for key, value in zip(names, inputs, strict=True)
    ]
    graph = helper.make_graph(
        [helper.make_node(name, names, ["out"], domain=OP_DOMAIN, **attributes)],
        "one_node",
        infos,
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, [None] * len(OPS[name].output))],
    )
    levels = len(attributes.get("spatial_shapes", [0, 0])) // 2
    model = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", opset), helper.make_opsetid(OP_DOMAIN, OP_VERSION)],
        functions=[op_function(name, opset, levels=levels, cameras=inputs[0].shape[0])],
        ir_version=9,
    )
    onnx.checker.check_model(model, full_check=True)
    return model


def run(model: onnx.ModelProto, inputs: Sequence[Tensor], level: object = LEVELS[-1]) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = level
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    names = [value.name for value in session.get_inputs()]
    (output,) = session.run(None, {key: value.numpy() for key, value in zip(names, inputs, strict=True)})
    return output


def check(name: str, inputs: Sequence[Tensor], expected: Tensor, tolerance: float = 1e-5, **attributes: object) -> None:
    """Runtime and torch agree, at every level of optimisation and under the oldest and the newest opset we write."""
    assert torch.isfinite(expected).all()
    for opset in (17, 21):
        model = one_node_model(name, inputs, opset, attributes)
        for level in LEVELS:
            output = run(model, inputs, level)
            assert output.shape == tuple(expected.shape)
            assert np.abs(output - expected.numpy()).max() <= tolerance, (opset, level)


@pytest.mark.parametrize("kind", OFFSETS)
def test_ms_deform_attn(kind: str) -> None:
    inputs = (random(2, TOKENS, 3, 8), random(2, 6, 2, seed=8).sigmoid(), OFFSETS[kind], random(2, 6, 3, 12, seed=7))
    check("MSDeformAttn", inputs, ms_deform_attn(*inputs, SHAPES), spatial_shapes=FLAT)


@pytest.mark.parametrize("poison", [0.0, float("nan"), float("inf")])
def test_temporal_self_attn(poison: float) -> None:
    offsets = random(20, 2, 2, 4, 2, scale=2.0, seed=2)
    offsets[3, 1, 0, 2, 1] = poison
    inputs = (random(2, 20, 2, 8), random(2, 20, 2, seed=1).sigmoid(), offsets, random(20, 2, 2, 4, seed=3))
    check("TemporalSelfAttn", inputs, temporal_self_attn(*inputs, (4, 5)), bev_h=4, bev_w=5)


def spatial_inputs(scale: float = 1.0) -> list[Tensor]:
    return [
        random(6, TOKENS, 2, 8), cameras(), random(24, 2, 3, 8, 2, scale=scale, seed=1), random(24, 2, 24, seed=2)
    ]  # fmt: skip


@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_spatial_cross_attn(scale: float) -> None:
    inputs = spatial_inputs(scale)
    expected = spatial_cross_attn(*inputs, SHAPES, GEOMETRY)
    assert expected.abs().max() > 0.01
    check("SpatialCrossAttn", inputs, expected, **SPATIAL)


@pytest.mark.parametrize("matrix", [0.0, float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("blind", [slice(2, 3), slice(None)])
def test_spatial_cross_attn_with_cameras_that_see_nothing(matrix: float, blind: slice) -> None:
    inputs = spatial_inputs()
    inputs[1][blind] = matrix
    check("SpatialCrossAttn", inputs, spatial_cross_attn(*inputs, SHAPES, GEOMETRY), **SPATIAL)


def test_spatial_cross_attn_with_offsets_that_are_not_numbers() -> None:
    inputs = spatial_inputs()
    inputs[2][random(24, 2, 3, 8, 2, seed=5) > 1] = float("nan")
    inputs[2][random(24, 2, 3, 8, 2, seed=6) > 1] = float("inf")
    check("SpatialCrossAttn", inputs, spatial_cross_attn(*inputs, SHAPES, GEOMETRY), **SPATIAL)


def test_int8_values_carry_their_scale_as_an_attribute() -> None:
    def integers(*shape: int) -> Tensor:
        return torch.randint(-128, 128, shape, dtype=torch.int8, generator=torch.Generator().manual_seed(0))

    spatial = [integers(6, TOKENS, 2, 8), *spatial_inputs()[1:]]
    expected = spatial_cross_attn(*spatial, SHAPES, GEOMETRY, value_scale=0.03)
    check("SpatialCrossAttn", spatial, expected, **SPATIAL, value_scale=0.03)

    temporal = (
        integers(2, 20, 2, 8), random(2, 20, 2, seed=1).sigmoid(), random(20, 2, 2, 4, 2, seed=2),
        random(20, 2, 2, 4, seed=3),
    )  # fmt: skip
    expected = temporal_self_attn(*temporal, (4, 5), value_scale=0.03)
    check("TemporalSelfAttn", temporal, expected, bev_h=4, bev_w=5, value_scale=0.03)

    refs, logits = random(2, 6, 2, seed=8).sigmoid(), random(2, 6, 3, 12, seed=7)
    decoder = (integers(2, TOKENS, 3, 8), refs, OFFSETS["near"], logits)
    expected = ms_deform_attn(*decoder, SHAPES, value_scale=0.03)
    check("MSDeformAttn", decoder, expected, spatial_shapes=FLAT, value_scale=0.03)


@pytest.mark.parametrize("name", OPS)
def test_a_body_reads_every_attribute_that_it_needs_from_its_node(name: str) -> None:
    function = op_function(name, 18)
    read = {attribute.ref_attr_name for node in function.node for attribute in node.attribute}
    assert set(function.attribute) == set(OPS[name].attributes) == read - {""}


@pytest.mark.parametrize(("stride", "dilation"), [(1, 1), (2, 1), (1, 2)])
@pytest.mark.parametrize("poison", [0.0, float("nan"), float("inf")])
@pytest.mark.parametrize("value_scale", [0.0, 0.03])
def test_sampled_columns_make_the_deformable_convolution(
    stride: int, dilation: int, poison: float, value_scale: float
) -> None:
    out_hw = [(7 - 1) // stride + 1, (5 - 1) // stride + 1]
    x, weight = random(2, 3, 7, 5), random(4, 3, 3, 3, seed=1)
    if value_scale:
        x = (x * 40).to(torch.int8)
    offset, mask = random(2, 18, *out_hw, scale=1.5, seed=2), random(2, 9, *out_hw, seed=3).sigmoid()
    offset[1, 4, 0, 1] = poison
    attributes = {
        "kernel": [3, 3], "stride": [stride] * 2, "padding": [dilation] * 2, "dilation": [dilation] * 2
    }  # fmt: skip
    model = one_node_model("ModulatedDeformSample", (x, offset, mask), 18, {**attributes, "value_scale": value_scale})
    columns = torch.from_numpy(run(model, (x, offset, mask)))
    expected = modulated_deform_conv2d(
        x.float() * (value_scale or 1.0), offset, mask, weight, stride=stride, padding=dilation, dilation=dilation
    )
    assert torch.isfinite(expected).all()
    product = torch.nn.functional.conv2d(columns, weight.flatten(1)[:, :, None, None])
    torch.testing.assert_close(product, expected, rtol=1e-5, atol=1e-5)
