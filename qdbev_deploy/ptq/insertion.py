"""Q/DQ written into a float graph: weights as integers, activations clipped and rounded, values fed as integers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from qdbev_deploy.calibration.grid import Grid
from qdbev_deploy.calibration.recipe import Rule
from qdbev_deploy.calibration.weights import best_weight_scale
from qdbev_deploy.graph.index import Graph, remove_unused, sort_nodes
from qdbev_deploy.graph.quantised import feed_values_as_integers
from qdbev_deploy.ptq.placement import Activation, Placement, Weight

INT8_MAX = 127


def activation_grid(activation: Activation, rule: Rule) -> Grid:
    assert rule.bits is not None
    return Grid(rule.bits, signed=rule.grid == "signed" or not activation.nonnegative)


def insert(
    model: onnx.ModelProto,
    placement: Placement,
    weight_rules: Mapping[str, Rule],
    activation_rules: Mapping[str, Rule],
    scales: Mapping[str, float],
) -> dict[str, Any]:
    """Quantise in place what the rules say. -> bits of every quantised tensor, as the metadata holds them."""
    graph = Graph(model)
    names: Counter[str] = Counter()
    bits: dict[str, Any] = {"weights": {}, "activations": {}}
    for weight in placement.weights:
        rule = weight_rules.get(weight.name)
        if rule is not None and rule.bits is not None:
            names[weight.name] += 1
            name = f"{weight.name}.weight" if names[weight.name] == 1 else f"{weight.name}.{names[weight.name]}.weight"
            _store_integers(model, weight, name, Grid(rule.bits, signed=True))
            bits["weights"][weight.name] = rule.bits
    for activation in placement.activations:
        rule = activation_rules.get(activation.name)
        if rule is not None:
            grid = activation_grid(activation, rule)
            _round(graph, activation, grid, scales[activation.name])
            bits["activations"][activation.name] = {"bits": grid.bits, "signed": grid.signed}
    sort_nodes(model)
    remove_unused(model)
    feed_values_as_integers(model)
    return bits


def _store(model: onnx.ModelProto, name: str, array: Any) -> str:
    model.graph.initializer.append(numpy_helper.from_array(np.asarray(array), name))
    return name


def _store_integers(model: onnx.ModelProto, weight: Weight, name: str, grid: Grid) -> None:
    by_channel = np.moveaxis(weight.values, weight.axis, 0)
    scale = best_weight_scale(by_channel, grid)
    shape = [-1 if axis == weight.axis else 1 for axis in range(weight.values.ndim)]
    integers = np.clip(np.rint(weight.values / scale.reshape(shape)), grid.qmin, grid.qmax).astype(np.int8)
    node = helper.make_node(
        "DequantizeLinear",
        [
            _store(model, f"{name}.integers", integers),
            _store(model, f"{name}.scale", scale),
            _store(model, f"{name}.zero_point", np.zeros(len(scale), np.int8)),
        ],
        [f"{name}/dequantized"],
        name=f"{name.removesuffix('.weight')}/DequantizeLinear",
        axis=weight.axis,
    )
    model.graph.node.append(node)
    model.graph.value_info.append(helper.make_tensor_value_info(node.output[0], TensorProto.FLOAT, weight.values.shape))
    for user in weight.users:
        user.input[1] = node.output[0]


def _round(graph: Graph, activation: Activation, grid: Grid, scale: float) -> None:
    """A float Clip to the grid where int8 is wider, and a Q/DQ pair, for those who are to read integers."""
    model, name, shape = graph.model, activation.name, graph.shape(activation.tensor)
    step = np.float32(scale)
    parameters = [
        _store(model, f"{name}.scale", step),
        _store(model, f"{name}.zero_point", np.int8(0)),
    ]

    def add(op_type: str, inputs: list[str], element_type: int) -> str:
        output = f"{name}/{op_type}_output"
        model.graph.node.append(helper.make_node(op_type, inputs, [output], name=f"{name}/{op_type}"))
        if shape is not None:
            model.graph.value_info.append(helper.make_tensor_value_info(output, element_type, shape))
        return output

    source = activation.tensor
    if grid.qmax < INT8_MAX:
        bounds = [
            _store(model, f"{name}.low", step * np.float32(grid.qmin)),
            _store(model, f"{name}.high", step * np.float32(grid.qmax)),
        ]
        source = add("Clip", [source, *bounds], TensorProto.FLOAT)
    integers = add("QuantizeLinear", [source, *parameters], TensorProto.INT8)
    rounded = add("DequantizeLinear", [integers, *parameters], TensorProto.FLOAT)
    for node, index in activation.uses:
        node.input[index] = rounded
