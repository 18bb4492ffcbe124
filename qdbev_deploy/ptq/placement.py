"""Where a float graph may be quantised, read off its structure: names do not matter, so any exporter's file will do."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import NodeProto

from qdbev_deploy.contract import OP_DOMAIN, OPS
from qdbev_deploy.graph.constants import stored
from qdbev_deploy.graph.index import WEIGHTED, Graph, attributes

# What the shipped recipes call the image and the convolution that reads it, whatever a file calls them.
IMAGE, STEM = "img_backbone.image_tap", "img_backbone.conv1"
_EGO_INPUTS = {"can_bus", "use_prev_bev", "lidar2img"}

# What a weighted op's result is for, where it gets there without passing another one. `places`: reference points, the
# grid of a sampling, the offsets of a deformable convolution. `samples`: offsets and logits of our attentions, whose
# weights may be integers while their inputs stay float.
_FINAL, _PLACES, _SAMPLES = "final", "places", "samples"
_PLACE_INPUTS = {"GridSample": (1,), "DeformConv": (2, 4)}
_ENDS = {*WEIGHTED, "LayerNormalization", "InstanceNormalization", "GroupNormalization", "Softmax"}

_NEVER_NEGATIVE = {"Relu", "Sigmoid", "HardSigmoid", "Softmax", "Abs", "Exp"}
_OF_FIRST_INPUT = {"MaxPool", "AveragePool", "GlobalAveragePool", "Reshape", "Transpose", "Unsqueeze", "Squeeze",
                   "Flatten", "Slice", "Gather", "Identity", "Split", "Expand", "Cast"}  # fmt: skip
_OF_ALL_INPUTS = {"Concat", "Add", "Mul", "Max", "Min", "ModulatedDeformSample"}

Use = tuple[NodeProto, int]  # a node and which of its inputs


@dataclass
class Weight:
    """A stored weight that may become integers, with its output channels along `axis`."""

    name: str
    tensor: str
    values: npt.NDArray[Any]
    axis: int
    users: list[NodeProto] = field(default_factory=list)


@dataclass
class Activation:
    """A tensor that may be rounded, and who reads it then."""

    name: str
    tensor: str
    nonnegative: bool
    uses: list[Use] = field(default_factory=list)


@dataclass
class Placement:
    """Everything that may be quantised, and the names of weights that must not be."""

    weights: list[Weight] = field(default_factory=list)
    activations: list[Activation] = field(default_factory=list)
    must_stay_float: list[str] = field(default_factory=list)


def module_of(node: NodeProto) -> str:
    """A node's name without its last part: in our files, the module it comes from."""
    name = node.name or node.output[0]
    return name.strip("/").rpartition("/")[0] or name.strip("/")


def _weight_name(node: NodeProto) -> str:
    module = module_of(node)
    # Self-attention multiplies by pieces of one packed projection, which recipes call by its own name.
    return f"{module}.in_proj" if module.endswith(".attn") else module


def _channel_axis(node: NodeProto, weight: npt.NDArray[Any]) -> int | None:
    """The axis of a weight's output channels; None where it has no single one."""
    if node.op_type == "Conv":
        return 0
    if node.op_type == "ConvTranspose":
        return 1 if attributes(node).get("group", 1) == 1 else None
    if weight.ndim != 2:
        return None
    return 0 if node.op_type == "Gemm" and attributes(node).get("transB", 0) else 1


class _Structure:
    """What is known of each tensor: what it leads to, which inputs it comes from, how deep it lies, its sign."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.leads_to: dict[str, set[str]] = {name: {_FINAL} for name in ("outputs_classes", "outputs_coords")}
        self.comes_from: dict[str, frozenset[str]] = {
            value.name: frozenset({value.name}) for value in graph.proto.input
        }
        self.depth: dict[str, int] = {}  # weighted ops on the longest way from an input
        self._nonnegative: dict[str, bool] = {}
        for node in graph.proto.node:
            self._forward(node)
        for node in reversed(graph.proto.node):
            self._backward(node)

    def _forward(self, node: NodeProto) -> None:
        origins = frozenset().union(*(self.comes_from.get(name, frozenset()) for name in node.input))
        depth = max((self.depth.get(name, 0) for name in node.input), default=0) + (node.op_type in WEIGHTED)
        sign = self._sign(node)
        for name in node.output:
            self.comes_from[name], self.depth[name], self._nonnegative[name] = origins, depth, sign

    def _sign(self, node: NodeProto) -> bool:
        if node.op_type in _NEVER_NEGATIVE:
            return True
        if node.op_type == "Clip" and len(node.input) > 1 and node.input[1]:
            low = self.graph.constant(node.input[1])
            return low is not None and bool(np.all(low >= 0))
        if node.op_type == "Resize" and attributes(node).get("mode", b"nearest") != b"cubic":
            return self.nonnegative(node.input[0])
        if node.op_type == "ModulatedDeformSample":  # samples of x times masks; the offsets may point anywhere
            return self.nonnegative(node.input[0]) and self.nonnegative(node.input[2])
        if node.op_type in _OF_FIRST_INPUT:
            return self.nonnegative(node.input[0])
        return node.op_type in _OF_ALL_INPUTS and all(map(self.nonnegative, node.input))

    def nonnegative(self, name: str) -> bool:
        """Whether a tensor can have no negative element."""
        if name not in self._nonnegative and self.graph.is_constant(name):
            array = self.graph.constant(name)
            self._nonnegative[name] = array is not None and bool(np.all(array >= 0))
        return self._nonnegative.get(name, False)

    def _backward(self, node: NodeProto) -> None:
        ahead = set().union(*(self.leads_to.get(name, set()) for name in node.output))
        for index, name in enumerate(node.input):
            self.leads_to.setdefault(name, set()).update(self._kinds(node, index, ahead))

    @staticmethod
    def _kinds(node: NodeProto, index: int, ahead: set[str]) -> set[str]:
        if node.domain == OP_DOMAIN:
            role = list(OPS[node.op_type].inputs)[index]
            return (
                set() if index == 0 else {_SAMPLES} if role in ("sampling_offsets", "attention_logits") else {_PLACES}
            )
        if node.op_type in _PLACE_INPUTS:
            return {_PLACES} if index in _PLACE_INPUTS[node.op_type] else set()
        return set() if node.op_type in _ENDS else ahead

    def must_stay_float(self, node: NodeProto) -> bool:
        """Geometry, ego motion and final outputs are never quantised."""
        origins = self.comes_from[node.output[0]]
        ego_motion = bool(origins) and origins <= _EGO_INPUTS
        return ego_motion or bool(self.leads_to.get(node.output[0], set()) & {_FINAL, _PLACES})

    def feeds_samples(self, node: NodeProto) -> bool:
        return _SAMPLES in self.leads_to.get(node.output[0], set())


def find_placement(model: onnx.ModelProto) -> Placement:
    """Both inputs of weighted ops, shortcuts that meet a convolution, values of our attentions; nothing else."""
    graph = Graph(model)
    structure = _Structure(graph)
    placement = Placement()
    weights: dict[tuple[str, int], Weight] = {}
    activations: dict[str, Activation] = {}
    names: Counter[str] = Counter()

    def round_input(tensor: str, name: str, use: Use) -> None:
        if tensor not in activations:
            names[name] += 1
            unique = name if names[name] == 1 else f"{name}.{names[name]}"
            activations[tensor] = Activation(unique, tensor, structure.nonnegative(tensor))
        activations[tensor].uses.append(use)

    for node in graph.proto.node:
        if node.domain == OP_DOMAIN:
            if graph.element_type(node.input[0]) in (onnx.TensorProto.FLOAT, onnx.TensorProto.UNDEFINED):
                round_input(node.input[0], f"{module_of(node)}.value_tap", (node, 0))
        elif node.op_type in WEIGHTED:
            values = stored(graph, node.input[1])
            axis = None if values is None or values.dtype != np.float32 else _channel_axis(node, values)
            if values is None or axis is None or graph.is_constant(node.input[0]):
                continue
            is_stem = "image" in structure.comes_from[node.output[0]] and structure.depth[node.output[0]] == 1
            name = STEM if is_stem else _weight_name(node)
            if structure.must_stay_float(node):
                placement.must_stay_float.append(name)
                continue
            weight = weights.setdefault((node.input[1], axis), Weight(name, node.input[1], values, axis))
            weight.users.append(node)
            if not structure.feeds_samples(node):
                round_input(node.input[0], IMAGE if is_stem else f"{name}.input", (node, 0))
    for node in graph.proto.node:
        if node.op_type == "Add" and (use := _shortcut(graph, structure, node)) is not None:
            round_input(use[0].input[use[1]], f"{module_of(node)}.residual_tap", use)
    placement.weights, placement.activations = list(weights.values()), list(activations.values())
    return placement


def _shortcut(graph: Graph, structure: _Structure, add: NodeProto) -> Use | None:
    """The input of an addition that must be integers so that it fuses into the convolution behind its other input.

    Of two convolutions the one that lies less deep is the shortcut; in a pyramid it is what comes from the level above,
    rounded before it is enlarged.
    """
    if any(graph.is_constant(name) for name in add.input):
        return None
    ways = [graph.producer.get(name) for name in add.input]
    behind = [_is_convolution(graph, way) for way in ways]
    if not any(behind) or structure.must_stay_float(add):
        return None
    for index in (1, 0):
        way = ways[index]
        if behind[1 - index] and way is not None and way.op_type == "Resize":
            alone = len(graph.consumers[way.output[0]]) == 1
            return (way, 0) if alone else (add, index)
    if all(behind):
        first, second = (structure.depth[name] for name in add.input)
        return add, 0 if first < second else 1
    return add, 1 if behind[0] else 0


def _is_convolution(graph: Graph, node: NodeProto | None) -> bool:
    if node is not None and node.op_type == "BatchNormalization":
        node = graph.producer.get(node.input[0])
    return node is not None and node.op_type == "Conv"
