"""What ONNX Runtime makes of a graph, told in layers: kind, precision, and the nodes of the file it came from."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import onnx
from onnx import NodeProto, helper

from qdbev_deploy.check.cost import node_costs
from qdbev_deploy.contract import OP_DOMAIN
from qdbev_deploy.engine.interface import Layer, TensorRecord
from qdbev_deploy.graph.index import Graph, attributes, constant_nodes
from qdbev_deploy.graph.parts import tensor_bytes

# ONNX Runtime's kernels that multiply integers; all others compute in the type of what they write.
INTEGER_KERNELS = frozenset({
    "QLinearConv", "QLinearMatMul", "QGemm", "MatMulInteger", "MatMulIntegerToFloat", "ConvInteger",
    "DynamicQuantizeMatMul", "QLinearAdd", "QLinearMul", "QLinearAveragePool", "QLinearGlobalAveragePool",
    "QLinearLeakyRelu", "QLinearSigmoid", "QLinearSoftmax", "QLinearConcat", "QLinearWhere", "QLinearReduceMean",
})  # fmt: skip
CONVOLUTIONS = frozenset({"Conv", "FusedConv", "NhwcFusedConv", "QLinearConv", "ConvInteger", "ConvTranspose"})
PRODUCTS = frozenset({
    "Gemm", "MatMul", "FusedGemm", "FusedMatMul", "FusedMatMulActivation", "TransposeMatMul", "QGemm", "QLinearMatMul",
    "MatMulInteger", "MatMulIntegerToFloat", "DynamicQuantizeMatMul", "MatMulNBits",
})  # fmt: skip
MOVES = frozenset({
    "Reshape", "Transpose", "Unsqueeze", "Squeeze", "Flatten", "Slice", "Identity", "Split", "Concat", "Gather",
    "GatherElements", "GatherND", "ScatterND", "Expand", "Tile", "Pad", "ReorderInput", "ReorderOutput", "Shape",
    "NonZero", "MemcpyFromHost", "MemcpyToHost", "Cast",
})  # fmt: skip


Types = Mapping[str, Sequence[tuple[str, tuple[int, ...]]]]
EVENT_SUFFIX = "_kernel_time"  # of a node's name in ONNX Runtime's profile
_RUNTIME_TYPES = {"float": "float32", "double": "float64"}


def tensor_type(name: str) -> str:
    """numpy's name of what ONNX Runtime calls tensor(float16)."""
    inner = name.removeprefix("tensor(").removesuffix(")")
    return _RUNTIME_TYPES.get(inner, inner)


def tensor_types(events: Iterable[Mapping[str, Any]]) -> Types:
    """{node: type and shape of each of its outputs}, as ONNX Runtime saw them when it ran."""
    return {
        event["name"].removesuffix(EVENT_SUFFIX): [
            (_RUNTIME_TYPES.get(name, name), tuple(shape))
            for entry in event.get("args", {}).get("output_type_shape", [])
            for name, shape in entry.items()
        ]
        for event in events
    }


def optimised_layers(model: onnx.ModelProto, optimised: onnx.ModelProto, types: Types) -> tuple[Layer, ...]:
    """The nodes of the optimised graph as layers, each with the nodes of `model` that it was made from."""
    claims = _claims(model.graph.node, optimised.graph.node, constant_nodes(Graph(model)))
    macs = {cost.node: cost.macs for cost in node_costs(Graph(model))[0]}
    graph = Graph(optimised)
    records = _records(graph, types)
    counted: set[str] = set()
    layers = []
    for node in optimised.graph.node:
        weights = 0
        for name in node.input:
            if name in graph.initializers and name not in counted:
                counted.add(name)
                weights += tensor_bytes(graph.initializers[name])
        nodes = claims[node.name]
        written, read = ([records[name] for name in names if name in records] for names in (node.output, node.input))
        layers.append(Layer(
            name=node.name,
            kind=node.op_type,
            precision=_precision(node, [record.dtype for record in (*written, *read)]),
            nodes=nodes,
            inputs=tuple(read),
            outputs=tuple(written),
            weight_bytes=weights,
            macs=sum(macs.get(name, 0) for name in nodes) if _family(node) else 0,
        ))  # fmt: skip
    return tuple(layers)


def _records(graph: Graph, types: Types) -> dict[str, TensorRecord]:
    """Every tensor that is fed or computed."""
    found = {}
    for value in graph.proto.input:
        type_ = value.type.tensor_type
        dtype = str(helper.tensor_dtype_to_np_dtype(type_.elem_type))
        found[value.name] = TensorRecord(value.name, dtype, tuple(dim.dim_value for dim in type_.shape.dim))
    for node in graph.proto.node:
        outputs = [name for name in node.output if name]
        for name, (dtype, shape) in zip(outputs, types.get(node.name, []), strict=False):
            found[name] = TensorRecord(name, dtype, shape)
    return found


def _precision(node: NodeProto, dtypes: list[str]) -> str:
    """In which type a node computes, from those of its outputs and then its inputs."""
    if node.op_type in INTEGER_KERNELS:
        return "int8"
    if node.op_type in MOVES:
        return ""
    if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
        return "float32"
    if node.op_type == "MatMulNBits" and attributes(node).get("accuracy_level", 0) == 4:
        return "mixed"  # it quantises its input by blocks and at run time, which the file did not ask for
    # Comparisons write truth values and compute in what they read.
    return next((dtype for dtype in dtypes if dtype != "bool"), "")


def _family(node: NodeProto) -> frozenset[str]:
    """The kernels that multiply alike; empty for what is no weighted op."""
    return next((family for family in (CONVOLUTIONS, PRODUCTS) if node.op_type in family), frozenset())


def _claims(
    original: Iterable[NodeProto], optimised: Iterable[NodeProto], constant: set[str]
) -> dict[str, tuple[str, ...]]:
    """{name of an optimised node: the nodes of the file it was made from}; `constant` are nodes that are folded.

    Optimisations keep the names of some nodes, perhaps with a suffix; where they do not, the tensors that are in both
    graphs cut them into pieces, and what lies in a piece of one was made from what lies in that piece of the other.
    """
    before, after = list(original), list(optimised)
    named = {node.name for node in before}
    kept = {node.name: name for node in after if (name := _kept_name(node.name, named))}
    shared = {name for node in before for name in node.output} & {name for node in after for name in node.output}
    pieces_before, pieces_after = _pieces(before, shared), _pieces(after, shared)
    members: dict[str, list[NodeProto]] = defaultdict(list)  # piece -> nodes of the file
    for node in before:
        if node.name not in constant:
            for piece in pieces_before[node.name]:
                members[piece].append(node)
    by_name = set(kept.values())
    claims: dict[str, dict[str, None]] = {node.name: {} for node in after}
    heads: dict[str, str] = {}  # piece -> the optimised node that does its main work
    for node in after:
        for piece in pieces_after[node.name]:
            if piece not in heads or _family(node):
                heads[piece] = node.name
        if node.name in kept:
            claims[node.name][kept[node.name]] = None
            continue
        candidates = [item for piece in pieces_after[node.name] for item in members[piece] if item.name not in by_name]
        family = _family(node)
        chosen = [item for item in candidates if family and item.op_type in family]
        chosen = chosen or [item for item in candidates if item.domain == OP_DOMAIN or not _family(item)]
        claims[node.name].update(dict.fromkeys(item.name for item in chosen))
    # What was fused away entirely, an activation into its convolution say, belongs to whom its piece belongs to.
    claimed = {name for names in claims.values() for name in names}
    for piece, items in members.items():
        if piece in heads:
            claims[heads[piece]].update({item.name: None for item in items if item.name not in claimed})
    return {name: tuple(nodes) for name, nodes in claims.items()}


def _kept_name(name: str, original: set[str]) -> str:
    """The file's node whose name this one carries, with or without what a fusion appended."""
    while name and name not in original:
        name = name.rpartition("/")[0]
    return name


def _pieces(nodes: list[NodeProto], shared: set[str]) -> dict[str, list[str]]:
    """{node: the shared tensors that it is computed for, up to the next shared ones}."""
    readers: dict[str, list[NodeProto]] = defaultdict(list)
    for node in nodes:
        for name in node.input:
            readers[name].append(node)
    found: dict[str, list[str]] = {}
    for node in reversed(nodes):  # sorted: readers come before what they read
        pieces: dict[str, None] = {}
        for name in node.output:
            if name in shared:
                pieces[name] = None
            else:
                for reader in readers[name]:
                    pieces.update(dict.fromkeys(found[reader.name]))
        found[node.name] = list(pieces)
    return found
