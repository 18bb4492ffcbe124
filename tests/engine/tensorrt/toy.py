"""A small streaming network with everything that types and states are tried on, in a few nodes."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from qdbev_deploy.contract import OP_DOMAIN, TensorSpec
from qdbev_deploy.graph.index import name_nodes
from qdbev_deploy.graph.lowering import lower
from qdbev_deploy.ops.functions import op_function

CELLS, CHANNELS, QUERIES, HW = 9, 32, 5, (8, 8)
INPUTS = (
    TensorSpec("image", "float32", (1, 6, 3, *HW), ""),
    TensorSpec("prev_bev", "float32", (CELLS, 1, CHANNELS), ""),
    TensorSpec("use_prev_bev", "float32", (1,), ""),
    TensorSpec("can_bus", "float32", (18,), ""),
    TensorSpec("lidar2img", "float32", (1, 6, 4, 4), ""),
)
OUTPUTS = (
    TensorSpec("bev_embed", "float32", (CELLS, 1, CHANNELS), ""),
    TensorSpec("outputs_classes", "float32", (1, 1, QUERIES, 10), ""),
    TensorSpec("outputs_coords", "float32", (1, 1, QUERIES, 10), ""),
)


def _infer(graph: Any, functions: list[onnx.FunctionProto]) -> onnx.ModelProto:
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 18), helper.make_opsetid(OP_DOMAIN, 1)], ir_version=10,
        functions=functions,
    )  # fmt: skip
    model.CopyFrom(onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True))
    for value in model.graph.output:
        assert value.type.tensor_type.elem_type == TensorProto.FLOAT
    return model


def toy(*, quantised: bool = True, seed: int = 0) -> onnx.ModelProto:
    """The state turned by the CAN bus, a convolution of the image, an attention on it, logits and coordinates."""
    rng = np.random.default_rng(seed)
    arrays: dict[str, np.ndarray] = {}
    nodes: list[onnx.NodeProto] = []

    def array(name: str, values: Any, dtype: Any = np.float32) -> str:
        arrays[name] = np.asarray(values, dtype)
        return name

    def random(name: str, *shape: int, scale: float = 0.2) -> str:
        return array(name, rng.standard_normal(shape) * scale)

    def node(op: str, inputs: list[str], output: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(op, inputs, [output], name=f"toy/{output}", **attributes))
        return output

    def quantise(name: str, scale: float) -> str:
        array(f"{name}.scale", scale)
        array("zero", 0, np.int8)
        return node("QuantizeLinear", [name, f"{name}.scale", "zero"], f"{name}/q")

    def dequantise(name: str, scale: str, **attributes: Any) -> str:
        return node(
            "DequantizeLinear", [name, scale, "zero" if not attributes else "zeros"], f"{name}/dq", **attributes
        )

    # The image: a convolution, quantised or not.
    node("Reshape", ["image", array("frames_shape", [6, 3, *HW], np.int64)], "frames")
    if quantised:
        integers = array("conv.integers", rng.integers(-8, 8, (CHANNELS, 3, 3, 3)), np.int8)
        array("conv.scale", rng.random(CHANNELS) * 0.05 + 0.01)
        arrays["conv.scale"][0] = 1e-7  # a dead channel: float16 knows no such scale but a coarse one
        array("zeros", np.zeros(CHANNELS), np.int8)
        weight = dequantise(integers, "conv.scale", axis=0)
        frames = dequantise(quantise("frames", 0.05), "frames.scale")
    else:
        weight, frames = random("conv.weight", CHANNELS, 3, 3, 3), "frames"
    node("Conv", [frames, weight, random("conv.bias", CHANNELS)], "features", pads=[1, 1, 1, 1])
    # The last state, turned: places computed from the CAN bus.
    node("Gather", ["can_bus", array("index", 17, np.int64)], "angle")
    node("Cos", [node("Mul", ["angle", array("to_radians", np.pi / 180)], "radians")], "cosine")
    node("Mul", [random("grid", 1, 3, 3, 2, scale=0.4), "cosine"], "places")
    node("Transpose", ["prev_bev"], "planes", perm=[1, 2, 0])
    node("Reshape", ["planes", array("planes_shape", [1, CHANNELS, 3, 3], np.int64)], "map")
    node("GridSample", ["map", "places"], "turned", mode="nearest")
    node("Reshape", ["turned", array("rows_shape", [CHANNELS, CELLS], np.int64)], "columns")
    node("Transpose", ["columns"], "rows", perm=[1, 0])
    node("Greater", ["use_prev_bev", array("half", 0.5)], "carried")
    node("Where", ["carried", "rows", array("nothing", 0.0)], "state")
    # An attention of the cells to the first camera's features.
    node("Slice", ["features", array("from", [0], np.int64), array("to", [1], np.int64)], "camera")
    node("Reshape", ["camera", array("tokens_shape", [1, 1, CHANNELS, HW[0] * HW[1]], np.int64)], "tokens")
    node("Transpose", ["tokens"], "value", perm=[0, 3, 1, 2])
    value = quantise("value", 0.04) if quantised else "value"
    node("Gather", ["can_bus", array("shift_index", [0, 1], np.int64)], "delta")
    node("Mul", ["delta", array("per_cell", 1 / 512)], "shift")
    node("Add", [array("references", rng.random((1, CELLS, 2))), "shift"], "reference_points")
    node("MatMul", ["state", random("offsets.weight", CHANNELS, 8)], "offsets_flat")
    node("Add", ["offsets_flat", random("offsets.bias", 8, scale=1.0)], "offsets_biased")
    node("Reshape", ["offsets_biased", array("offsets_shape", [1, CELLS, 1, 1, 4, 2], np.int64)], "offsets")
    node("MatMul", ["state", random("logits.weight", CHANNELS, 4)], "logits_flat")
    node("Reshape", ["logits_flat", array("logits_shape", [1, CELLS, 1, 4], np.int64)], "logits")
    node("MSDeformAttn", [value, "reference_points", "offsets", "logits"], "attended", domain=OP_DOMAIN,
         spatial_shapes=list(HW), value_scale=0.04 if quantised else 0.0)  # fmt: skip
    node("Reshape", ["attended", array("cells_shape", [CELLS, CHANNELS], np.int64)], "seen")
    node("Add", ["state", "seen"], "summed")
    node("LayerNormalization", ["summed", random("norm.weight", CHANNELS, scale=1.0), random("norm.bias", CHANNELS)],
         "normed", axis=-1)  # fmt: skip
    node("Unsqueeze", ["normed", array("one", [1], np.int64)], "bev_embed")
    # Logits and coordinates; the coordinates are refined from places in metres.
    node("MatMul", [random("queries", QUERIES, CELLS), "normed"], "objects")
    for branch in ("classes", "coords"):
        node("MatMul", ["objects", random(f"{branch}.weight", CHANNELS, 10)], f"{branch}_flat")
    node("Sigmoid", ["coords_flat"], "coords_unit")
    node("Mul", ["coords_unit", array("metres", 102.4)], "coords_metres")
    node("ReduceSum", ["lidar2img"], "projection_sum", keepdims=0)
    node("Add", ["coords_metres", "projection_sum"], "coords_moved")
    front = array("front", [0, 1], np.int64)
    node("Unsqueeze", ["classes_flat", front], "outputs_classes")
    node("Unsqueeze", ["coords_moved", front], "outputs_coords")
    graph = helper.make_graph(
        nodes, "toy",
        [helper.make_tensor_value_info(spec.name, TensorProto.FLOAT, spec.shape) for spec in INPUTS],
        [helper.make_tensor_value_info(spec.name, TensorProto.FLOAT, spec.shape) for spec in OUTPUTS],
        [numpy_helper.from_array(values, name) for name, values in arrays.items()],
    )  # fmt: skip
    return _infer(graph, [op_function("MSDeformAttn", 18)])


def lowered_for(target: str, *, quantised: bool = True) -> onnx.ModelProto:
    """The toy as that target's builder gets it."""
    lowered, _ = lower(toy(quantised=quantised), target)
    name_nodes(lowered)
    return lowered


def frame(index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(image, can_bus, lidar2img) of a made-up frame."""
    rng = np.random.default_rng(100 + index)
    image = rng.standard_normal(INPUTS[0].shape).astype(np.float32)
    can_bus = rng.standard_normal(18).astype(np.float32)
    can_bus[17] = 30.0 * index
    return image, can_bus, (rng.standard_normal((1, 6, 4, 4)) * 0.1).astype(np.float32)
