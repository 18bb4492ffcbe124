"""Who makes a tensor, who reads it, and what it holds where it is constant."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from qdbev_deploy.contract import OP_DOMAIN

STANDARD_DOMAINS = ("", "ai.onnx")
# Ops that multiply by a weight, which is their second input.
WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")


class Graph:
    """A view on a model's main graph. After nodes were added or removed, take a new one."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self.proto = model.graph
        self.producer: dict[str, NodeProto] = {name: node for node in self.proto.node for name in node.output if name}
        self.consumers: dict[str, list[NodeProto]] = {}
        for node in self.proto.node:
            for name in names_read(node):
                self.consumers.setdefault(name, []).append(node)
        self.initializers: dict[str, TensorProto] = {tensor.name: tensor for tensor in self.proto.initializer}
        self.outputs = {value.name for value in self.proto.output}
        self._types: dict[str, onnx.TypeProto] | None = None

    def is_constant(self, name: str) -> bool:
        node = self.producer.get(name)
        return name in self.initializers or (node is not None and node.op_type == "Constant")

    def constant(self, name: str) -> npt.NDArray[Any] | None:
        """What a constant tensor holds; None where it is computed."""
        if name in self.initializers:
            return numpy_helper.to_array(self.initializers[name])
        node = self.producer.get(name)
        if node is None or node.op_type != "Constant":
            return None
        value = attributes(node)
        tensor = next(iter(value.values()))
        return numpy_helper.to_array(tensor) if isinstance(tensor, TensorProto) else np.asarray(tensor)

    def _type(self, name: str) -> onnx.TypeProto | None:
        if self._types is None:
            values = [*self.proto.value_info, *self.proto.input, *self.proto.output]
            self._types = {value.name: value.type for value in values}
        return self._types.get(name)

    def shape(self, name: str) -> tuple[int, ...] | None:
        """The static shape of a tensor; None where it is not known in full."""
        if name in self.initializers:
            return tuple(self.initializers[name].dims)
        type_ = self._type(name)
        if type_ is None or not type_.tensor_type.HasField("shape"):
            constant = self.constant(name)
            return None if constant is None else constant.shape
        dims = type_.tensor_type.shape.dim
        return tuple(dim.dim_value for dim in dims) if all(dim.HasField("dim_value") for dim in dims) else None

    def element_type(self, name: str) -> int:
        """TensorProto's number of the element type; UNDEFINED where it is not known."""
        if name in self.initializers:
            return int(self.initializers[name].data_type)
        type_ = self._type(name)
        return int(type_.tensor_type.elem_type) if type_ is not None else int(TensorProto.UNDEFINED)

    def bev_nodes(self) -> Iterator[NodeProto]:
        return (node for node in self.proto.node if node.domain == OP_DOMAIN)


def attributes(node: NodeProto) -> dict[str, Any]:
    return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}


def subgraphs_of(attribute: onnx.AttributeProto) -> list[onnx.GraphProto]:
    """The graphs that an attribute holds: the branches of an If, the body of a Loop."""
    return [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]


def nested_nodes(node: NodeProto) -> Iterator[NodeProto]:
    """The nodes in the subgraphs of a node, however deep."""
    for attribute in node.attribute:
        for graph in subgraphs_of(attribute):
            yield from all_nodes(graph.node)


def all_nodes(nodes: Iterable[NodeProto]) -> Iterator[NodeProto]:
    """Nodes, each followed by those in its subgraphs."""
    for node in nodes:
        yield node
        yield from nested_nodes(node)


def names_read(node: NodeProto) -> list[str]:
    """What a node reads; what its subgraphs read is read by it, too."""
    return [*node.input, *(name for inner in nested_nodes(node) for name in inner.input)]


def standard_opset(model: onnx.ModelProto) -> int:
    """The version of ONNX's own ops; 0 where a file has ops of other domains alone."""
    return int(next((entry.version for entry in model.opset_import if entry.domain in STANDARD_DOMAINS), 0))


def constant_nodes(graph: Graph) -> set[str]:
    """Names of the nodes that no input of the graph reaches: a builder computes them once. Nodes must be sorted."""
    computed = {value.name for value in graph.proto.input if value.name not in graph.initializers}
    constant = set()
    for node in graph.proto.node:
        if any(name in computed for name in names_read(node)):
            computed.update(node.output)
        else:
            constant.add(node.name)
    return constant


def name_nodes(model: onnx.ModelProto) -> None:
    """Give every node a name of its own: files of others, and what is inlined from a function, have none."""
    taken: set[str] = set()
    for node in model.graph.node:
        node.name = free_name(node.name or f"{node.op_type}:{next(filter(None, node.output), '')}", taken)


def free_name(wanted: str, taken: set[str]) -> str:
    """The name, with a number behind it where it is taken; from now on it is."""
    name, count = wanted, 1
    while name in taken:
        count += 1
        name = f"{wanted}#{count}"
    taken.add(name)
    return name


def node_names(model: onnx.ModelProto) -> set[str]:
    """Names that a new node cannot have."""
    return {node.name for node in all_nodes(model.graph.node)}


def tensor_names(model: onnx.ModelProto) -> set[str]:
    """Names that a new tensor of the main graph cannot have."""
    names = {value.name for value in (*model.graph.input, *model.graph.initializer)}
    for node in all_nodes(model.graph.node):
        names.update(node.output)
        for attribute in node.attribute:
            for graph in subgraphs_of(attribute):
                names.update(value.name for value in (*graph.input, *graph.initializer))
    return names


def replace_input(nodes: Iterable[NodeProto], old: str, new: str) -> None:
    for node in nodes:
        for index, name in enumerate(node.input):
            if name == old:
                node.input[index] = new


def remove_unused(model: onnx.ModelProto) -> None:
    """Drop nodes whose results nobody reads, initialisers nobody reads, and what is said of tensors that are gone.

    Nodes must be sorted.
    """
    graph = model.graph
    needed = {value.name for value in graph.output}
    kept: list[NodeProto] = []
    for node in reversed(graph.node):
        if any(name in needed for name in node.output):
            kept.append(node)
            needed.update(names_read(node))
    if len(kept) != len(graph.node):
        kept.reverse()
        kept = [NodeProto.FromString(node.SerializeToString()) for node in kept]
        del graph.node[:]
        graph.node.extend(kept)
    for index in reversed(range(len(graph.initializer))):
        if graph.initializer[index].name not in needed:
            del graph.initializer[index]
    living = {name for node in graph.node for name in node.output}
    for index in reversed(range(len(graph.value_info))):
        if graph.value_info[index].name not in living:
            del graph.value_info[index]


def sort_nodes(model: onnx.ModelProto) -> None:
    """Put nodes after what they read, otherwise leaving the order as it is: passes may append wherever they like."""
    graph = model.graph
    made_by = {name: index for index, node in enumerate(graph.node) for name in node.output if name}
    order: list[int] = []
    state: dict[int, bool] = {}  # False: being visited, True: placed
    for start in range(len(graph.node)):
        stack = [(start, False)]
        while stack:
            index, leaving = stack.pop()
            if leaving:
                state[index] = True
                order.append(index)
            elif index not in state:
                state[index] = False
                stack.append((index, True))
                needs = [made_by[name] for name in names_read(graph.node[index]) if name in made_by]
                stack.extend((need, False) for need in reversed(needs) if need not in state)
    if order != list(range(len(order))):
        nodes = [NodeProto.FromString(graph.node[index].SerializeToString()) for index in order]
        del graph.node[:]
        graph.node.extend(nodes)


def with_shapes(model: onnx.ModelProto) -> onnx.ModelProto:
    """Shapes that the file does not state itself; where inference fails, what it states must do."""
    known = {value.name for value in model.graph.value_info}
    if all(name in known for node in model.graph.node for name in node.output[:1]):
        return model
    try:
        return onnx.shape_inference.infer_shapes(model, data_prop=True)
    except (onnx.shape_inference.InferenceError, ValueError, RuntimeError):
        return model
