"""Q/DQ as others export them, brought to the one form that builders fuse. Exact, or left alone and then refused.

Brevitas (QCDQ) keeps fewer than eight bits with a Clip of the integers; ModelOpt and others store weights in float with
a QuantizeLinear, zero points behind a Cast, or nodes in a domain of their own. What comes out is what our exporter
writes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from qdbev_deploy.errors import QdbevError
from qdbev_deploy.graph.constants import stored
from qdbev_deploy.graph.index import (
    STANDARD_DOMAINS,
    WEIGHTED,
    Graph,
    attributes,
    free_name,
    nested_nodes,
    node_names,
    remove_unused,
    replace_input,
    sort_nodes,
    standard_opset,
    tensor_names,
)

Array = npt.NDArray[Any]

INT8 = np.iinfo(np.int8)
_PAIR = ("QuantizeLinear", "DequantizeLinear")
_SAME_ELSEWHERE = ("com.microsoft", "trt")  # domains whose nodes of these names are the standard ones


class Range(NamedTuple):
    """The integers that a tensor can hold, its zero point taken off."""

    low: int
    high: int

    @property
    def fits(self) -> bool:
        return self.low >= INT8.min and self.high <= INT8.max


def stored_are_no_inputs(model: onnx.ModelProto) -> list[str]:
    """Stored tensors that are also listed among the inputs, so that a caller could replace them, are only stored."""
    names = {tensor.name for tensor in model.graph.initializer}
    listed = [value.name for value in model.graph.input if value.name in names]
    for index in reversed(range(len(model.graph.input))):
        if model.graph.input[index].name in names:
            del model.graph.input[index]
    return listed


def standard_domains(model: onnx.ModelProto) -> list[str]:
    """Q/DQ of ONNX Runtime's and TensorRT's own domains are declared as the standard ops that they equal."""
    graph, changed = Graph(model), []
    opset = standard_opset(model)
    for node in model.graph.node:
        if node.domain not in _SAME_ELSEWHERE or node.op_type not in _PAIR:
            continue
        known, zero = attributes(node), stored(graph, node.input[2]) if len(node.input) > 2 else None
        # Sixteen bits and blocks came to the standard ops with opset 21.
        newer = "block_size" in known or (zero is not None and zero.dtype not in (np.int8, np.uint8))
        if opset < (21 if newer else 13) or set(known) - {"axis", "block_size"}:
            continue
        node.domain = ""
        changed.append(node.name or node.output[0])
    used = {node.domain for node in model.graph.node} | {function.domain for function in model.functions}
    for index in reversed(range(len(model.opset_import))):
        if model.opset_import[index].domain in _SAME_ELSEWHERE and model.opset_import[index].domain not in used:
            del model.opset_import[index]
    return changed


def store_parameters(model: onnx.ModelProto) -> list[str]:
    """Scales, zero points and integers that come out of Constant nodes, casts and views become initialisers."""
    graph, changed, fresh = Graph(model), [], {}
    for node in model.graph.node:
        readers = node.op_type in _PAIR or _is_integer_clip(graph, node)
        if not readers or node.domain not in STANDARD_DOMAINS:
            continue
        for index, name in enumerate(node.input):
            if not name or name in graph.initializers or name in fresh:
                continue
            # What is quantised may be a constant of ours that no weight is, a view of an embedding say: that stays.
            array = stored(graph, name) if index else graph.constant(name)
            if array is not None:
                fresh[name] = array
                changed.append(name)
    taken = tensor_names(model)
    for name, array in fresh.items():
        replacement = free_name(f"{name}/stored", taken)
        model.graph.initializer.append(numpy_helper.from_array(array, replacement))
        replace_input(
            (node for node in model.graph.node if node.op_type in _PAIR or _is_integer_clip(graph, node)),
            name, replacement,
        )  # fmt: skip
    if changed:
        remove_unused(model)
    return changed


def biases_in_float(model: onnx.ModelProto) -> list[str]:
    """Stored 32-bit integers behind a DequantizeLinear, as others write biases, become the floats that they stand for.

    No parser of TensorRT takes them, and a builder adds biases in float.
    """
    graph, taken = Graph(model), tensor_names(model)
    changed: list[str] = []
    for node in model.graph.node:
        if node.op_type != "DequantizeLinear" or node.domain not in STANDARD_DOMAINS:
            continue
        integers, scale = graph.constant(node.input[0]), graph.constant(node.input[1])
        if integers is None or integers.dtype != np.int32 or scale is None or node.output[0] in graph.outputs:
            continue
        zero = graph.constant(node.input[2]) if len(node.input) > 2 and node.input[2] else np.zeros_like(integers[:0])
        along = attributes(node).get("axis", 1)
        if zero is None or zero.any() or (scale.size > 1 and not -integers.ndim <= along < integers.ndim):
            continue
        shape = (
            [-1 if index == along % integers.ndim else 1 for index in range(integers.ndim)] if scale.size > 1 else []
        )
        floats = integers.astype(scale.dtype) * scale.reshape(shape)
        name = free_name(f"{node.input[0]}/float", taken)
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(floats, scale.dtype), name))
        replace_input(graph.consumers.get(node.output[0], []), node.output[0], name)
        changed.append(node.name or node.output[0])
    if changed:
        remove_unused(model)
    return changed


def add_zero_points(model: onnx.ModelProto) -> list[str]:
    """Q and DQ without a zero point get the one that they imply: zero, of their integers' type."""
    graph, taken = Graph(model), tensor_names(model)
    changed: list[str] = []
    made: dict[str, int] = {}  # type of the integers that each QuantizeLinear makes
    for node in model.graph.node:
        if node.op_type not in _PAIR or node.domain not in STANDARD_DOMAINS:
            continue
        has_zero, known = len(node.input) > 2 and bool(node.input[2]), attributes(node)
        if node.op_type == "QuantizeLinear":
            # What says the type is the zero point, or else an attribute of opset 21, or else nothing: then it is uint8.
            type_ = graph.element_type(node.input[2]) if has_zero else known.get("output_dtype", 0) or TensorProto.UINT8
            made[node.output[0]] = type_
        else:
            type_ = _integer_type(graph, node.input[0], made)
        scale = graph.constant(node.input[1])
        if not has_zero and type_ != TensorProto.UNDEFINED and scale is not None:
            zero = free_name(f"{node.name or node.output[0]}.zero_point", taken)
            model.graph.initializer.append(helper.make_tensor(zero, type_, scale.shape, [0] * int(scale.size)))
            del node.input[2:]
            node.input.append(zero)
        elif not (has_zero and node.op_type == "QuantizeLinear" and "output_dtype" in known):
            continue
        if node.op_type == "QuantizeLinear":  # the zero point says the type, in every opset
            for index in reversed(range(len(node.attribute))):
                if node.attribute[index].name == "output_dtype":
                    del node.attribute[index]
        changed.append(node.name or node.output[0])
    return changed


def _integer_type(graph: Graph, name: str, made: dict[str, int]) -> int:
    """The type of integers that a DequantizeLinear reads: those of the QuantizeLinear before it, or the stored ones."""
    while name not in made:
        maker = graph.producer.get(name)
        if maker is None or maker.op_type not in ("Clip", "Reshape", "Transpose", "Identity", "MaxPool"):
            return graph.element_type(name)
        name = maker.input[0]
    return made[name]


def _is_integer_clip(graph: Graph, node: NodeProto) -> bool:
    """Whether a Clip works on integers: its bounds say so, or a QuantizeLinear before it."""
    if node.op_type != "Clip":
        return False
    maker = graph.producer.get(node.input[0])
    if maker is not None and maker.op_type == "QuantizeLinear":
        return True
    bounds = [stored(graph, name) for name in node.input[1:] if name]
    return any(bound is not None and bound.dtype in (np.int8, np.uint8) for bound in bounds)


def _quantised_type(graph: Graph, node: NodeProto) -> npt.DTypeLike | None:
    """The integers that a QuantizeLinear makes: its zero point's, unsigned where it has none."""
    if len(node.input) > 2 and node.input[2]:
        zero = graph.constant(node.input[2])
        return None if zero is None else zero.dtype
    return np.uint8 if not attributes(node).get("output_dtype", 0) else None


def _zero(graph: Graph, node: NodeProto) -> Array | None:
    if len(node.input) > 2 and node.input[2]:
        return graph.constant(node.input[2])
    return np.zeros((), np.uint8)


def _clipped(graph: Graph, clip: NodeProto, whole: np.iinfo[Any]) -> tuple[int, int] | None:
    """The bounds of an integer Clip within its type; None where they are computed."""
    bounds = [whole.min, whole.max]
    for index, name in enumerate(clip.input[1:3]):
        if name:
            value = graph.constant(name)
            if value is None or value.size != 1:
                return None
            bounds[index] = int(value.ravel()[0])
    return max(bounds[0], whole.min), min(bounds[1], whole.max)


def _is_weight(graph: Graph, name: str) -> bool:
    """Whether a tensor is the second input of a weighted op, perhaps through views."""
    return any(
        list(user.input).index(name) == 1 if user.op_type in WEIGHTED else
        user.op_type in ("Transpose", "Reshape", "Identity") and _is_weight(graph, user.output[0])
        for user in graph.consumers.get(name, [])
    )  # fmt: skip


def weights_as_integers(model: onnx.ModelProto) -> list[str]:
    """Weights are stored as the integers that their QuantizeLinear and Clip make of them, zero point 0."""
    graph, taken, changed = Graph(model), tensor_names(model), []
    for node in list(model.graph.node):
        if node.op_type != "DequantizeLinear" or not _is_weight(graph, node.output[0]):
            continue
        clip = graph.producer.get(node.input[0])
        clip = clip if clip is not None and clip.op_type == "Clip" else None
        source = clip.input[0] if clip is not None else node.input[0]
        quantize = graph.producer.get(source)
        quantize = quantize if quantize is not None and quantize.op_type == "QuantizeLinear" else None
        scale, zero = graph.constant(node.input[1]), _zero(graph, node)
        if scale is None or zero is None or zero.dtype not in (np.int8, np.uint8):
            continue
        integers = _rounded_weight(graph, quantize, scale, zero) if quantize is not None else graph.constant(source)
        if integers is None or integers.dtype != zero.dtype:
            continue
        if quantize is None and clip is None and zero.dtype == np.int8 and not zero.any():
            continue
        if clip is not None:
            bounds = _clipped(graph, clip, np.iinfo(integers.dtype))
            if bounds is None:
                continue
            integers = np.clip(integers, *bounds)
        axis = attributes(node).get("axis", 1)
        shape = [-1 if index == axis % integers.ndim else 1 for index in range(integers.ndim)] if zero.ndim else []
        centred = integers.astype(np.int16) - zero.astype(np.int16).reshape(shape)
        if centred.min(initial=0) < INT8.min or centred.max(initial=0) > INT8.max:
            continue
        base = quantize.input[0] if quantize is not None else source
        name = free_name(f"{base}.integers" if not base.endswith(".integers") else f"{base}.centred", taken)
        zero_point = free_name(f"{name}.zero_point", taken)
        for stored_as, array in ((name, centred.astype(np.int8)), (zero_point, np.zeros(scale.shape, np.int8))):
            model.graph.initializer.append(numpy_helper.from_array(array, stored_as))
        scale_name = node.input[1]
        del node.input[:]
        node.input.extend([name, scale_name, zero_point])
        graph = Graph(model)
        changed.append(node.name or node.output[0])
    if changed:
        remove_unused(model)
    return changed


def _rounded_weight(graph: Graph, quantize: NodeProto, scale: Array, zero: Array) -> Array | None:
    """What a QuantizeLinear makes of a stored float32 weight; None where it is no such thing, or not the same pair."""
    weight = stored(graph, quantize.input[0])
    own_scale, own_zero = graph.constant(quantize.input[1]), _zero(graph, quantize)
    if weight is None or weight.dtype != np.float32 or own_scale is None or own_zero is None:
        return None
    if not (np.array_equal(own_scale, scale) and np.array_equal(own_zero, zero) and own_zero.dtype == zero.dtype):
        return None
    shape: list[int] = []
    if scale.ndim:
        axis = attributes(quantize).get("axis", 1) % weight.ndim
        shape = [-1 if index == axis else 1 for index in range(weight.ndim)]
    whole = np.iinfo(zero.dtype)
    steps = np.rint(weight / scale.reshape(shape)) + zero.astype(np.float32).reshape(shape)
    integers: Array = np.clip(steps, whole.min, whole.max).astype(zero.dtype)
    return integers


def signed_activations(model: onnx.ModelProto) -> list[str]:
    """Activations become int8 with zero point 0; what kept them within fewer integers is a float Clip before.

    Exact where all integers that the pair can hold, less its zero point, are int8's: uint8 clipped to 0..127, uint8
    about 128, int8 clipped to fewer bits.
    """
    graph, taken, nodes, changed = Graph(model), tensor_names(model), node_names(model), []
    types = {value.name: value.type.tensor_type for value in model.graph.value_info}
    for node in list(model.graph.node):
        if node.op_type != "QuantizeLinear" or node.domain not in STANDARD_DOMAINS or node.output[0] in graph.outputs:
            continue
        readers = graph.consumers.get(node.output[0], [])
        clip = readers[0] if len(readers) == 1 and readers[0].op_type == "Clip" else None
        ends = graph.consumers.get(clip.output[0], []) if clip is not None else readers
        scale, zero, kind = graph.constant(node.input[1]), _zero(graph, node), _quantised_type(graph, node)
        if scale is None or scale.size != 1 or zero is None or zero.size != 1 or kind not in (np.int8, np.uint8):
            continue
        if not all(_same_pair(graph, node, end) for end in ends) or stored(graph, node.input[0]) is not None:
            continue
        if clip is None and kind == np.int8 and not zero.any():
            continue
        whole = np.iinfo(kind)
        bounds = _clipped(graph, clip, whole) if clip is not None else (whole.min, whole.max)
        if bounds is None:
            continue
        offset = int(zero.item())
        held = Range(bounds[0] - offset, bounds[1] - offset)
        if not held.fits:
            continue
        name = node.name or node.output[0]
        zero_point = free_name(f"{name}.zero_point", taken)
        model.graph.initializer.append(numpy_helper.from_array(np.zeros(zero.shape, np.int8), zero_point))
        if held != Range(INT8.min, INT8.max):
            _clip_before(model, node, (taken, nodes), held, scale, types.get(node.input[0]))
        for end in (node, *ends):
            del end.input[2:]
            end.input.append(zero_point)
        for end in ends:
            end.input[0] = node.output[0]
        if node.output[0] in types:
            types[node.output[0]].elem_type = TensorProto.INT8
        changed.append(name)
    if changed:
        sort_nodes(model)
        remove_unused(model)
    return changed


def _same_pair(graph: Graph, quantize: NodeProto, reader: NodeProto) -> bool:
    """Whether a reader of the integers is a DequantizeLinear with the same scale and zero point."""
    if reader.op_type != "DequantizeLinear" or reader.domain not in STANDARD_DOMAINS:
        return False
    pairs = [
        (graph.constant(quantize.input[1]), graph.constant(reader.input[1])),
        (_zero(graph, quantize), _zero(graph, reader)),
    ]
    return all(a is not None and b is not None and a.dtype == b.dtype and np.array_equal(a, b) for a, b in pairs)


def _clip_before(
    model: onnx.ModelProto, node: NodeProto, taken: tuple[set[str], set[str]], held: Range, scale: Array, type_: Any
) -> None:
    """A float Clip before a QuantizeLinear. `taken`: names that no new tensor and no new node may have."""
    name, (tensors, nodes) = node.name or node.output[0], taken
    bounds = []
    for word, bound in (("low", held.low), ("high", held.high)):
        bounds.append(free_name(f"{name}.{word}", tensors))
        value = (scale.astype(np.float32) * np.float32(bound)).astype(scale.dtype).reshape(())
        model.graph.initializer.append(numpy_helper.from_array(value, bounds[-1]))
    output = free_name(f"{node.input[0]}/clipped_for/{name}", tensors)
    clip = helper.make_node("Clip", [node.input[0], *bounds], [output], name=free_name(f"{name}/Clip", nodes))
    model.graph.node.append(clip)
    if type_ is not None:
        model.graph.value_info.append(
            helper.make_value_info(
                output, helper.make_tensor_type_proto(type_.elem_type, [dim.dim_value for dim in type_.shape.dim])
            )
        )
    node.input[0] = output


class Step(NamedTuple):
    """A pass, and what it does in words. It returns the names of what it changed."""

    does: str
    apply: Callable[[onnx.ModelProto], list[str]]


STEPS = (
    Step("stored tensors taken out of the list of inputs", stored_are_no_inputs),
    Step("Q/DQ of other domains declared as the standard ops that they are", standard_domains),
    Step("scales, zero points and integers behind constants, casts and views stored", store_parameters),
    Step("32-bit biases behind a DequantizeLinear stored as the floats that they stand for", biases_in_float),
    Step("zero points added where they were implied or an attribute said their type", add_zero_points),
    Step("weights stored as the integers that their QuantizeLinear and integer Clip make", weights_as_integers),
    Step("activations made int8 with zero point 0, integer Clips moved before Q, in float", signed_activations),
)
_NAMED = 3


def normalise(model: onnx.ModelProto) -> list[str]:
    """Bring the Q/DQ of other exporters to ours, in place. -> a note for each kind of change, with the nodes."""
    if not any(node.op_type in _PAIR for node in model.graph.node):
        return []
    notes = []
    for step in STEPS:
        if changed := step.apply(model):
            more = f" and {len(changed) - _NAMED} more" if len(changed) > _NAMED else ""
            notes.append(f"{step.does} ({len(changed)}): {', '.join(changed[:_NAMED])}{more}")
    return notes


def require_normal(model: onnx.ModelProto) -> None:
    """Refuse Q/DQ that a TensorRT parser would read as something else than what the file says."""
    graph = Graph(model)
    for node in model.graph.node:
        hidden = next((inner for inner in nested_nodes(node) if inner.op_type in _PAIR), None)
        if hidden is not None:
            raise QdbevError(
                f"node '{node.name or node.output[0]}' is an {node.op_type} with a {hidden.op_type} in its subgraph",
                "quantisation in the main graph alone",
                "export the model without branches and loops",
            )
        if node.op_type not in _PAIR or node.domain not in STANDARD_DOMAINS:
            continue
        name = node.name or node.output[0]
        if attributes(node).get("block_size", 0):
            raise QdbevError(
                f"node '{name}' has a scale for each block of {attributes(node)['block_size']} weights",
                "a scale for each output channel: blocks are for weights alone, and compute in float",
                "quantise with INT8 per channel, or build the float model with --fp16",
            )
        zero = _zero(graph, node)
        if zero is None or zero.dtype.name.startswith("uint"):
            raise QdbevError(
                f"node '{name}' has unsigned integers, or a zero point that is computed",
                "int8 and zero point 0: TensorRT reads the rest as if it were signed",
                "quantise symmetrically; behind a ReLU with a scale of largest / 127, not / 255",
            )
        if zero.dtype.name not in ("int8", "int4") or (
            zero.dtype.name == "int4" and stored(graph, node.input[0]) is None
        ):
            raise QdbevError(
                f"node '{name}' has integers of type {zero.dtype.name}",
                "int8, or int4 for stored weights",
                "quantise with INT8",
            )
        if zero.any():
            raise QdbevError(
                f"node '{name}' has the zero point {int(zero.ravel()[np.argmax(zero != 0)])}",
                "zero point 0: TensorRT's quantisation is symmetric",
                "quantise again symmetrically",
            )
