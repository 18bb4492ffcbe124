"""Multiply-accumulates, bytes and a roofline, node by node, from shapes alone."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass

from onnx import NodeProto, TensorProto

from qdbev_deploy.check.devices import Device
from qdbev_deploy.check.rules import VIEWS, is_quantised_input
from qdbev_deploy.contract import OP_DOMAIN
from qdbev_deploy.graph.index import WEIGHTED, Graph, attributes
from qdbev_deploy.graph.parts import element_bytes, part_of

ASSUMPTIONS = (
    "peaks are the vendor's dense ones, reached in full: an estimate, not a forecast",
    "a node takes the longer of its arithmetic and its memory traffic; nodes run one after the other",
    "convolutions and products on quantised inputs run in int8, everything else in FP16",
    "pointwise ops, casts and Q/DQ are fused into their neighbours and cost nothing",
    "norms, pools, resizes and softmax pay for their memory traffic and not for their arithmetic",
    "results are written in FP16, also where a builder fuses the QuantizeLinear that follows and writes int8",
    "each weighted op and each plugin reads its inputs and writes its output once; no cache holds them between",
    "a plugin's value is read from memory once, for its gathers hit the cache, and its arithmetic hides behind that",
)
_MOVE_MUCH = (
    "MaxPool", "AveragePool", "GlobalMaxPool", "GlobalAveragePool", "GridSample", "Resize", "Upsample", "Softmax",
    "LogSoftmax", "LayerNormalization", "InstanceNormalization", "GroupNormalization", "RMSNormalization",
)  # fmt: skip
_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)
_MULTIPLY = (*WEIGHTED, "DeformConv", "Einsum")


@dataclass(frozen=True)
class NodeCost:
    """A node that multiplies weights or moves much."""

    node: str
    part: str
    op: str
    macs: int
    int8: bool
    moved_bytes: int


def _elements(graph: Graph, name: str) -> int | None:
    shape = graph.shape(name)
    return None if shape is None else math.prod(shape)


def _macs(graph: Graph, node: NodeProto) -> int | None:
    """Multiply-accumulates of a weighted op; None where shapes do not say."""
    if node.op_type == "Einsum":
        return _einsum_macs(graph, node)
    output = _elements(graph, node.output[0])
    if node.op_type in ("Conv", "DeformConv", "ConvTranspose"):
        weight = graph.shape(_weight_source(graph, node.input[1]))
        # A kernel for each result; transposed, for each number that goes in.
        kernels = _elements(graph, node.input[0]) if node.op_type == "ConvTranspose" else output
        return None if weight is None or kernels is None else kernels * math.prod(weight[1:])
    shape = graph.shape(node.input[0])
    if shape is None or output is None:
        return None
    inner = shape[0] if node.op_type == "Gemm" and attributes(node).get("transA", 0) else shape[-1]
    return output * inner


def _einsum_macs(graph: Graph, node: NodeProto) -> int | None:
    """A product for every combination of two operands' indices; one operand is only moved and summed."""
    terms = attributes(node)["equation"].decode().replace(" ", "").split("->")[0].split(",")
    shapes = [graph.shape(name) for name in node.input]
    if len(terms) == 1:
        return 0
    if len(terms) != 2 or any(shape is None or len(shape) != len(term) for shape, term in zip(shapes, terms)):
        return None  # in which order more would be multiplied is the runtime's choice
    sizes = {index: size for shape, term in zip(shapes, terms) for index, size in zip(term, shape or ())}
    return math.prod(sizes.values())


def _weight_source(graph: Graph, name: str) -> str:
    """The stored tensor behind a DequantizeLinear, whose output's shape is its own."""
    node = graph.producer.get(name)
    while node is not None and node.op_type in ("DequantizeLinear", "QuantizeLinear"):
        name = node.input[0]
        node = graph.producer.get(name)
    return name


def _bytes_of(graph: Graph, name: str) -> int:
    """What it takes to read or write a tensor once: stored and dequantised tensors as integers, floats as FP16."""
    if not name:
        return 0
    origin = _weight_source(graph, name)
    if origin in graph.initializers:
        tensor = graph.initializers[origin]
        count: int = math.prod(tensor.dims)
        # Behind a QuantizeLinear of its own a weight is read as the integers that a builder keeps.
        behind_its_own = origin != name and tensor.data_type in _FLOATS
        return count if behind_its_own else math.ceil(count * _element_bytes(tensor.data_type))
    count = _elements(graph, name) or 0
    if is_quantised_input(graph, name):
        return count
    return math.ceil(count * _element_bytes(graph.element_type(name)))


def _element_bytes(type_: int) -> float:
    return 2 if type_ in _FLOATS else element_bytes(type_)


def node_costs(graph: Graph) -> tuple[list[NodeCost], list[str]]:
    """(costs of every node that counts, names of weighted nodes whose shapes are unknown)."""
    costs, unknown = [], []
    for node in graph.proto.node:
        multiplies = node.op_type in _MULTIPLY
        if not multiplies and node.domain != OP_DOMAIN and node.op_type not in _MOVE_MUCH:
            continue
        macs = _macs(graph, node) if multiplies else 0
        if macs is None:
            unknown.append(node.name)
            continue
        int8 = node.op_type in WEIGHTED and all(is_quantised_input(graph, name) for name in node.input[:2])
        moved = sum(_bytes_of(graph, name) for name in (*node.input, *node.output))
        costs.append(NodeCost(node.name, part_of(node.name), node.op_type, macs, int8, moved))
    return costs, unknown


def coverage(costs: list[NodeCost]) -> dict[str, dict[str, float]]:
    """{part: {"macs", "int8_macs", "int8_share"}}, with "all" at the end."""
    table: dict[str, dict[str, float]] = defaultdict(lambda: {"macs": 0, "int8_macs": 0})
    for cost in costs:
        for part in (cost.part, "all"):
            table[part]["macs"] += cost.macs
            table[part]["int8_macs"] += cost.macs if cost.int8 else 0
    for row in table.values():
        row["int8_share"] = row["int8_macs"] / row["macs"] if row["macs"] else 0.0
    return {part: table[part] for part in sorted(table, key=lambda part: part == "all") if table[part]["macs"]}


def activation_peak_bytes(graph: Graph) -> int:
    """Most bytes of activations alive at once, in the file's order of nodes; floats as FP16, views free."""
    alias: dict[str, str] = {}

    def root(name: str) -> str:
        while name in alias:
            name = alias[name]
        return name

    sizes: dict[str, int] = {value.name: _bytes_of(graph, value.name) for value in graph.proto.input}
    for node in graph.proto.node:
        for name in node.output:
            moves_nothing = node.op_type in VIEWS - {"Concat"} or node.op_type == "DequantizeLinear"
            if moves_nothing and node.input and not graph.is_constant(node.input[0]):
                alias[name] = node.input[0]
            elif name and not all(graph.is_constant(item) for item in node.input if item):
                sizes[name] = _bytes_of(graph, name)
    last: dict[str, int] = {}
    for index, node in enumerate(graph.proto.node):
        for name in node.input:
            last[root(name)] = index
    for value in graph.proto.output:
        last[root(value.name)] = len(graph.proto.node)
    ends: dict[int, list[str]] = defaultdict(list)
    for name, index in last.items():
        ends[index].append(name)
    living = sum(size for value in graph.proto.input if (size := sizes[value.name]))
    peak = living
    for index, node in enumerate(graph.proto.node):
        living += sum(sizes[name] for name in node.output if name in sizes)
        peak = max(peak, living)
        living -= sum(sizes[name] for name in ends[index] if name in sizes)
    return peak


@dataclass(frozen=True)
class Roofline:
    """An estimate of a frame's time that no memory or arithmetic unit is ever idle in."""

    device: Device
    total_ms: float
    ms_by_part: dict[str, float]
    bound_by_memory: float  # share of the time


def roofline(costs: list[NodeCost], device: Device) -> Roofline:
    """The longer of arithmetic and traffic of each node, summed."""
    parts: dict[str, float] = defaultdict(float)
    memory = 0.0
    for cost in costs:
        peak = device.int8_tops if cost.int8 else device.fp16_tflops
        arithmetic_ms = 2 * cost.macs / (peak * 1e9)
        traffic_ms = cost.moved_bytes / (device.memory_gb_s * 1e6)
        parts[cost.part] += max(arithmetic_ms, traffic_ms)
        memory += traffic_ms if traffic_ms > arithmetic_ms else 0.0
    total = sum(parts.values())
    return Roofline(device, total, dict(parts), memory / total if total else 0.0)
