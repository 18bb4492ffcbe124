"""The rules that a builder holds a quantised graph to; each finding names the node and the rule it breaks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import onnx
from onnx import NodeProto, TensorProto

from qdbev_deploy.check.bev_ops import contract_broken
from qdbev_deploy.contract import OP_DOMAIN
from qdbev_deploy.graph.index import (
    STANDARD_DOMAINS,
    WEIGHTED,
    Graph,
    all_nodes,
    attributes,
    nested_nodes,
    standard_opset,
)
from qdbev_deploy.graph.targets import Target

VIEWS = frozenset({"Reshape", "Transpose", "Unsqueeze", "Squeeze", "Flatten", "Slice", "Identity", "Split", "Concat"})
COMMUTING = VIEWS | {"MaxPool", "Gather", "Resize"}
_MOVED_PAST = ("MaxPool", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze")  # ONNX Runtime's Q/DQ propagation
_PAIR = ("QuantizeLinear", "DequantizeLinear")
_INTEGER_OPS = ("QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger", "DynamicQuantizeLinear")


@dataclass(frozen=True)
class Finding:
    """A rule that a node breaks. Only errors make a check fail."""

    rule: str
    node: str
    says: str
    level: Literal["error", "warning"] = "error"


Rule = Callable[[Graph, Target], Iterator[Finding]]


def _name(node: NodeProto) -> str:
    return node.name or f"{node.op_type} making '{node.output[0]}'"


Known = dict[str, NodeProto | None]  # tensor -> its source


def source(
    graph: Graph, name: str, through: frozenset[str] = VIEWS, known: Known | None = None
) -> NodeProto | None:  # fmt: skip
    """The node that makes a tensor, seen through ops that only move elements.

    A Concat is seen through where all its inputs come from pairs of one scale; any other is itself the source. `known`
    is what was found on the way: Concats of Concats lead to one tensor on many ways.
    """
    known = {} if known is None else known
    if name not in known:
        node = graph.producer.get(name)
        while node is not None and node.op_type in through and node.input:
            if node.op_type == "Concat":
                makers = [source(graph, item, through, known) for item in node.input]
                node = makers[0] if _one_scale(graph, makers) else node
                break
            node = graph.producer.get(node.input[0])
        known[name] = node
    return known[name]


def _one_scale(graph: Graph, makers: list[NodeProto | None]) -> bool:
    if not all(maker is not None and maker.op_type in _PAIR for maker in makers):
        return False
    first, *others = [graph.constant(maker.input[1]) for maker in makers if maker is not None]
    return first is not None and all(
        other is not None and np.array_equal(first.ravel(), other.ravel()) for other in others
    )


def is_quantised_input(graph: Graph, name: str, through: frozenset[str] = VIEWS) -> bool:
    node = source(graph, name, through)
    return node is not None and node.op_type == "DequantizeLinear"


def opset(graph: Graph, target: Target) -> Iterator[Finding]:
    version = standard_opset(graph.model)
    if version > target.max_opset:
        yield Finding("opset", "(file)", f"opset {version}, and {target.name} knows {target.max_opset} at most")


def ops(graph: Graph, target: Target) -> Iterator[Finding]:
    functions = {(function.domain, function.name) for function in graph.model.functions}
    for node in all_nodes(graph.proto.node):
        if node.domain in STANDARD_DOMAINS:
            if node.op_type in _INTEGER_OPS:
                yield Finding(
                    "integer-op", _name(node), f"{node.op_type}: quantisation must be QuantizeLinear/DequantizeLinear"
                )
            elif target.ops is not None and node.op_type not in target.ops:
                yield Finding("unsupported-op", _name(node), f"{target.name} does not parse {node.op_type}")
            elif target.ops is None and not onnx.defs.has(node.op_type):
                yield Finding("unsupported-op", _name(node), f"{node.op_type} is no op of ONNX")
        elif node.domain != OP_DOMAIN and not (not target.is_tensorrt and (node.domain, node.op_type) in functions):
            yield Finding("unsupported-op", _name(node), f"domain '{node.domain}' has no function here and no plugin")
        elif node.domain == OP_DOMAIN and not target.is_tensorrt and (node.domain, node.op_type) not in functions:
            yield Finding("missing-function", _name(node), f"{node.op_type} has no function in the file")


def element_types(graph: Graph, target: Target) -> Iterator[Finding]:
    def refused(number: int) -> str | None:
        name = TensorProto.DataType.Name(number).lower()
        return None if number == TensorProto.UNDEFINED or name in target.element_types else name

    for tensor in graph.proto.initializer:
        if name := refused(tensor.data_type):
            yield Finding("element-type", tensor.name, f"a weight of type {name}, which {target.name} does not take")
    for value in (*graph.proto.input, *graph.proto.output):
        if name := refused(value.type.tensor_type.elem_type):
            yield Finding("element-type", value.name, f"an input or output of type {name}")
    for node in all_nodes(graph.proto.node):
        if node.op_type == "Cast" and (name := refused(attributes(node).get("to", 0))):
            yield Finding("element-type", _name(node), f"a cast to {name}")


def static_shapes(graph: Graph, target: Target) -> Iterator[Finding]:
    for value in (*graph.proto.input, *graph.proto.output):
        if graph.shape(value.name) is None:
            yield Finding("static-shapes", value.name, "a dimension that is not fixed: engines here have one shape")


def subgraphs(graph: Graph, target: Target) -> Iterator[Finding]:
    """Passes and rules look at the main graph alone, so that no quantisation may hide below it."""
    for node in graph.proto.node:
        hidden = {inner.op_type for inner in nested_nodes(node) if inner.op_type in _PAIR or inner.domain == OP_DOMAIN}
        if hidden:
            yield Finding(
                "subgraph",
                _name(node),
                f"{', '.join(sorted(hidden))} in a branch or loop: only the main graph is checked",
            )


def scales(graph: Graph, target: Target) -> Iterator[Finding]:
    """Scales are stored, finite and positive, and an activation has one."""
    for node in graph.proto.node:
        if node.op_type not in _PAIR:
            continue
        scale = graph.constant(node.input[1])
        if scale is None:
            yield Finding("dynamic-scale", _name(node), "its scale is computed, not stored")
            continue
        if not (np.isfinite(scale.astype(np.float64)).all() and (scale > 0).all()):
            yield Finding("scale", _name(node), f"a scale of {float(np.min(scale)):g}: scales are finite and positive")
        stored = node.input[0] in graph.initializers or is_constant_chain(graph, node.input[0])
        if scale.size > 1 and not stored:
            yield Finding(
                "per-channel-activation", _name(node), f"{scale.size} scales for an activation, which takes one",
                "error" if target.is_tensorrt else "warning",  # ONNX Runtime computes with them
            )  # fmt: skip


def scales_agree(graph: Graph, target: Target) -> Iterator[Finding]:
    """Integers are read with the scale that they were made with."""
    for node in graph.proto.node:
        made_with = graph.constant(node.input[1]) if node.op_type == "QuantizeLinear" else None
        if made_with is None:
            continue
        for reader, viewed in _integer_readers(graph, node):
            if reader.op_type == "DequantizeLinear":
                read_with = graph.constant(reader.input[1])
            else:
                read_with = np.asarray(attributes(reader).get("value_scale", 0.0), made_with.dtype)
                if read_with <= 0:
                    continue  # plugin_values says it
            if read_with is None or (viewed and made_with.size > 1 and read_with.size > 1):
                continue  # computed, or what a view made of scales along an axis
            if not np.array_equal(made_with.ravel(), read_with.ravel(), equal_nan=True):
                yield Finding(
                    "scale-mismatch",
                    _name(reader),
                    f"it reads integers with the scale {float(read_with.ravel()[0]):g} "
                    f"that '{_name(node)}' made with {float(made_with.ravel()[0]):g}",
                )


def _integer_readers(graph: Graph, quantize: NodeProto) -> Iterator[tuple[NodeProto, bool]]:
    """(a DequantizeLinear or op of ours that reads the integers, whether through views)."""
    waiting, seen = [(quantize.output[0], False)], set()
    while waiting:
        name, viewed = waiting.pop()
        for reader in graph.consumers.get(name, []):
            if reader.op_type == "DequantizeLinear" or (reader.domain == OP_DOMAIN and reader.input[0] == name):
                if reader.input[0] == name:
                    yield reader, viewed
            elif reader.op_type in VIEWS | {"MaxPool", "Clip"} and reader.output[0] not in seen:
                seen.add(reader.output[0])
                waiting.extend((output, True) for output in reader.output if output)


def integers(graph: Graph, target: Target) -> Iterator[Finding]:
    """TensorRT's quantisation is symmetric int8; weights may be int4 where the parser takes it."""
    for node in graph.proto.node:
        if node.op_type not in _PAIR:
            continue
        if len(node.input) < 3 or not node.input[2]:
            yield Finding("zero-point-missing", _name(node), "no zero point: the parser asks for one, an int8 zero")
            continue
        zero, type_ = graph.constant(node.input[2]), graph.element_type(node.input[2])
        if type_ == TensorProto.UNDEFINED:
            type_ = graph.element_type(node.input[0])
        four_bits = type_ == TensorProto.INT4 and "int4" in target.element_types
        if zero is None:
            yield Finding("zero-point", _name(node), "a zero point that is computed")
        elif type_ in (TensorProto.UINT8, TensorProto.UINT4, TensorProto.UINT16):
            yield Finding("uint8", _name(node), "an unsigned zero point: its numbers would be read as signed")
        elif type_ != TensorProto.INT8 and not (four_bits and is_constant_chain(graph, node.input[0])):
            kind = TensorProto.DataType.Name(type_).lower()
            yield Finding("integer-type", _name(node), f"integers of type {kind}: quantised is int8")
        elif np.any(zero.astype(np.int64) != 0):
            yield Finding("zero-point", _name(node), "a zero point that is not 0: quantisation is symmetric")


def is_constant_chain(graph: Graph, name: str) -> bool:
    """Whether a tensor is a stored weight, perhaps seen through a QuantizeLinear, an integer Clip and views."""
    waiting, seen = [name], {name}
    while waiting:
        name = waiting.pop()
        if graph.is_constant(name):
            continue
        node = graph.producer.get(name)
        if node is None or node.op_type not in VIEWS | {*_PAIR, "Clip", "Cast"} or not node.input:
            return False
        inputs = set(node.input) if node.op_type == "Concat" else {node.input[0]}
        waiting += inputs - seen
        seen |= inputs
    return True


def pairs(graph: Graph, target: Target) -> Iterator[Finding]:
    """What stands between a QuantizeLinear and its DequantizeLinear, and who reads integers."""
    readers = VIEWS | {"DequantizeLinear", "MaxPool"}
    for node in graph.proto.node:
        if node.op_type != "QuantizeLinear":
            continue
        for reader in graph.consumers.get(node.output[0], []):
            if reader.op_type == "Clip":
                yield Finding(
                    "int8-clip",
                    _name(reader),
                    "a Clip of int8 between Q and DQ breaks their match; clip in float before Q",
                )
            elif reader.domain != OP_DOMAIN and reader.op_type not in readers:
                yield Finding(
                    "pair", _name(reader), f"{reader.op_type} reads integers that no DequantizeLinear precedes"
                )


def weighted_inputs(graph: Graph, target: Target) -> Iterator[Finding]:
    """Both inputs of a weighted op are quantised or neither is; scales are shared through a Concat."""
    mixed: set[str] = set()
    for node in graph.proto.node:
        if node.op_type not in WEIGHTED:
            continue
        activation, weight = (is_quantised_input(graph, node.input[index]) for index in (0, 1))
        if activation and not weight and is_constant_chain(graph, node.input[1]):
            yield Finding("weighted-op", _name(node), "a quantised activation meets a float weight: it runs in float",
                          "warning")  # fmt: skip
        if weight and not activation:
            yield Finding("weighted-op", _name(node), "a quantised weight meets a float activation: it runs in float",
                          "warning")  # fmt: skip
            maker = source(graph, node.input[0])
            if maker is not None and maker.op_type == "Concat" and maker.output[0] not in mixed:
                mixed.add(maker.output[0])
                if any(is_quantised_input(graph, name) for name in maker.input):
                    yield Finding("concat", _name(maker), "its inputs are not all quantised with one scale: what reads "
                                  "them as integers cannot, and runs in float", "warning")  # fmt: skip
        if weight and graph.producer[node.input[1]].op_type not in ("DequantizeLinear", "Transpose"):
            yield Finding("weight-view", _name(node), "an op stands between the weight's DequantizeLinear and its user",
                          "warning")  # fmt: skip


def residuals(graph: Graph, target: Target) -> Iterator[Finding]:
    """Where a quantised convolution's output meets a shortcut, the shortcut is quantised, or the sum does not fuse."""
    for node in graph.proto.node:
        if node.op_type != "Add":
            continue
        convolved = [_is_int8_conv(graph, name) for name in node.input]
        quantised = [is_quantised_input(graph, name, COMMUTING) for name in node.input]
        constant = [graph.is_constant(name) for name in node.input]
        if any(convolved) and not any(quantised) and not any(constant):
            yield Finding("residual", _name(node), "the other input of an addition behind an int8 convolution is float",
                          "warning")  # fmt: skip


def _is_int8_conv(graph: Graph, name: str) -> bool:
    node = graph.producer.get(name)
    return (
        node is not None and node.op_type == "Conv" and all(is_quantised_input(graph, item) for item in node.input[:2])
    )


def bev_ops(graph: Graph, target: Target) -> Iterator[Finding]:
    """Nodes of our domain are those of the contract."""
    for node in graph.bev_nodes():
        for says in contract_broken(graph, node):
            yield Finding("bev-op", _name(node), says)


def plugin_values(graph: Graph, target: Target) -> Iterator[Finding]:
    """Q/DQ is never fused into a plugin: a quantised value goes in as integers, with its scale as an attribute."""
    for node in graph.bev_nodes():
        if contract_broken(graph, node):
            continue  # bev_ops says it
        scale = attributes(node)["value_scale"]
        maker = source(graph, node.input[0])
        integers = maker is not None and maker.op_type == "QuantizeLinear"
        if maker is not None and maker.op_type == "DequantizeLinear":
            yield Finding("plugin-value", _name(node), "its value comes from a DequantizeLinear: feed the integers")
        elif integers and not scale > 0:
            yield Finding("plugin-value", _name(node), "its value is int8 and value_scale is not positive")
        elif not integers and scale > 0:
            yield Finding("plugin-value", _name(node), "value_scale is set and its value is not quantised")


def own_fusion(graph: Graph, target: Target) -> Iterator[Finding]:
    """What ONNX Runtime moves past a view in its default mode it writes anew, from opset 21 on in a wrong type.

    Seen with 1.31: "output_dtype INT8 does not match y_zero_point type UINT8", and the file does not open.
    """
    for node in graph.proto.node:
        if standard_opset(graph.model) < 21 or node.op_type != "DequantizeLinear" or len(node.input) < 3:
            continue
        scale = graph.constant(node.input[1])
        per_tensor = scale is not None and scale.size == 1 and graph.element_type(node.input[2]) == TensorProto.INT8
        if not per_tensor or is_constant_chain(graph, node.input[0]):
            continue
        if any(_moved_past(graph, reader) for reader in graph.consumers.get(node.output[0], [])):
            yield Finding(
                "own-fusion", _name(node), "ONNX Runtime's own fusion of Q/DQ may refuse this from opset 21 on: open "
                "the file with session.disable_quant_qdq=1, as build and run do, or export without --carrier int4",
                "warning",
            )  # fmt: skip


def _moved_past(graph: Graph, reader: NodeProto) -> bool:
    """Whether ONNX Runtime moves a DequantizeLinear past a reader: past views, and those of a product with a bias."""
    readers = graph.consumers.get(reader.output[0], [])
    if reader.op_type == "MatMul":
        rank = len(graph.shape(reader.input[0]) or ())
        return rank > 2 and any(item.op_type == "Add" for item in readers)
    quantised_again = bool(readers) and all(item.op_type == "QuantizeLinear" for item in readers)
    return reader.op_type in _MOVED_PAST and not quantised_again


ALL_TARGETS: tuple[Rule, ...] = (
    opset,
    ops,
    element_types,
    static_shapes,
    bev_ops,
    plugin_values,
    subgraphs,
    scales,
    scales_agree,
)
TENSORRT_ONLY: tuple[Rule, ...] = (integers, pairs, weighted_inputs, residuals)
ONNXRUNTIME_ONLY: tuple[Rule, ...] = (own_fusion,)


def findings(graph: Graph, target: Target) -> list[Finding]:
    """Every rule broken, errors first."""
    rules = ALL_TARGETS + (TENSORRT_ONLY if target.is_tensorrt else ONNXRUNTIME_ONLY)
    found = [finding for rule in rules for finding in rule(graph, target)]
    return sorted(found, key=lambda finding: finding.level != "error")
