"""Passes on stored constants: what is stored many times over, and what has a name that says nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from qdbev_deploy.graph.index import STANDARD_DOMAINS, Graph, remove_unused, sort_nodes

_WORTH_SHARING_BYTES = 1 << 16
_VIEWS = {"Identity", "Transpose", "Slice", "Reshape", "Unsqueeze", "Squeeze", "Split", "Expand", "Cast"}


def share_broadcasts(model: onnx.ModelProto) -> int:
    """A stored tensor that repeats itself along an axis is stored once and expanded. Returns how many.

    The exporter folds a position's row repeated for every column into one large constant; a builder folds it again.
    """
    shared = 0
    for tensor in list(model.graph.initializer):
        if len(tensor.dims) < 2 or tensor.data_type != onnx.TensorProto.FLOAT:
            continue
        array = numpy_helper.to_array(tensor)
        if array.nbytes < _WORTH_SHARING_BYTES:
            continue
        small = array
        for axis in range(array.ndim):
            first = small.take([0], axis=axis)
            if small.shape[axis] > 1 and np.array_equal(small, np.broadcast_to(first, small.shape)):
                small = first
        if small.size == array.size:
            continue
        name, shape = f"{tensor.name}.once", f"{tensor.name}.shape"
        model.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(small), name))
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(array.shape, np.int64), shape))
        users = [node.name for node in model.graph.node if tensor.name in node.input]
        node = helper.make_node(
            "Expand", [name, shape], [tensor.name], name=f"{users[0] if users else tensor.name}/Expand_{shared}"
        )
        model.graph.value_info.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, array.shape))
        tensor.name += "/unused"
        model.graph.node.append(node)
        shared += 1
    if shared:
        sort_nodes(model)
        remove_unused(model)
    return shared


def name_constants(model: onnx.ModelProto) -> int:
    """Constants without a parameter's dotted name are named after the first node that reads them. Returns how many."""
    graph = Graph(model)
    taken = set(graph.initializers) | set(graph.producer)
    names: dict[str, str] = {}
    for name in graph.initializers:
        users = graph.consumers.get(name, [])
        if "." in name.removesuffix(".once").removesuffix(".shape") or not users:
            continue
        fresh = base = f"{users[0].name}.{list(users[0].input).index(name)}"
        count = 1
        while fresh in taken:
            count += 1
            fresh = f"{base}_{count}"
        taken.add(fresh)
        names[name] = fresh
    for tensor in model.graph.initializer:
        tensor.name = names.get(tensor.name, tensor.name)
    for node in model.graph.node:
        for index, name in enumerate(node.input):
            node.input[index] = names.get(name, name)
    return len(names)


def stored(graph: Graph, name: str) -> npt.NDArray[Any] | None:
    """What a tensor holds that is stored, or a view or cast of what is stored; None where it is computed."""
    maker = graph.producer.get(name)
    if maker is None or maker.op_type not in _VIEWS or maker.domain not in STANDARD_DOMAINS:
        return graph.constant(name)
    operands = {item: stored(graph, item) for item in maker.input if item}
    if any(operand is None for operand in operands.values()):
        return None
    opset = {entry.domain: entry.version for entry in graph.model.opset_import}
    outputs = ReferenceEvaluator(maker, opsets=opset).run(None, operands)
    array: npt.NDArray[Any] = list(outputs)[list(maker.output).index(name)]
    return array
