"""Opset 18 forms rewritten as opset 17 knows them, for TensorRT 8.6."""

from __future__ import annotations

import onnx
from onnx import NodeProto, helper

from qdbev_deploy.errors import QdbevError
from qdbev_deploy.graph.index import STANDARD_DOMAINS, Graph, attributes, remove_unused, standard_opset

_AXES_TO_ATTRIBUTE = ("ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2", "ReduceSumSquare",
                      "ReduceLogSum", "ReduceLogSumExp")  # fmt: skip
# Attributes that opset 18 or later added, with the value that says what opset 17 does.
_NEW_ATTRIBUTES: dict[str, dict[str, object]] = {
    "Resize": {"antialias": 0, "keep_aspect_ratio_policy": b"stretch"},
    "QuantizeLinear": {"saturate": 1, "block_size": 0, "output_dtype": 0, "precision": 0},
    "DequantizeLinear": {"block_size": 0, "output_dtype": 0},
    "Cast": {"saturate": 1},
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
        f"node '{node.name}' is a {node.op_type} {why}",
        "a form that opset 17 has",
        "export for a newer target, or with the newest release of qdbev-deploy",
    )


def _rewrite(graph: Graph, node: NodeProto) -> bool:
    if node.op_type in _SINCE_18:
        raise _refuse(node, "which opset 17 does not know")
    if node.op_type in _AXES_TO_ATTRIBUTE and len(node.input) > 1:
        axes = graph.constant(node.input[1])
        if axes is None:
            raise _refuse(node, "with axes that are computed")
        del node.input[1]
        node.attribute.append(helper.make_attribute("axes", [int(axis) for axis in axes.ravel()]))
        return True
    if node.op_type == "Split" and "num_outputs" in attributes(node):
        shape = graph.shape(node.input[0])
        axis, count = attributes(node).get("axis", 0), len(node.output)
        if shape is None or shape[axis] % count:
            raise _refuse(node, "into unequal parts")
        _drop(node, "num_outputs")
        return True
    if node.op_type == "Pad" and len(node.input) > 3:
        axes, pads, shape = graph.constant(node.input[3]), graph.constant(node.input[1]), graph.shape(node.input[0])
        if axes is None or pads is None or shape is None:
            raise _refuse(node, "with axes that are computed")
        full = [0] * (2 * len(shape))
        for index, axis in enumerate(axes.ravel()):
            full[int(axis) % len(shape)] = int(pads[index])
            full[int(axis) % len(shape) + len(shape)] = int(pads[index + len(axes)])
        name = f"{node.name}/pads"
        graph.proto.initializer.append(helper.make_tensor(name, onnx.TensorProto.INT64, [len(full)], full))
        node.input[1] = name
        del node.input[3]
        return True
    if node.op_type == "GridSample":
        for attribute in node.attribute:
            if attribute.name == "mode" and attribute.s in (b"linear", b"cubic"):
                attribute.s = b"bi" + attribute.s
                return True
        return False
    return _forget_new_attributes(node)


def _forget_new_attributes(node: NodeProto) -> bool:
    changed = False
    for name, same_as_17 in _NEW_ATTRIBUTES.get(node.op_type, {}).items():
        value = attributes(node).get(name)
        if value is None:
            continue
        if value != same_as_17:
            raise _refuse(node, f"with {name} {value!r}")
        _drop(node, name)
        changed = True
    if node.op_type == "Resize" and "axes" in attributes(node):
        raise _refuse(node, "with axes")
    return changed


def _drop(node: NodeProto, name: str) -> None:
    for index in reversed(range(len(node.attribute))):
        if node.attribute[index].name == name:
            del node.attribute[index]
