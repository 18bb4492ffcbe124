"""A float32 graph as one of mixed float16 and float32: for builders that take every type from the file."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from qdbev_deploy.contract import OP_DOMAIN, OPS
from qdbev_deploy.errors import QdbevError
from qdbev_deploy.graph.index import STANDARD_DOMAINS, Graph, attributes, remove_unused, standard_opset

FLOAT, HALF = int(TensorProto.FLOAT), int(TensorProto.FLOAT16)
HALF_MAX = float(np.finfo(np.float16).max)
HALF_TINY = float(np.finfo(np.float16).smallest_subnormal)

# Inputs of our ops that only exist in float32: places, where half of a grid cell would be lost on a large map.
_PLACES = {name: tuple(schema.inputs).index(port) for name, port in (
    ("MSDeformAttn", "reference_points"), ("TemporalSelfAttn", "reference_points"), ("SpatialCrossAttn", "lidar2img"),
) for schema in (OPS[name],)}  # fmt: skip
# What has learned weights or a scale: places that come out of it carry its error already.
_LEARNED = {"Conv", "ConvTranspose", "DeformConv", "Gemm", "LayerNormalization", "QuantizeLinear", "DequantizeLinear"}
_VIEWS = {"Reshape", "Transpose", "Unsqueeze", "Squeeze", "Flatten", "Slice", "Identity"}
_ALWAYS_FLOAT = {"Constant", "ConstantOfShape", "Range", "GridSample"}
_FLOAT_INPUTS = {"Resize": (1, 2)}  # roi and scales: float32 by definition
_COORDS = "outputs_coords"  # metres up to 51.2: a float16 there is 3 cm coarse
_TO_BOOL = {"Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Equal", "And", "Or", "Not", "Xor", "IsNaN", "IsInf"}
_TO_INT64 = {"Shape", "Size", "ArgMax", "ArgMin", "NonZero"}


def _is_learned(graph: Graph, node: NodeProto) -> bool:
    if node.domain == OP_DOMAIN or node.op_type in _LEARNED:
        return True
    if node.op_type != "MatMul":
        return False
    for name in node.input:
        while (maker := graph.producer.get(name)) is not None and maker.op_type in _VIEWS:
            name = maker.input[0]
        if graph.is_constant(name) or (maker is not None and maker.op_type == "DequantizeLinear"):
            return True
    return False


def _exceeds_half(graph: Graph, node: NodeProto) -> bool:
    for name in node.input:
        values = graph.constant(name)
        if values is not None and values.dtype == np.float32 and values.size and np.abs(values).max() > HALF_MAX:
            return True
    return False


def float_nodes(model: onnx.ModelProto) -> set[str]:
    """First outputs of the nodes that compute in float32 whatever is asked for.

    Geometry: what leads to the places that our ops sample at, to the turning of the last BEV and to the boxes'
    coordinates, up to the last learned layer before it; and what reads constants beyond float16.
    """
    graph = Graph(model)
    roots: list[str] = [value.name for value in model.graph.output if value.name == _COORDS]
    kept: set[str] = set()
    seen: set[str] = set()
    for node in model.graph.node:
        if node.domain == OP_DOMAIN and node.op_type in _PLACES:
            roots.append(node.input[_PLACES[node.op_type]])
        elif node.op_type == "GridSample":
            kept.add(node.output[0])
            roots += node.input[:2]
        elif node.domain != OP_DOMAIN and (node.op_type in _ALWAYS_FLOAT or _exceeds_half(graph, node)):
            kept.add(node.output[0])
    while roots:
        maker = graph.producer.get(roots.pop())
        if maker is None or maker.output[0] in seen or _is_learned(graph, maker):
            continue
        seen.add(maker.output[0])
        roots += maker.input
    return kept | seen


@dataclass
class _Rewriter:
    """The graph as it is written anew: which tensors are in which type by now, and the casts made on the way."""

    graph: Graph
    kept: set[str]
    before: dict[str, int] = field(default_factory=dict)  # element types in the float32 graph
    now: dict[str, int] = field(default_factory=dict)
    half_name: dict[str, str] = field(default_factory=dict)  # of graph outputs, whose own name stays float32
    made: dict[tuple[str, int], str] = field(default_factory=dict)
    nodes: list[NodeProto] = field(default_factory=list)
    changed: int = 0

    def run(self) -> None:
        proto = self.graph.proto
        for tensor in proto.initializer:
            self.before[tensor.name] = self.now[tensor.name] = tensor.data_type
        for value in proto.input:
            self.before[value.name] = self.now[value.name] = value.type.tensor_type.elem_type
        for node in proto.node:
            self._rewrite(node)
        del proto.node[:]
        proto.node.extend(self.nodes)
        for info in proto.value_info:
            info.type.tensor_type.elem_type = self.now.get(info.name, info.type.tensor_type.elem_type)

    def _rewrite(self, original: NodeProto) -> None:
        node = NodeProto.FromString(original.SerializeToString())
        outputs = {name: self._type_of(original, index) for index, name in enumerate(original.output) if name}
        self.before.update(outputs)
        floats = [name for name in original.input if name and self.before.get(name) == FLOAT]
        half = original.output[0] not in self.kept and (bool(floats) or FLOAT in outputs.values())
        for index, name in enumerate(node.input):
            if name and self.before.get(name) == FLOAT:
                place = node.domain == OP_DOMAIN and _PLACES.get(node.op_type) == index
                wanted = HALF if half and not place and index not in _FLOAT_INPUTS.get(node.op_type, ()) else FLOAT
                node.input[index] = self._in_type(name, wanted)
        if half:
            self.changed += 1
            self._attributes(original, node)
        self.nodes.append(node)
        for index, (name, type_) in enumerate(outputs.items()):
            self.now[name] = HALF if half and type_ == FLOAT else type_
            if self.now[name] != type_ and name in self.graph.outputs:
                fresh = self.half_name[name] = f"{name}/half"
                node.output[index] = fresh
                self.now[fresh], self.now[name] = HALF, FLOAT
                self._cast(fresh, FLOAT, name)

    def _type_of(self, node: NodeProto, index: int) -> int:
        """The element type of an output in the float32 graph, from what is said of it or else from the op."""
        known = self.graph.element_type(node.output[index])
        if known != TensorProto.UNDEFINED:
            return known
        if node.op_type == "Cast":
            return int(attributes(node)["to"])
        if node.op_type == "QuantizeLinear":
            return self.before.get(node.input[2], int(TensorProto.INT8)) if len(node.input) > 2 else TensorProto.INT8
        if node.op_type == "DequantizeLinear" or node.domain == OP_DOMAIN:
            return FLOAT
        if node.op_type in _TO_BOOL:
            return int(TensorProto.BOOL)
        if node.op_type in _TO_INT64 or (node.op_type == "TopK" and index == 1):
            return int(TensorProto.INT64)
        if node.op_type == "Constant":
            constant = self.graph.constant(node.output[0])
            return FLOAT if constant is None else int(helper.np_dtype_to_tensor_dtype(constant.dtype))
        return self.before.get(node.input[1 if node.op_type == "Where" else 0], FLOAT) if node.input else FLOAT

    def _in_type(self, name: str, wanted: int) -> str:
        if wanted == HALF and name in self.half_name:
            return self.half_name[name]
        if self.now[name] == wanted:
            return name
        key = (name, wanted)
        if key not in self.made:
            fresh = self.made[key] = f"{name}/{'half' if wanted == HALF else 'float'}"
            self.now[fresh] = wanted
            if name in self.graph.initializers:
                self.graph.proto.initializer.append(_halved(self.graph.initializers[name], fresh))
            else:
                self._cast(name, wanted, fresh)
        return self.made[key]

    def _cast(self, source: str, to: int, output: str) -> None:
        self.nodes.append(helper.make_node("Cast", [source], [output], name=f"{output}/Cast", to=to))

    def _attributes(self, original: NodeProto, node: NodeProto) -> None:
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i == FLOAT:
                attribute.i = HALF
            if node.domain == OP_DOMAIN and attribute.name == "value_scale" and attribute.f > 0:
                # The QuantizeLinear before it now divides by the rounded scale.
                attribute.f = float(_to_half(np.asarray(attribute.f), positive=True))


def _to_half(values: np.ndarray, *, positive: bool) -> np.ndarray:  # type: ignore[type-arg]
    """Rounded; a scale never to zero, which no builder takes."""
    rounded = values.astype(np.float16)
    return np.maximum(rounded, np.float16(HALF_TINY)) if positive else rounded


def _halved(tensor: TensorProto, name: str) -> TensorProto:
    values = numpy_helper.to_array(tensor)
    positive = bool(values.size) and bool((values > 0).all())
    return numpy_helper.from_array(_to_half(values, positive=positive), name)


def to_half(model: onnx.ModelProto) -> int:
    """Compute in float16 what is no geometry (`float_nodes`); inputs and outputs keep their types. Returns how many.

    Scales of Q/DQ become float16, too: a builder that takes types from the file wants them in the type of what they
    scale. Integers stay as they are.
    """
    opset = standard_opset(model)
    if opset < 18:
        raise QdbevError(
            f"a file of opset {opset} to be computed in float16 by the types in the file",
            "opset 18 or later, of which Q/DQ in float16 is one form away",
            "export it again: qdbev-deploy export",
        )
    rewriter = _Rewriter(Graph(model), float_nodes(model))
    rewriter.run()
    remove_unused(model)
    # Q/DQ of float16 came with opset 19, which otherwise only added types to what 18 has.
    for entry in model.opset_import:
        if entry.domain in STANDARD_DOMAINS and entry.version == 18:
            entry.version = 19
    return rewriter.changed
