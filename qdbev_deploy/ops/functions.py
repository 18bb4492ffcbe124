"""The BEV ops as ONNX functions of standard ops: with them in the file, any runtime runs it without a custom library.

The bodies read the node's attributes; only the number of levels and of cameras is their structure. They use ops whose
form has been the same since opset 17, so that one body serves every target, and repeat the arithmetic of
`deform_attn.py` step by step, so that both round alike.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from onnx import FunctionProto, NodeProto, TensorProto, helper

from qdbev_deploy.contract import OP_DOMAIN, OPS, OpSchema
from qdbev_deploy.ops.constants import CLAMP_HIGH, CLAMP_LOW, EPSILON, OUTSIDE

Operand = str | float | int | Sequence[int] | Sequence[float]


class _Body:
    """Collects the nodes of a function; calling it adds one and gives back the name of its output."""

    def __init__(self, schema: OpSchema) -> None:
        self.schema = schema
        self.nodes: list[NodeProto] = []
        self._constants: dict[object, str] = {}

    def _name(self) -> str:
        return f"t{len(self.nodes)}"

    def _constant(self, **attribute: Any) -> str:
        key = repr(attribute)
        if key not in self._constants:
            name = self._constants[key] = self._name()
            self.nodes.append(helper.make_node("Constant", [], [name], **attribute))
        return self._constants[key]

    def _operand(self, value: Operand) -> str:
        if isinstance(value, str):
            return value
        # As tensors: not every tool keeps the type of the shorter attributes (value_float, value_ints).
        numbers = [value] if isinstance(value, (int, float)) else list(value)
        kind = TensorProto.INT64 if isinstance(numbers[0], int) else TensorProto.FLOAT
        shape = [] if isinstance(value, (int, float)) else [len(numbers)]
        return self._constant(value=helper.make_tensor("value", kind, shape, numbers))

    def attribute(self, name: str) -> str:
        """The node's attribute of that name as a tensor."""
        key = ("attribute", name)
        if key not in self._constants:
            kind = self.schema.attributes[name]
            node = helper.make_node("Constant", [], [self._name()])
            reference = node.attribute.add()
            reference.name, reference.ref_attr_name = f"value_{kind}", name
            reference.type = helper.make_attribute("", [0] if kind == "ints" else [0.0]).type
            if kind in ("int", "float"):
                reference.type = helper.make_attribute("", 0 if kind == "int" else 0.0).type
            self._constants[key] = node.output[0]
            self.nodes.append(node)
        return self._constants[key]

    def outputs(self, op_type: str, count: int, *inputs: Operand, **attributes: Any) -> list[str]:
        operands = [self._operand(value) for value in inputs]
        names = [f"{self._name()}_{index}" for index in range(count)]
        self.nodes.append(helper.make_node(op_type, operands, names, **attributes))
        return names

    def __call__(self, op_type: str, *inputs: Operand, **attributes: Any) -> str:
        return self.outputs(op_type, 1, *inputs, **attributes)[0]

    def to_float(self, tensor: str) -> str:
        return self("Cast", tensor, to=TensorProto.FLOAT)

    def pick(self, tensor: str, index: int, axis: int) -> str:
        """tensor[index] along the axis, which goes."""
        return self("Gather", tensor, index, axis=axis)

    def function(self, output: str, opset: int) -> FunctionProto:
        self.nodes.append(helper.make_node("Identity", [output], ["output"]))
        for index, node in enumerate(self.nodes):  # ONNX Runtime before 1.22 fuses nameless ones into nodes of one name
            node.name = f"{node.op_type}_{index}"
        return helper.make_function(
            OP_DOMAIN,
            self.schema.name,
            list(self.schema.inputs),
            ["output"],
            self.nodes,
            [helper.make_opsetid("", opset)],
            attributes=list(self.schema.attributes),
            doc_string=self.schema.does,
        )


def _level_sizes(body: _Body) -> str:
    """(h, w) of each level.  # [L, 2]"""
    return body("Reshape", body.attribute("spatial_shapes"), [-1, 2])


def _level_maps(body: _Body, value: str, level_hw: str, levels: int) -> list[str]:
    """value [N, S, H, D] -> one [N, H, D, h, w] a level, float whatever it was."""
    planes = body("Transpose", body.to_float(value), perm=[0, 2, 3, 1])  # [N, H, D, S]
    areas = body("Mul", body.pick(level_hw, 0, 1), body.pick(level_hw, 1, 1))
    parts = body.outputs("Split", levels, planes, areas, axis=-1)
    return [
        body("Reshape", part, body("Concat", [0, 0, 0], body.pick(level_hw, level, 0), axis=0))
        for level, part in enumerate(parts)
    ]


def _level_xy(body: _Body, level_hw: str) -> str:
    """Sizes as (w, h), what an offset in pixels is divided by.  # [L, 1, 2]"""
    size = body("Concat", body("Gather", level_hw, [1], axis=1), body("Gather", level_hw, [0], axis=1), axis=1)
    return body.to_float(body("Unsqueeze", size, [1]))


def _inside(body: _Body, grid: str) -> str:
    """What lies beyond -3..3 is outside the map whatever its size, and so is a NaN.

    With both clamped, no runtime is ever asked to turn such a coordinate into an integer.
    """
    return body("Clip", body("Where", body("IsNaN", grid), OUTSIDE, grid), -OUTSIDE, OUTSIDE)


def _sample(body: _Body, maps: str, locations: str, weights: str) -> str:
    """Weighted sum of bilinear samples: maps [N, D, h, w], locations [N, Q, P, 2], weights [N, Q, P] -> [N, D, Q]."""
    grid = _inside(body, body("Sub", body("Mul", locations, 2.0), 1.0))
    samples = body("GridSample", maps, grid, padding_mode="zeros", align_corners=0)  # bilinear under any opset's name
    sums = body("ReduceSum", body("Mul", samples, body("Unsqueeze", weights, [1])), [-1], keepdims=0)
    # ONNX Runtime does not drop the axis where the tensor is empty, and a camera may see nothing; this drops it then.
    return body("Reshape", sums, [0, 0, 0])


def _rescaled(body: _Body, output: str) -> str:
    """int8 values were summed as integers; one multiplication gives them their unit back."""
    scale = body.attribute("value_scale")
    return body("Mul", output, body("Where", body("Greater", scale, 0.0), scale, 1.0))


def _merge_heads(body: _Body, tensor: str) -> str:
    """[N, H, D, Q] -> [N, Q, H*D]"""
    return body("Reshape", body("Transpose", tensor, perm=[0, 3, 1, 2]), [0, 0, -1])


def _fold_batch(body: _Body, tensor: str, rank: int) -> str:
    """[N, H, ...] of that rank -> [N*H, ...]"""
    return body("Reshape", tensor, body("Concat", [-1], body("Shape", tensor, start=2, end=rank), axis=0))


def _ms_deform_attn(levels: int, _cameras: int) -> tuple[_Body, str]:
    body = _Body(OPS["MSDeformAttn"])
    level_hw = _level_sizes(body)
    maps = _level_maps(body, "value", level_hw, levels)
    shape = body("Shape", "sampling_offsets", start=0, end=5)
    weights = body("Reshape", body("Softmax", "attention_logits", axis=-1), shape)  # [B, Q, H, L, P]
    moves = body("Div", "sampling_offsets", _level_xy(body, level_hw))  # [B, Q, H, L, P, 2]
    references = body("Unsqueeze", "reference_points", [2, 3])  # [B, Q, 1, 1, 2]
    total = ""
    for level in range(levels):
        locations = body("Add", references, body.pick(moves, level, 3))  # [B, Q, H, P, 2]
        locations = _fold_batch(body, body("Transpose", locations, perm=[0, 2, 1, 3, 4]), 5)
        weight = _fold_batch(body, body("Transpose", body.pick(weights, level, 3), perm=[0, 2, 1, 3]), 4)
        part = _sample(body, _fold_batch(body, maps[level], 5), locations, weight)  # [B*H, D, Q]
        total = body("Add", total, part) if total else part
    heads = body("Concat", [-1], body("Shape", "sampling_offsets", start=2, end=3), [0], axis=0)
    return body, _rescaled(body, _merge_heads(body, _split_batch(body, total, heads)))


def _split_batch(body: _Body, tensor: str, heads: str) -> str:
    """[N*H, D, Q] -> [N, H, D, Q], where `heads` is the tensor (-1, H, 0)."""
    leading = body("Slice", heads, [0], [2], [0])
    return body("Reshape", tensor, body("Concat", leading, body("Shape", tensor, start=1, end=3), axis=0))


def _temporal_self_attn(_levels: int, _cameras: int) -> tuple[_Body, str]:
    body = _Body(OPS["TemporalSelfAttn"])
    height, width = (body("Reshape", body.attribute(name), [1]) for name in ("bev_h", "bev_w"))
    planes = body("Transpose", body.to_float("value"), perm=[0, 2, 3, 1])  # [2, H, D, S]
    maps = body("Reshape", planes, body("Concat", [0, 0, 0], height, width, axis=0))
    weights = body("Transpose", body("Softmax", "attention_logits", axis=-1), perm=[2, 1, 0, 3])  # [2, H, Q, P]
    size = body.to_float(body("Concat", width, height, axis=0))
    moves = body("Div", "sampling_offsets", size)
    moves = body("Transpose", moves, perm=[2, 1, 0, 3, 4])  # [2, H, Q, P, 2]
    locations = body("Add", body("Unsqueeze", "reference_points", [1, 3]), moves)
    sums = _sample(body, _fold_batch(body, maps, 5), _fold_batch(body, locations, 5), _fold_batch(body, weights, 4))
    both = body("Reshape", sums, body("Concat", [2, -1], body("Shape", sums, start=1, end=3), axis=0))  # [2, H, D, Q]
    mean = body("Mul", body("ReduceSum", both, [0], keepdims=1), 0.5)
    merged = body("Squeeze", _merge_heads(body, mean), [0])
    return body, _rescaled(body, merged)


def _project(body: _Body) -> tuple[str, str]:
    """`projection.project_pillars`: uv [N, Q, Z, 2], clamped, and which camera sees which query [N, Q]."""
    pc_range = body.attribute("pc_range")

    def metres(cells: str, axis: int) -> str:
        count = body.attribute(cells)
        centers = body("Add", body.to_float(body("Range", 0, count, 1)), 0.5)
        low, high = body.pick(pc_range, axis, 0), body.pick(pc_range, axis + 3, 0)
        return body("Add", body("Mul", body("Div", centers, body.to_float(count)), body("Sub", high, low)), low)

    grid = body("Concat", body("Reshape", body.attribute("bev_h"), [1]), body("Reshape", body.attribute("bev_w"), [1]),
                axis=0)  # fmt: skip
    x = body("Reshape", body("Expand", body("Unsqueeze", metres("bev_w", 0), [0]), grid), [-1, 1])  # [Q, 1]
    y = body("Reshape", body("Expand", body("Unsqueeze", metres("bev_h", 1), [1]), grid), [-1, 1])
    z = body.attribute("z_anchors")  # [Z]
    columns = [body("Unsqueeze", body.pick("lidar2img", column, 2), [2, 3]) for column in range(4)]  # [N, 4, 1, 1]
    camera = body("Add", body("Mul", columns[0], x), body("Mul", columns[1], y))
    camera = body("Add", body("Add", camera, body("Mul", columns[2], z)), columns[3])  # [N, 4, Q, Z]
    depth = body.pick(camera, 2, 1)  # [N, Q, Z]
    size = [body.to_float(body.attribute(name)) for name in ("image_w", "image_h")]
    far = body("Max", depth, EPSILON)
    visible, uv = body("Greater", depth, EPSILON), []
    for axis in range(2):
        place = body("Div", body("Div", body.pick(camera, axis, 1), far), size[axis])
        visible = body("And", visible, body("And", body("Greater", place, 0.0), body("Less", place, 1.0)))
        uv.append(body("Unsqueeze", body("Clip", place, CLAMP_LOW, CLAMP_HIGH), [-1]))
    seen = body("Greater", body("ReduceSum", body.to_float(visible), [-1], keepdims=0), 0.0)
    return body("Concat", *uv, axis=-1), seen


def _spatial_cross_attn(levels: int, cameras: int) -> tuple[_Body, str]:
    """Each camera gathers for the queries it sees: how many they are is decided inside, the outer shapes are fixed."""
    body = _Body(OPS["SpatialCrossAttn"])
    level_hw = _level_sizes(body)
    maps = _level_maps(body, "value", level_hw, levels)
    uv, seen = _project(body)
    # The anchor varies fastest over the points: point p hangs on anchor p % Z.
    points = body("Shape", "sampling_offsets", start=3, end=4)
    repeats = body("Div", points, body("Shape", uv, start=2, end=3))
    uv = body("Tile", uv, body("Concat", [1, 1], repeats, [1], axis=0))  # [N, Q, P, 2]
    shape = body("Shape", "sampling_offsets", start=0, end=4)
    weights = body("Reshape", body("Softmax", "attention_logits", axis=-1), shape)  # [Q, H, L, P]
    weights = body("Transpose", weights, perm=[0, 2, 1, 3])  # [Q, L, H, P]
    moves = body("Div", "sampling_offsets", _level_xy(body, level_hw))  # [Q, H, L, P, 2]
    moves = body("Transpose", moves, perm=[0, 2, 1, 3, 4])  # [Q, L, H, P, 2]
    queries = body("Shape", "sampling_offsets", start=0, end=1)
    channels = body("Mul", body("Shape", "value", start=2, end=3), body("Shape", "value", start=3, end=4))
    output = body("Expand", 0.0, body("Concat", queries, channels, axis=0))  # [Q, H*D]
    for camera in range(cameras):
        index = body("NonZero", body.pick(seen, camera, 0))  # [1, q]
        rows = body("Squeeze", index, [0])  # [q]
        references = body("Unsqueeze", body("Gather", body.pick(uv, camera, 0), rows), [1, 2])  # [q, 1, 1, P, 2]
        locations = body("Add", references, body("Gather", moves, rows))  # [q, L, H, P, 2]
        locations = body("Transpose", locations, perm=[1, 2, 0, 3, 4])  # [L, H, q, P, 2]
        weight = body("Transpose", body("Gather", weights, rows), perm=[1, 2, 0, 3])  # [L, H, q, P]
        total = ""
        for level in range(levels):
            part = _sample(
                body, body.pick(maps[level], camera, 0), body.pick(locations, level, 0), body.pick(weight, level, 0)
            )  # [H, D, q]
            total = body("Add", total, part) if total else part
        # Within a camera no query stands twice, so that a plain scatter adds without a race.
        part = body("Reshape", body("Transpose", total, perm=[2, 0, 1]), body("Concat", [-1], channels, axis=0))
        sums = body("Add", body("Gather", output, rows), part)
        output = body("ScatterND", output, body("Transpose", index, perm=[1, 0]), sums)
    views = body("Max", body("ReduceSum", body.to_float(seen), [0], keepdims=0), 1.0)
    return body, _rescaled(body, body("Div", output, body("Unsqueeze", views, [1])))


def _modulated_deform_sample(_levels: int, _cameras: int) -> tuple[_Body, str]:
    body = _Body(OPS["ModulatedDeformSample"])
    out_hw = body("Shape", "offset", start=2, end=4)
    kernel_width = body.pick(body.attribute("kernel"), 1, 0)
    taps = body("Range", 0, body("Squeeze", body("Shape", "mask", start=1, end=2), [0]), 1)  # [K]
    tap_yx = (body("Div", taps, kernel_width), body("Mod", taps, kernel_width))
    offsets = body("Reshape", "offset", body("Concat", [0, -1, 2], out_hw, axis=0))  # [B, K, 2, h, w]
    places = []
    for axis, tap in enumerate(tap_yx):
        stride, padding, dilation = (
            body.pick(body.attribute(name), axis, 0) for name in ("stride", "padding", "dilation")
        )
        steps = body("Range", 0, body.pick(out_hw, axis, 0), 1)
        start = body("Sub", body("Mul", steps, stride), padding)
        start = body("Unsqueeze", start, [0, 2] if axis == 0 else [0, 1])
        start = body("Add", start, body("Unsqueeze", body("Mul", tap, dilation), [1, 2]))
        place = body("Add", body.to_float(start), body.pick(offsets, axis, 2))  # [B, K, h, w] in pixels
        extent = body.to_float(body("Shape", "x", start=2 + axis, end=3 + axis))
        place = body("Sub", body("Div", body("Add", body("Mul", place, 2.0), 1.0), extent), 1.0)
        places.append(body("Unsqueeze", place, [-1]))
    grid = body("Concat", places[1], places[0], axis=-1)  # x, y
    width = body("Slice", out_hw, [1], [2], [0])
    grid = body("Reshape", grid, body("Concat", [0, -1], width, [2], axis=0))  # [B, K*h, w, 2]
    samples = body("GridSample", body.to_float("x"), _inside(body, grid), padding_mode="zeros", align_corners=0)
    samples = body("Reshape", samples, body("Concat", [0, 0, -1], out_hw, axis=0))  # [B, C, K, h, w]
    columns = body("Mul", samples, body("Unsqueeze", "mask", [1]))
    return body, _rescaled(body, body("Reshape", columns, body("Concat", [0, -1], out_hw, axis=0)))


_BUILDERS: dict[str, Callable[[int, int], tuple[_Body, str]]] = {
    "MSDeformAttn": _ms_deform_attn,
    "TemporalSelfAttn": _temporal_self_attn,
    "SpatialCrossAttn": _spatial_cross_attn,
    "ModulatedDeformSample": _modulated_deform_sample,
}


def op_function(name: str, opset: int, *, levels: int = 1, cameras: int = 6) -> FunctionProto:
    """The function of a BEV op under that opset of the standard domain, for so many feature levels and cameras."""
    body, output = _BUILDERS[name](levels, cameras)
    return body.function(output, opset)
