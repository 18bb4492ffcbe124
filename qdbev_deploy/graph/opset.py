"""Opset 18 forms rewritten as opset 17 knows them, for TensorRT 8.6."""

from __future__ import annotations

import onnx
from onnx import NodeProto, helper

from qdbev_deploy.errors import QdbevError
from qdbev_deploy.graph.index import (
    STANDARD_DOMAINS,
    Graph,
    attributes,
    free_name,
    remove_unused,
    standard_opset,
    tensor_names,
)

_AXES_TO_ATTRIBUTE = ("ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2", "ReduceSumSquare",
                      "ReduceLogSum", "ReduceLogSumExp")  # fmt: skip
# Those that leave numbers as they are where they reduce along no axis; of the others even that takes a square or a log.
_SAME_WITHOUT_AXES = ("ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd")
# Attributes that opset 18 or later added, with the value (of each entry, in a list) that says what opset 17 does.
_NEW_ATTRIBUTES: dict[str, dict[str, object]] = {
    "Resize": {"antialias": 0, "keep_aspect_ratio_policy": b"stretch"},
    "QuantizeLinear": {"saturate": 1, "block_size": 0, "output_dtype": 0, "precision": 0},
    "DequantizeLinear": {"block_size": 0, "output_dtype": 0},
    "Cast": {"saturate": 1},
    "AveragePool": {"dilations": 1},
    "LpPool": {"dilations": 1, "ceil_mode": 0},
}
# Values of attributes that opset 18 or later added; the checker reads no values.
_NEW_VALUES: dict[str, dict[str, tuple[bytes, ...]]] = {
    "Pad": {"mode": (b"wrap",)},
    "Resize": {"coordinate_transformation_mode": (b"half_pixel_symmetric",)},
    "ScatterElements": {"reduction": (b"max", b"min")},
    "ScatterND": {"reduction": (b"max", b"min")},
}
_SINCE_18 = {
    "BitwiseAnd", "BitwiseNot", "BitwiseOr", "BitwiseXor", "CenterCropPad", "Col2Im", "GroupNormalization", "Mish",
    "DeformConv", "AffineGrid", "Gelu", "ImageDecoder", "RegexFullMatch", "StringConcat", "StringSplit",
    "RMSNormalization", "Attention", "RotaryEmbedding", "Swish", "TensorScatter",
}  # fmt: skip


def to_opset17(model: onnx.ModelProto) -> int:
    """Rewrite the main graph under opset 17; functions are the caller's. Returns how many nodes changed, 1 at least."""
    if standard_opset(model) <= 17:
        return 0
    graph, changed = Graph(model), 0
    for node in graph.proto.node:
        if node.domain in STANDARD_DOMAINS:
            changed += _rewrite(graph, node)
    for entry in model.opset_import:
        if entry.domain in STANDARD_DOMAINS:
            entry.version = 17
    remove_unused(model)
    return max(changed, 1)


def _refuse(node: NodeProto, why: str) -> QdbevError:
    return QdbevError(
        f"node '{node.name or node.output[0]}' is a {node.op_type} {why}",
        "a form that opset 17 has",
        "export for a newer target, or with the newest release of qdbev-deploy",
    )


def _rewrite(graph: Graph, node: NodeProto) -> bool:
    if node.op_type in _SINCE_18:
        raise _refuse(node, "which opset 17 does not know")
    for name, newer in _NEW_VALUES.get(node.op_type, {}).items():
        if (value := attributes(node).get(name)) in newer:
            raise _refuse(node, f"with {name} {value.decode()}")
    if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
        _require_float(graph, node)
    if node.op_type in _AXES_TO_ATTRIBUTE:
        return _reduce(graph, node)
    if node.op_type == "Split" and "num_outputs" in attributes(node):
        shape = graph.shape(node.input[0])
        axis, count = attributes(node).get("axis", 0), len(node.output)
        if shape is None or shape[axis] % count:
            raise _refuse(node, "into unequal parts")
        _drop(node, "num_outputs")
        return True
    if node.op_type == "Pad" and len(node.input) > 3 and node.input[3]:
        axes, pads, shape = graph.constant(node.input[3]), graph.constant(node.input[1]), graph.shape(node.input[0])
        if axes is None or pads is None or shape is None:
            raise _refuse(node, "with axes that are computed")
        full = [0] * (2 * len(shape))
        for index, axis in enumerate(axes.ravel()):
            full[int(axis) % len(shape)] = int(pads[index])
            full[int(axis) % len(shape) + len(shape)] = int(pads[index + len(axes)])
        name = free_name(f"{node.name}/pads", tensor_names(graph.model))
        graph.proto.initializer.append(helper.make_tensor(name, onnx.TensorProto.INT64, [len(full)], full))
        node.input[1] = name
        del node.input[3]
        return True
    if node.op_type == "GridSample":
        if len(graph.shape(node.input[0]) or [0] * 4) != 4:
            raise _refuse(node, "of volumes")
        for attribute in node.attribute:
            if attribute.name == "mode" and attribute.s in (b"linear", b"cubic"):
                attribute.s = b"bi" + attribute.s
                return True
        return False
    return _forget_new_attributes(node)


def _reduce(graph: Graph, node: NodeProto) -> bool:
    """Axes as an attribute; the word for what no axes mean goes, once they mean what opset 17 takes them to mean."""
    inputs, idle = len(node.input), attributes(node).get("noop_with_empty_axes", 0)
    axes: list[int] = []
    if inputs > 1 and node.input[1]:
        held = graph.constant(node.input[1])
        if held is None:
            raise _refuse(node, "with axes that are computed")
        axes = [int(axis) for axis in held.ravel()]
    if not axes and idle and node.op_type not in _SAME_WITHOUT_AXES:
        raise _refuse(node, "along no axis")
    del node.input[1:]
    if not axes and idle:
        node.op_type = "Identity"
        del node.attribute[:]
        return True
    dropped = _drop(node, "noop_with_empty_axes")
    if axes:
        node.attribute.append(helper.make_attribute("axes", axes))
    return inputs > 1 or dropped


def _require_float(graph: Graph, node: NodeProto) -> None:
    """Opset 19 brought Q/DQ of other floats."""
    for name in node.input[:2] if node.op_type == "QuantizeLinear" else node.input[1:2]:
        type_ = graph.element_type(name)
        if type_ in (onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16):
            raise QdbevError(
                f"node '{node.name or node.output[0]}' is a {node.op_type} of "
                f"{onnx.TensorProto.DataType.Name(type_).lower()}",
                "scales and activations in float, the only ones that Q/DQ of opset 17 take",
                "quantise the FP32 export: TensorRT 8.6 runs its floats in FP16 where told to; or take TensorRT 10",
            )


def _forget_new_attributes(node: NodeProto) -> bool:
    changed = False
    for name, same_as_17 in _NEW_ATTRIBUTES.get(node.op_type, {}).items():
        value = attributes(node).get(name)
        if value is None:
            continue
        if any(item != same_as_17 for item in (value if isinstance(value, list) else [value])):
            raise _refuse(node, f"with {name} {value!r}")
        _drop(node, name)
        changed = True
    if node.op_type == "Resize" and "axes" in attributes(node):
        raise _refuse(node, "with axes")
    return changed


def _drop(node: NodeProto, name: str) -> bool:
    held = [index for index, attribute in enumerate(node.attribute) if attribute.name == name]
    for index in reversed(held):
        del node.attribute[index]
    return bool(held)
