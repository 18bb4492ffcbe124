"""Passes on quantised graphs. Each is exact: what the graph computes before and after is the same bit for bit."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from qdbev_deploy.errors import QdbevError
from qdbev_deploy.graph.index import (
    Graph,
    attributes,
    free_name,
    node_names,
    remove_unused,
    replace_input,
    sort_nodes,
    tensor_names,
)

Array = npt.NDArray[Any]
_VIEWS = ("Reshape", "Unsqueeze", "Squeeze", "Slice")


def weight_dequantizers(graph: Graph) -> list[NodeProto]:
    """DequantizeLinear nodes whose integers are stored in the file."""
    return [
        node for node in graph.proto.node if node.op_type == "DequantizeLinear" and node.input[0] in graph.initializers
    ]


def _viewed(
    graph: Graph, view: NodeProto, integers: Array, per_channel: list[Array]
) -> tuple[Array, list[Array]] | None:
    """The integers, and what goes along axis 0, after a view; None where the view is not one of axis 0's others."""
    operands = [graph.constant(name) if name else None for name in view.input[1:]]
    if any(name and operand is None for name, operand in zip(view.input[1:], operands, strict=True)):
        return None
    if view.op_type == "Slice":
        starts, ends, axes, steps = (*operands, None, None)[:4]
        if starts is None or ends is None or starts.size != 1 or (axes is not None and int(axes.ravel()[0]) != 0):
            return None
        cut = slice(int(starts.ravel()[0]), int(ends.ravel()[0]), int(steps.ravel()[0]) if steps is not None else 1)
        return integers[cut], [array[cut] if array.ndim else array for array in per_channel]
    shape = graph.shape(view.output[0])
    if view.op_type == "Reshape":
        wanted = [int(size) for size in (operands[0] if operands[0] is not None else [])]
        shape = tuple(integers.shape[index] if size == 0 else size for index, size in enumerate(wanted))
    elif operands and operands[0] is not None:
        change = np.expand_dims if view.op_type == "Unsqueeze" else np.squeeze
        shape = change(integers, tuple(int(axis) for axis in operands[0])).shape
    if shape is None:
        return None
    result = integers.reshape(shape)
    return (result, per_channel) if result.ndim and result.shape[0] == integers.shape[0] else None


def fold_weight_views(model: onnx.ModelProto) -> int:
    """Reshapes and slices of a dequantised weight move into its integers, so that the weight meets its operator.

    Returns how many were folded. A builder fuses DequantizeLinear into the convolution or product it feeds, and into
    nothing that stands between.
    """
    folded = 0
    while True:
        graph, views = Graph(model), 0
        taken, nodes = set(graph.initializers), node_names(model)
        for node in weight_dequantizers(graph):
            scale, zero = graph.constant(node.input[1]), graph.constant(node.input[2]) if len(node.input) > 2 else None
            if scale is None or attributes(node).get("axis", 1) != 0:
                continue
            integers = numpy_helper.to_array(graph.initializers[node.input[0]])
            for number, view in enumerate(graph.consumers.get(node.output[0], [])):
                if view.op_type not in _VIEWS or view.input[0] != node.output[0]:
                    continue
                result = _viewed(graph, view, integers, [array for array in (scale, zero) if array is not None])
                if result is None:
                    continue
                views += 1
                suffix = "" if len(graph.consumers[node.output[0]]) == 1 else f".{number}"
                names = []
                for name, array in zip(node.input, (result[0], *result[1]), strict=True):
                    names.append(_free(f"{name}{suffix}", taken))
                    model.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(array), names[-1]))
                replaced = NodeProto.FromString(node.SerializeToString())
                replaced.name = free_name(f"{node.name or node.output[0]}{suffix}_view", nodes)
                del replaced.input[:], replaced.output[:]
                replaced.input.extend(names)
                replaced.output.append(view.output[0])
                view.output[0] += "/unused"
                model.graph.node.append(replaced)
        if not views:
            break
        folded += views
        sort_nodes(model)
        remove_unused(model)
    _tidy_view_names(model)
    return folded


def _free(name: str, taken: set[str]) -> str:
    """'NAME.view', or with a number before it: weights with as many channels share a zero point."""
    free, count = f"{name}.view", 1
    while free in taken:
        count += 1
        free = f"{name}.{count}.view"
    taken.add(free)
    return free


def _tidy_view_names(model: onnx.ModelProto) -> None:
    """'weight.integers.view.view' -> 'weight.integers' where that name is free again."""
    taken = {tensor.name for tensor in model.graph.initializer}
    for tensor in model.graph.initializer:
        if not tensor.name.endswith(".view"):
            continue
        name = tensor.name
        while name.endswith(".view"):
            name = name.removesuffix(".view")
        if name in taken:
            continue
        taken.add(name)
        replace_input(model.graph.node, tensor.name, name)
        tensor.name = name


def feed_values_as_integers(model: onnx.ModelProto) -> int:
    """BEV ops take a quantised value as its integers: the DequantizeLinear before it goes, its scale is an attribute.

    No builder fuses Q/DQ into a plugin; with the pair in place the plugin would gather floats. Returns how many.
    """
    graph, fed = Graph(model), 0
    nodes, tensors = node_names(model), tensor_names(model)
    integers: dict[str, str] = {}  # a view of floats -> that of the integers, which several ops may read
    for node in list(graph.bev_nodes()):
        chain: list[NodeProto] = []
        name = node.input[0]
        while (maker := graph.producer.get(name)) is not None and maker.op_type in (
            "Reshape",
            "Unsqueeze",
            "Transpose",
        ):
            chain.append(maker)
            name = maker.input[0]
        if maker is None or maker.op_type != "DequantizeLinear" or maker.input[0] not in graph.producer:
            continue
        scale = graph.constant(maker.input[1])
        if scale is None or scale.size != 1:
            continue
        name = maker.input[0]
        for view in reversed(chain):
            viewed = view.output[0]
            if viewed not in integers:
                integers[viewed] = free_name(f"{viewed}/integers", tensors)
                copy = NodeProto.FromString(view.SerializeToString())
                copy.name, copy.input[0] = free_name(f"{view.name or viewed}_integers", nodes), name
                copy.output[0] = integers[viewed]
                model.graph.node.append(copy)
                shape = graph.shape(viewed)
                if shape is not None:
                    value = helper.make_tensor_value_info(integers[viewed], TensorProto.INT8, shape)
                    model.graph.value_info.append(value)
            name = integers[viewed]
        node.input[0] = name
        for attribute in node.attribute:
            if attribute.name == "value_scale":
                attribute.f = float(scale.ravel()[0])
        fed += 1
    sort_nodes(model)
    remove_unused(model)
    return fed


def pack_int4(model: onnx.ModelProto) -> int:
    """Weights whose integers fit four bits are stored two a byte. Needs opset 21. Returns how many."""
    graph, packed = Graph(model), 0
    zeros: set[str] = set()
    for node in weight_dequantizers(graph):
        tensor = graph.initializers[node.input[0]]
        if tensor.data_type != TensorProto.INT8:
            continue
        integers = numpy_helper.to_array(tensor)
        if integers.min(initial=0) < -8 or integers.max(initial=0) > 7:
            continue
        zero_name = f"{node.input[2]}.int4"
        channels = numpy_helper.to_array(graph.initializers[node.input[2]])
        tensor.CopyFrom(numpy_helper.from_array(integers.astype(ml_dtypes.int4), tensor.name))
        if zero_name not in zeros:  # weights with as many channels share theirs
            zeros.add(zero_name)
            model.graph.initializer.append(numpy_helper.from_array(channels.astype(ml_dtypes.int4), zero_name))
        node.input[2] = zero_name
        packed += 1
    remove_unused(model)
    return packed


def expand_int4(model: onnx.ModelProto) -> int:
    """The inverse of `pack_int4`: the same integers, one a byte. Returns how many."""
    expanded = 0
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.INT4:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.int8), tensor.name))
            expanded += 1
    return expanded


def weights_in_float(model: onnx.ModelProto) -> int:
    """Stored integers become float weights with a QuantizeLinear before their DequantizeLinear. Returns how many.

    For builders that take no int8 initialisers. The quotient of integer times scale by the scale rounds to the integer;
    where the product leaves float's range it does not, and is refused.
    """
    graph, changed = Graph(model), 0
    nodes, tensors = node_names(model), tensor_names(model)
    for node in weight_dequantizers(graph):
        tensor = graph.initializers[node.input[0]]
        scale = graph.constant(node.input[1])
        if tensor.data_type != TensorProto.INT8 or scale is None:
            continue
        integers = numpy_helper.to_array(tensor)
        axis = attributes(node).get("axis", 1)
        shape = [1] * integers.ndim
        if scale.ndim:
            shape[axis] = -1
        scales = scale.astype(np.float32).reshape(shape)
        with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
            weights = integers.astype(np.float32) * scales
            exact = np.isfinite(weights).all() and np.array_equal(np.rint(weights / scales), integers)
        if not exact:
            raise QdbevError(
                f"node '{node.name or node.output[0]}' has scales of {float(scale.min()):g} to "
                f"{float(scale.max()):g}, too small or too large for its weights to be floats",
                "scales whose products with int8 are floats",
                "quantise again, or take TensorRT 10, which reads integers",
            )
        name = free_name(f"{tensor.name}.float", tensors)
        model.graph.initializer.append(numpy_helper.from_array(weights, name))
        # The names of our own nodes say the op.
        wanted = node.name.replace("DequantizeLinear", "QuantizeLinear") or f"{node.output[0]}/QuantizeLinear"
        quantize = helper.make_node(
            "QuantizeLinear",
            [name, *node.input[1:]],
            [free_name(f"{tensor.name}/quantized", tensors)],
            name=free_name(wanted, nodes),
            **({"axis": axis} if scale.ndim else {}),
        )
        model.graph.node.append(quantize)
        node.input[0] = quantize.output[0]
        changed += 1
    sort_nodes(model)
    remove_unused(model)
    return changed
