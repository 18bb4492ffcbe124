"""The engine inspector's JSON as layers: which ONNX nodes each was made of, and in which precision it computes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import onnx

from qdbev_deploy.check.cost import node_costs
from qdbev_deploy.engine.interface import Layer, TensorRecord
from qdbev_deploy.engine.tensorrt.network import onnx_nodes
from qdbev_deploy.graph.index import WEIGHTED, Graph

# Words of "Format/Datatype", the longer ones first: "Thirty-two wide channel vectorized row major Int8 format" (8.6),
# "Half" (10 and later).
_DTYPES = (
    ("bfloat16", "bfloat16"), ("bf16", "bfloat16"), ("float16", "float16"), ("fp16", "float16"), ("half", "float16"),
    ("float32", "float32"), ("fp32", "float32"), ("fp8", "float8"), ("float", "float32"), ("int32", "int32"),
    ("int64", "int64"), ("uint8", "uint8"), ("int8", "int8"), ("int4", "int4"), ("bool", "bool"),
)  # fmt: skip
_WEIGHT_BYTES = {"int8": 1.0, "uint8": 1.0, "int4": 0.5, "float16": 2.0, "bfloat16": 2.0, "float32": 4.0, "int32": 4.0,
                 "int64": 8.0, "float8": 1.0, "bool": 1.0}  # fmt: skip
# Layers that move or hold data and compute nothing.
_MOVES = frozenset({
    "reformat", "noop", "constant", "shuffle", "copy", "memset", "signal", "wait", "shape", "slice", "concat",
    "concatenation", "reshape", "transpose",
})  # fmt: skip
_NO_NUMBERS = frozenset({"int32", "int64", "bool", "uint8"})
_MATRIX = ("conv", "gemm", "matrix", "fullyconnected", "matmul")  # in LayerType or ParameterType
# Words of kernels' names: sm80_xmma_gemm_i8i8_i8i32_f32_tn, ampere_fp32_icudnn_int8x4_relu, cutlass_s8_i16832gemm_s8;
# sm80_xmma_gemm_f16f16_f16f32_f32, ampere_h16816gemm, volta_scudnn. Types of what goes in, not of what comes out.
_INT8_TACTIC = re.compile(r"(?<![a-z0-9])(i8(?=[fi])|int8|s8s8|imma|i8816|i16816|i16832|icudnn)")
_FLOAT_TACTIC = re.compile(
    r"(?<![a-z0-9])(f16f16|f32f32|tf32|bf16|hmma|[hs]884|[hs]1688|[hs]16816|[hs]cudnn|[hs]gemm|e4m3|e5m2|fp8)"
)
_COPY = re.compile(r"^Reformatting CopyNode")
_SEPARATORS = re.compile(r" \+ |, |[()\[\]{}\x1e\x1f]|\.\.\.")
_CLONE = re.compile(r"_clone_\d+$")


def _dtype(text: str) -> str:
    lower = text.lower()
    return next((name for word, name in _DTYPES if word in lower), "")


def _record(tensor: Mapping[str, Any]) -> TensorRecord:
    said = str(tensor.get("Format/Datatype", ""))
    shape = tuple(int(extent) for extent in tensor.get("Dimensions", ()))
    return TensorRecord(str(tensor.get("Name", "")), _dtype(said), shape, said)


def _records(entry: Mapping[str, Any], key: str) -> tuple[TensorRecord, ...]:
    return tuple(_record(tensor) for tensor in entry.get(key, ()) if isinstance(tensor, Mapping))


def _weight_bytes(entry: Mapping[str, Any]) -> int:
    total = 0.0
    for key in ("Weights", "Bias"):
        weights = entry.get(key)
        if isinstance(weights, Mapping):
            total += int(weights.get("Count", 0)) * _WEIGHT_BYTES.get(_dtype(str(weights.get("Type", ""))), 4.0)
    return int(total)


def _numbers(records: Iterable[TensorRecord]) -> list[str]:
    return [record.dtype for record in records if record.dtype and record.dtype not in _NO_NUMBERS]


def _precision(
    entry: Mapping[str, Any], inputs: tuple[TensorRecord, ...], outputs: tuple[TensorRecord, ...], *, is_product: bool
) -> str:
    """In which type a layer computes; "" where it only moves data, mixed where its types do not tell.

    `is_product`: it says that it was made from a convolution or a matrix product.
    """
    kind = str(entry.get("LayerType", "")).lower()
    if kind in _MOVES or _COPY.match(str(entry.get("Name", ""))):
        return ""
    coming, going = _numbers(inputs), _numbers(outputs)
    if "plugin" in kind and coming:
        return coming[0]  # the value, which our kernels interpolate and sum in its own type
    is_matrix = any(word in kind or word in str(entry.get("ParameterType", "")).lower() for word in _MATRIX)
    is_kernel = _INT8_TACTIC.search(_tactic(entry)) or _FLOAT_TACTIC.search(_tactic(entry))
    if is_product or is_matrix or is_kernel or _held(entry):
        return _product_precision(entry, coming, going, is_matrix=is_matrix)
    types = set(coming) or set(going)
    if types == {"int8"} and set(going) - types:
        return "mixed"  # what turns int8 into floats computes in these
    if len(types) == 1:
        return next(iter(types))
    return "mixed" if types else ""


def _tactic(entry: Mapping[str, Any]) -> str:
    return str(entry.get("TacticName", "")).lower()


def _held(entry: Mapping[str, Any]) -> str:
    """The type of a layer's weights; "" where it has none."""
    weights = entry.get("Weights")
    if isinstance(weights, Mapping) and int(weights.get("Count", 0)) > 0:
        return _dtype(str(weights.get("Type", "")))
    return ""


def _product_precision(entry: Mapping[str, Any], coming: list[str], going: list[str], *, is_matrix: bool) -> str:
    """int8 only where both factors or the kernel's name say so, and nothing else speaks against it."""
    held, tactic = _held(entry), _tactic(entry)
    is_float, is_integer = bool(_FLOAT_TACTIC.search(tactic)), bool(_INT8_TACTIC.search(tactic))
    if held:
        factors = [*coming[:1], held]
        proves_itself = factors == ["int8", "int8"] or (factors == ["int8"] and is_integer)
    else:
        factors = coming
        # A bias or a scale of another type may follow the two.
        proves_itself = (is_matrix and coming[:2] == ["int8", "int8"]) or (is_integer and "int8" in coming)
    if proves_itself:
        return "mixed" if is_float else "int8"
    types = set(factors) or set(going)
    if is_integer:
        return "mixed"  # an integer kernel by its name, on what are no integers
    if held and held != "int8" and coming:  # integers that meet float weights are not multiplied as integers
        return max(factors, key=lambda name: _WEIGHT_BYTES.get(name, 0.0))
    if held and coming and coming[0] != "int8":
        return coming[0]  # weights that are stored in int8 alone
    if "int8" in types or len(types) > 1:
        return "mixed"
    return next(iter(types), "")


class NodeNames:
    """Finds the names of a model's nodes in what TensorRT makes of them."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._graph = Graph(model)
        self._nodes = {node.name: node for node in model.graph.node if node.name}

    def of(self, entry: Mapping[str, Any]) -> tuple[str, ...]:
        """The nodes of a layer: from its metadata, else from its name, which joins those that were fused."""
        name = str(entry.get("Name", ""))
        if _COPY.match(name):
            return ()
        listed = [node for node in onnx_nodes(str(entry.get("Metadata", ""))) if node in self._nodes]
        if listed:
            return tuple(listed)
        parts = [_CLONE.sub("", part.strip()) for part in _SEPARATORS.split(name)]
        found = [part for part in parts if part in self._nodes]
        if "ForeignNode" in name and len(found) >= 2:
            found = self._between(found[0], found[-1])
        return tuple(dict.fromkeys(found))

    def hides_integers(self, entry: Mapping[str, Any], nodes: Sequence[str]) -> bool:
        """A foreign node with Q/DQ inside: its inputs and outputs do not tell what its products run in."""
        foreign = "ForeignNode" in str(entry.get("Name", "")) or str(entry.get("LayerType", "")).lower() == "myelin"
        return foreign and any(self._nodes[node].op_type in ("QuantizeLinear", "DequantizeLinear") for node in nodes)

    def has_product(self, nodes: Sequence[str]) -> bool:
        """Whether one of the nodes multiplies by weights."""
        return any(self._nodes[node].op_type in WEIGHTED for node in nodes)

    def _between(self, first: str, last: str) -> list[str]:
        """A foreign node names its first and last node: those on the ways from one to the other lie in it."""
        start, end = self._nodes[first], self._nodes[last]
        after = self._reach([start], forward=True)
        before = self._reach([end], forward=False)
        within = [name for name in self._nodes if name in after and name in before]
        return within or [first, last]

    def _reach(self, starts: list[onnx.NodeProto], *, forward: bool) -> set[str]:
        seen: set[str] = set()
        waiting = list(starts)
        while waiting:
            node = waiting.pop()
            if node.name in seen:
                continue
            seen.add(node.name)
            if forward:
                waiting += [reader for name in node.output for reader in self._graph.consumers.get(name, [])]
            else:
                waiting += [maker for name in node.input if (maker := self._graph.producer.get(name)) is not None]
        return seen


def parse_layers(content: str, model: onnx.ModelProto) -> tuple[Layer, ...]:
    """The layers in `get_engine_information`'s JSON. `model`: the lowered file, for nodes and multiplications.

    An engine built with --profile-verbosity names says names alone, and one built with none nothing.
    """
    described = json.loads(content)
    names = NodeNames(model)
    macs = {cost.node: cost.macs for cost in node_costs(Graph(model))[0]}
    layers = []
    for entry in described.get("Layers", ()):
        if not isinstance(entry, Mapping):
            entry = {"Name": str(entry)}
        inputs, outputs = _records(entry, "Inputs"), _records(entry, "Outputs")
        nodes = names.of(entry)
        precision = "mixed"
        if not names.hides_integers(entry, nodes):
            precision = _precision(entry, inputs, outputs, is_product=names.has_product(nodes))
        layers.append(
            Layer(
                name=str(entry.get("Name", "")),
                kind=_kind(entry),
                precision=precision,
                nodes=nodes,
                inputs=inputs,
                outputs=outputs,
                tactic=str(entry.get("TacticName", "") or entry.get("TacticValue", "")),
                weight_bytes=_weight_bytes(entry),
                # A node that became several layers is counted with the first that computes.
                macs=sum(macs.pop(node, 0) for node in nodes) if precision else 0,
            )
        )
    return tuple(layers)


def _kind(entry: Mapping[str, Any]) -> str:
    """The layer's type; of a plugin with the op's name."""
    kind = str(entry.get("LayerType", ""))
    plugin = str(entry.get("PluginType", "") or "")
    return f"{kind} {plugin}" if plugin else kind
