"""From the exported file to what a target parses: a list of passes, each small, each exact."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import onnx
from onnx import helper, numpy_helper

from qdbev_deploy.contract import OP_DOMAIN, OP_VERSION
from qdbev_deploy.errors import QdbevError
from qdbev_deploy.graph.files import checker_says
from qdbev_deploy.graph.index import (
    STANDARD_DOMAINS,
    Graph,
    attributes,
    free_name,
    node_names,
    remove_unused,
    sort_nodes,
    standard_opset,
    tensor_names,
)
from qdbev_deploy.graph.normalise import normalise, require_normal
from qdbev_deploy.graph.opset import to_opset17
from qdbev_deploy.graph.quantised import expand_int4, weights_in_float
from qdbev_deploy.graph.targets import Target, target_named

IR_VERSION_OF_OPSET_17 = 8


def strip_functions(model: onnx.ModelProto) -> int:
    """Remove the functions of our ops, so that a TensorRT parser maps the nodes to plugins. Returns how many."""
    count = sum(function.domain == OP_DOMAIN for function in model.functions)
    for index in reversed(range(len(model.functions))):
        if model.functions[index].domain == OP_DOMAIN:
            del model.functions[index]
    return int(count)


def deform_conv_to_sampling(model: onnx.ModelProto) -> int:
    """DeformConv becomes our sampling op and a 1x1 convolution of its columns. Returns how many.

    For parsers that do not know the op. The product's sums run in another order: equal to rounding, not bit for bit.
    """
    graph, changed = Graph(model), 0
    nodes, tensors = node_names(model), tensor_names(model)
    for node in list(graph.proto.node):
        if node.op_type != "DeformConv":
            continue
        values = attributes(node)
        weight = graph.initializers.get(node.input[1])
        pads = values.get("pads", [0, 0, 0, 0])
        if weight is None or values.get("group", 1) != 1 or values.get("offset_group", 1) != 1 or len(node.input) < 5 \
                or list(pads[:2]) != list(pads[2:]):  # fmt: skip
            raise QdbevError(
                f"node '{node.name or node.output[0]}' is a DeformConv with groups, without masks "
                "or with uneven padding",
                "one group, masks and even padding, which the sampling op has",
                "build for TensorRT 10, whose parser knows DeformConv",
            )
        kernel = numpy_helper.to_array(weight)
        flat = free_name(f"{weight.name}.columns", tensors)
        model.graph.initializer.append(numpy_helper.from_array(kernel.reshape(len(kernel), -1, 1, 1), flat))
        columns, base = free_name(f"{node.output[0]}/columns", tensors), node.name or node.output[0]
        sample = helper.make_node(
            "ModulatedDeformSample",
            [node.input[0], node.input[2], node.input[4]],
            [columns],
            name=free_name(f"{base}/ModulatedDeformSample", nodes),
            domain=OP_DOMAIN,
            kernel=list(kernel.shape[2:]),
            stride=list(values.get("strides", [1, 1])),
            padding=list(pads[:2]),
            dilation=list(values.get("dilations", [1, 1])),
            value_scale=0.0,
        )
        bias = [node.input[3]] if node.input[3] else []
        name = free_name(f"{base}/Conv", nodes)
        product = helper.make_node("Conv", [columns, flat, *bias], list(node.output), name=name)
        node.output[0] += "/unused"
        model.graph.node.extend([sample, product])
        changed += 1
    if changed:
        if not any(entry.domain == OP_DOMAIN for entry in model.opset_import):
            model.opset_import.append(helper.make_opsetid(OP_DOMAIN, OP_VERSION))
        sort_nodes(model)
        remove_unused(model)
    return changed


def to_ir_of_opset17(model: onnx.ModelProto) -> int:
    """The file format's version that came with opset 17."""
    if model.ir_version <= IR_VERSION_OF_OPSET_17:
        return 0
    model.ir_version = IR_VERSION_OF_OPSET_17
    for node in model.graph.node:
        del node.metadata_props[:]
    return 1


def to_opset20(model: onnx.ModelProto) -> int:
    """Opset 21 gave ops new element types and, save one, nothing else; without those a graph is of opset 20."""
    if standard_opset(model) != 21:
        return 0
    for node in model.graph.node:
        if node.op_type == "GroupNormalization" or "block_size" in attributes(node):
            raise QdbevError(
                f"node '{node.name or node.output[0]}' is a {node.op_type} as opset 21 defines it",
                "a form that opset 20 has",
                "build for TensorRT 11",
            )
    for entry in model.opset_import:
        if entry.domain in STANDARD_DOMAINS:
            entry.version = 20
    return 1


@dataclass(frozen=True)
class Pass:
    """A step of lowering: what it does, in words, and the function that does it in place and counts."""

    does: str
    apply: Callable[[onnx.ModelProto], int]


_STRIP = Pass("model-local functions stripped, so that plugins take the nodes", strip_functions)
_EXPAND = Pass("four-bit weights stored one a byte: no convolution takes them packed", expand_int4)
PASSES: dict[str, tuple[Pass, ...]] = {
    "trt8.6": (
        _EXPAND,
        Pass("DeformConv as the sampling op and a 1x1 convolution", deform_conv_to_sampling),
        Pass("forms of opset 18 and later rewritten for opset 17", to_opset17),
        Pass("int8 weights as floats with a QuantizeLinear of their own", weights_in_float),
        Pass("file format of opset 17", to_ir_of_opset17),
        _STRIP,
    ),
    "trt10.3": (_EXPAND, Pass("opset 21 declared as the opset 20 that it is", to_opset20), _STRIP),
    "trt11": (_EXPAND, _STRIP),
    "ort": (),
}


def lower(model: onnx.ModelProto, target: str | Target) -> tuple[onnx.ModelProto, list[str]]:
    """(a copy as that target parses it, what was changed in sentences). The model itself stays as it is."""
    chosen = target if isinstance(target, Target) else target_named(target)
    lowered = onnx.ModelProto.FromString(model.SerializeToString())
    notes: list[str] = []
    if chosen.is_tensorrt:
        notes += normalise(lowered)
        require_normal(lowered)
    for step in PASSES[chosen.name]:
        if count := step.apply(lowered):
            notes.append(f"{step.does} ({count})")
    if notes:
        _require_valid(lowered, model, chosen)
    return lowered, notes


def _require_valid(lowered: onnx.ModelProto, model: onnx.ModelProto, target: Target) -> None:
    """What passes made of a sound model is sound as well: a form that none of them has words for ends here."""
    said = checker_says(lowered)
    if not said and not _types_refused(model):
        said = _types_refused(lowered)
    if said:
        raise QdbevError(
            f"lowered for {target.name} it is no valid ONNX of opset {standard_opset(lowered)}: {said}",
            "forms that the target's opset has",
            "build for a newer target, or export with a lower --opset",
        )


def _types_refused(model: onnx.ModelProto) -> str:
    """What the checker says of types and shapes; not of those that the file states along the way, which none reads."""
    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    del bare.graph.value_info[:]
    return checker_says(bare, full=True)
