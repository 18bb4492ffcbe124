"""Which part of the network a node or a weight belongs to, and how many bytes each part holds in which type."""

from __future__ import annotations

from collections import defaultdict

import onnx
from onnx import TensorProto

PARTS = ("backbone", "neck", "encoder", "decoder", "other")
_PREFIXES = (
    ("img_backbone", "backbone"),
    ("img_neck", "neck"),
    ("pts_bbox_head.transformer.decoder", "decoder"),
    ("pts_bbox_head.cls_branches", "decoder"),
    ("pts_bbox_head.reg_branches", "decoder"),
    ("pts_bbox_head", "encoder"),
)


def part_of(name: str) -> str:
    """The part by a node's or an initialiser's name, which begin with the module they come from."""
    return next((part for prefix, part in _PREFIXES if name.startswith(prefix)), "other")


_HALF_BYTE: set[int] = {TensorProto.INT4, TensorProto.UINT4}
_BYTES: dict[int, int] = {
    TensorProto.FLOAT: 4, TensorProto.FLOAT16: 2, TensorProto.BFLOAT16: 2, TensorProto.DOUBLE: 8,
    TensorProto.INT8: 1, TensorProto.UINT8: 1, TensorProto.INT16: 2, TensorProto.INT32: 4, TensorProto.INT64: 8,
    TensorProto.BOOL: 1,
}  # fmt: skip


def element_bytes(element_type: int) -> float:
    """Bytes an element takes; half a byte where two share one."""
    return 0.5 if element_type in _HALF_BYTE else float(_BYTES.get(element_type, 4))


def tensor_bytes(tensor: TensorProto) -> int:
    count = 1
    for dim in tensor.dims:
        count *= dim
    return -int(-count * element_bytes(tensor.data_type) // 1)


def weight_bytes(model: onnx.ModelProto) -> dict[str, dict[str, int]]:
    """{part: {element type: bytes}} of the initialisers."""
    table: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for tensor in model.graph.initializer:
        table[part_of(tensor.name)][TensorProto.DataType.Name(tensor.data_type).lower()] += tensor_bytes(tensor)
    return {part: dict(table[part]) for part in PARTS if part in table}
