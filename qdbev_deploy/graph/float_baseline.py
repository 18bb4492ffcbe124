"""The float network inside a quantised file: what a baseline in FP16 or FP32 is built from."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from qdbev_deploy.contract import METADATA_PREFIX
from qdbev_deploy.errors import QdbevError
from qdbev_deploy.graph.index import Graph, attributes, remove_unused
from qdbev_deploy.graph.normalise import normalise
from qdbev_deploy.graph.quantised import weight_dequantizers

_HALF_A_STEP = 1e-3  # of a bound that should be a whole multiple of its scale: what is left to float rounding


def without_quantisation(model: onnx.ModelProto, clips: Collection[str] = ()) -> int:
    """Drop every Q/DQ, in place; returns how many nodes went.

    Stored integers become the floats that their DequantizeLinear makes of them, bit for bit. Activations pass unrounded
    and unclipped: a Clip to the grid of the QuantizeLinear behind it is part of the quantiser if the file's metadata
    says so, or if `clips` names it. Any other is the network's own, a ReLU6 say, whatever its bounds. Integers that
    went straight into a BEV op go in as floats, and the op's value_scale becomes 0.
    """
    changed = _dequantise_weights(model)
    graph, grids = Graph(model), _grids(model)
    outputs = {value.name for value in model.graph.output}
    instead: dict[str, str] = {}  # a tensor that goes -> the one that stands for it
    gone: list[NodeProto] = []
    for node in model.graph.node:
        if node.op_type == "QuantizeLinear":
            source = node.input[0]
            clip = graph.producer.get(source)
            if clip is not None and (clip.name in clips or _is_grid_clip(graph, clip, node, grids)):
                source = clip.input[0]
            instead[node.output[0]] = source
            gone.append(node)
        elif node.op_type == "DequantizeLinear":
            instead[node.output[0]] = node.input[0]
            gone.append(node)
    for node in gone:
        if node.output[0] in outputs:
            raise QdbevError(
                f"the output '{node.output[0]}' comes straight from a {node.op_type}",
                "outputs that floats are computed for",
                "export the float checkpoint for a baseline",
            )

    def standing_for(name: str) -> str:
        while name in instead:
            name = instead[name]
        return name

    for node in model.graph.node:
        for index, name in enumerate(node.input):
            node.input[index] = standing_for(name)
        for attribute in node.attribute:
            if attribute.name == "value_scale" and attribute.f > 0:
                attribute.f = 0.0
    kept = [
        NodeProto.FromString(node.SerializeToString()) for node in model.graph.node if node.output[0] not in instead
    ]
    del model.graph.node[:]
    model.graph.node.extend(kept)
    for value in model.graph.value_info:  # views that moved integers now move floats
        if value.type.tensor_type.elem_type in (TensorProto.INT8, TensorProto.UINT8):
            value.type.tensor_type.elem_type = TensorProto.FLOAT
    remove_unused(model)
    return changed + len(gone)


def _dequantise_weights(model: onnx.ModelProto) -> int:
    """Stored integers behind a DequantizeLinear become float weights under the name of what it wrote."""
    graph = Graph(model)
    found = weight_dequantizers(graph)
    for node in found:
        scale = graph.constant(node.input[1])
        if scale is None or attributes(node).get("block_size", 0):
            raise QdbevError(
                f"node '{node.name}' dequantises by blocks or by a computed scale",
                "one stored scale for the tensor or for each channel",
                "export the float checkpoint for a baseline",
            )
        integers = numpy_helper.to_array(graph.initializers[node.input[0]]).astype(np.float32)
        zero = graph.constant(node.input[2]) if len(node.input) > 2 and node.input[2] else None
        shape = [1] * integers.ndim
        if scale.ndim and scale.size > 1:
            shape[attributes(node).get("axis", 1)] = -1
        if zero is not None:
            integers = integers - zero.astype(np.float32).reshape(shape)
        weights = (integers * scale.reshape(shape)).astype(scale.dtype)
        model.graph.initializer.append(numpy_helper.from_array(weights, node.output[0]))
        node.output[0] += "/unused"
    for index in reversed(range(len(model.graph.node))):
        if model.graph.node[index].output[0].endswith("/unused"):
            del model.graph.node[index]
    remove_unused(model)
    return len(found)


def _grids(model: onnx.ModelProto) -> dict[str, tuple[int, int]]:
    """The ends of each activation quantiser's grid, from what `export` and `calibrate` write into the file."""
    written = {item.key: item.value for item in model.metadata_props}.get(f"{METADATA_PREFIX}bits", "")
    try:
        entries: Any = json.loads(written)["activations"]
        return {name: _ends(int(entry["bits"]), bool(entry["signed"])) for name, entry in entries.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}  # a file of others, or of no grid


def _ends(bits: int, signed: bool) -> tuple[int, int]:
    bits = min(max(bits, 2), 8)
    return (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, min(2**bits - 1, 127))


def _is_grid_clip(graph: Graph, clip: NodeProto, quantize: NodeProto, grids: Mapping[str, tuple[int, int]]) -> bool:
    """Whether a Clip serves this quantiser alone: it bears its name, and its bounds are the ends of the file's grid."""
    name = quantize.name.removesuffix("/QuantizeLinear")
    ends = grids.get(name)
    if ends is None or clip.op_type != "Clip" or clip.name != f"{name}/Clip" or len(clip.input) < 3:
        return False
    scale = graph.constant(quantize.input[1])
    bounds = [graph.constant(name) for name in clip.input[1:3]]
    if scale is None or scale.size != 1 or len(graph.consumers.get(clip.output[0], [])) != 1:
        return False
    steps = [float(bound) / float(scale.ravel()[0]) for bound in bounds if bound is not None and bound.size == 1]
    return len(steps) == 2 and bool(np.all(np.abs(np.array(steps) - ends) < _HALF_A_STEP))


def float_copy(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy without quantisation; its metadata no longer speaks of a grid."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    own = {node.name for node in copy.graph.node}
    normalise(copy)  # others' ways of writing a grid, so that all of it goes
    without_quantisation(copy, {node.name for node in copy.graph.node if node.op_type == "Clip"} - own)
    kept = {item.key: item.value for item in copy.metadata_props if item.key != "qdbev.bits"}
    del copy.metadata_props[:]
    helper.set_model_props(copy, kept)
    return copy
