"""Each rule finds the node that breaks it, and nothing where none does; costs are those one can count by hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from qdbev_deploy.check import check_onnx
from qdbev_deploy.check.cost import activation_peak_bytes, coverage, node_costs, roofline
from qdbev_deploy.check.devices import GPU_CHOICES, Device, device_named
from qdbev_deploy.check.rules import Finding, opset
from qdbev_deploy.errors import QdbevError
from qdbev_deploy.graph.files import write_onnx
from qdbev_deploy.graph.index import Graph
from qdbev_deploy.graph.targets import TARGETS
from tests.check.test_lowering import graph_of, int8_conv


def findings(model: onnx.ModelProto, folder: Path, target: str = "trt10.3") -> list[Finding]:
    model = onnx.ModelProto.FromString(model.SerializeToString())
    write_onnx(model, folder / "m.onnx")
    return check_onnx(folder / "m.onnx", target).findings


def test_a_good_graph_breaks_nothing(tmp_path: Path) -> None:
    for target in ("trt8.6", "trt10.3", "trt11", "ort"):
        assert findings(int8_conv(), tmp_path, target) == []


def _set(name: str, array: np.ndarray) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        (tensor,) = [item for item in model.graph.initializer if item.name == name]
        tensor.CopyFrom(numpy_helper.from_array(array, name))

    return change


def _drop_zero_point(model: onnx.ModelProto) -> None:
    """What a QuantizeLinear without one makes is uint8."""
    for node in model.graph.node[:2]:
        del node.input[2]


def _unknown_integers(model: onnx.ModelProto) -> None:
    _foreign_domain(model)
    model.graph.node.append(helper.make_node("DequantizeLinear", ["thing", "s"], ["d"], name="bare"))


def _other_scale(model: onnx.ModelProto) -> None:
    model.graph.initializer.append(numpy_helper.from_array(np.float32(0.7), "other"))
    model.graph.node[1].input[1] = "other"


def _other_scale_behind_views(model: onnx.ModelProto) -> None:
    _other_scale(model)
    model.graph.node.insert(1, helper.make_node("Identity", ["q"], ["seen"]))
    model.graph.node[2].input[0] = "seen"


def _sixteen_bits(model: onnx.ModelProto) -> None:
    model.opset_import[0].version = 21
    _set("z", np.int16(0))(model)


def _branch(model: onnx.ModelProto) -> None:
    """An If with a pair in one branch."""
    (out,) = model.graph.output
    model.graph.node[-1].output[0] = "convolved"
    pair = [
        helper.make_node("QuantizeLinear", ["convolved", "s", "z"], ["inner.q"]),
        helper.make_node("DequantizeLinear", ["inner.q", "s", "z"], ["then.out"]),
    ]
    then, other = (helper.make_tensor_value_info(f"{word}.out", TensorProto.FLOAT, None) for word in ("then", "else"))
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "condition"))
    model.graph.node.append(
        helper.make_node(
            "If", ["condition"], [out.name], name="branch",
            then_branch=helper.make_graph(pair, "then", [], [then]),
            else_branch=helper.make_graph(
                [helper.make_node("Det", ["convolved"], ["else.out"], name="below")], "else", [], [other]
            ),
        )
    )  # fmt: skip


def _uint8(model: onnx.ModelProto) -> None:
    _set("z", np.array(7, np.uint8))(model)


def _int8_clip(model: onnx.ModelProto) -> None:
    model.graph.initializer.append(numpy_helper.from_array(np.int8(31), "high"))
    model.graph.node.insert(1, helper.make_node("Clip", ["q", "", "high"], ["clipped"], name="clip"))
    model.graph.node[2].input[0] = "clipped"
    # Others read the unclipped integers: no Clip before Q would do for both.
    model.graph.node.append(helper.make_node("DequantizeLinear", ["q", "s", "z"], ["whole"], name="whole"))
    model.graph.output.append(helper.make_tensor_value_info("whole", TensorProto.FLOAT, [1, 3, 5, 5]))


def _computed_scale(model: onnx.ModelProto) -> None:
    model.graph.node.insert(0, helper.make_node("ReduceMax", ["x"], ["computed"], keepdims=0))
    model.graph.node[1].input[1] = "computed"


def _float_activation(model: onnx.ModelProto) -> None:
    model.graph.node[3].input[0] = "x"


def _qlinear(model: onnx.ModelProto) -> None:
    model.graph.node.insert(0, helper.make_node("DynamicQuantizeLinear", ["x"], ["dynamic", "a", "b"], name="dynamic"))


def _unknown_op(model: onnx.ModelProto) -> None:
    model.graph.node.insert(0, helper.make_node("Det", ["x"], ["determinant"], name="det"))


def _foreign_domain(model: onnx.ModelProto) -> None:
    model.opset_import.append(helper.make_opsetid("other", 1))
    model.graph.node.insert(0, helper.make_node("Thing", ["x"], ["thing"], name="thing", domain="other"))


def _dynamic_shape(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "batch"


def _double(model: onnx.ModelProto) -> None:
    model.graph.initializer.append(numpy_helper.from_array(np.zeros(3), "double"))


@pytest.mark.parametrize(
    ("change", "rule", "node"),
    [
        (_drop_zero_point, "uint8", "QuantizeLinear_q"),
        (_unknown_integers, "zero-point-missing", "bare"),
        (_sixteen_bits, "integer-type", "QuantizeLinear_q"),
        (_other_scale, "scale-mismatch", "DequantizeLinear_dq"),
        (_other_scale_behind_views, "scale-mismatch", "DequantizeLinear_dq"),
        (_branch, "subgraph", "branch"),
        (_branch, "unsupported-op", "below"),
        (_uint8, "uint8", "QuantizeLinear_q"),
        (_set("z", np.array(3, np.int8)), "zero-point", "QuantizeLinear_q"),
        (_set("s", np.float32(0.0)), "scale", "QuantizeLinear_q"),
        (_set("s", np.float32(np.inf)), "scale", "QuantizeLinear_q"),
        (_set("w.scale", np.array([0.1, -0.1, 0.1, 0.1], np.float32)), "scale", "DequantizeLinear_w"),
        (_set("s", np.array([0.1, 0.2, 0.3], np.float32)), "per-channel-activation", "QuantizeLinear_q"),
        (_computed_scale, "dynamic-scale", "QuantizeLinear_q"),
        (_int8_clip, "int8-clip", "clip"),
        (_float_activation, "weighted-op", "Conv_out"),
        (_qlinear, "integer-op", "dynamic"),
        (_unknown_op, "unsupported-op", "det"),
        (_foreign_domain, "unsupported-op", "thing"),
        (_dynamic_shape, "static-shapes", "x"),
        (_double, "element-type", "double"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_broken_rule_names_its_node(
    change: Callable[[onnx.ModelProto], None], rule: str, node: str, tmp_path: Path
) -> None:
    model = int8_conv()
    change(model)
    found = findings(model, tmp_path)
    assert (rule, node) in [(finding.rule, finding.node) for finding in found]
    assert all(finding.says and not finding.says.endswith(".") for finding in found)


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        (_set("s", np.float32(np.nan)), "scale"),
        (_computed_scale, "dynamic-scale"),
        (_set("s", np.array([0.1, 0.2, 0.3], np.float32)), "per-channel-activation"),
        (_other_scale, "scale-mismatch"),
        (_branch, "subgraph"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_scales_are_held_to_the_rules_for_every_target(
    change: Callable[[onnx.ModelProto], None], rule: str, tmp_path: Path
) -> None:
    model = int8_conv()
    change(model)
    for target in TARGETS:
        assert rule in {finding.rule for finding in findings(model, tmp_path, target)}


@pytest.mark.parametrize(("target", "newest"), [("trt8.6", 17), ("trt10.3", 20), ("trt11", 24), ("ort", 23)])
def test_each_target_knows_its_opsets(target: str, newest: int) -> None:
    for version in (newest, newest + 1):
        found = list(opset(Graph(int8_conv(version)), TARGETS[target]))
        assert [item.rule for item in found] == ([] if version == newest else ["opset"])


def test_a_quantised_convolution_wants_its_shortcut_quantised(tmp_path: Path) -> None:
    model = int8_conv()
    model.graph.node[3].output[0] = "y"
    model.graph.input.append(helper.make_tensor_value_info("shortcut", TensorProto.FLOAT, [1, 4, 3, 3]))
    model.graph.node.append(helper.make_node("Add", ["y", "shortcut"], ["out"], name="add"))
    assert [(item.rule, item.node, item.level) for item in findings(model, tmp_path)] == [
        ("residual", "add", "warning")
    ]


def test_a_plugin_wants_integers_rather_than_a_pair(tmp_path: Path) -> None:
    def attention(scale: float, value: str) -> onnx.ModelProto:
        model = graph_of(
            [
                helper.make_node("QuantizeLinear", ["v", "s", "z"], ["q"]),
                helper.make_node("DequantizeLinear", ["q", "s", "z"], ["dq"]),
                helper.make_node(
                    "MSDeformAttn", [value, "r", "o", "l"], ["out"], domain="qdbev", name="attention",
                    spatial_shapes=[2, 2], value_scale=scale,
                ),
            ],
            {"v": (1, 4, 1, 8), "r": (1, 3, 2), "o": (1, 3, 1, 1, 4, 2), "l": (1, 3, 1, 4)},
            {"s": np.float32(0.1), "z": np.int8(0)},
        )  # fmt: skip
        model.opset_import.append(helper.make_opsetid("qdbev", 1))
        model.graph.output[0].CopyFrom(helper.make_tensor_value_info("out", TensorProto.FLOAT, [1, 3, 8]))
        return model

    assert [item.rule for item in findings(attention(0.0, "dq"), tmp_path)] == ["plugin-value"]
    assert [item.rule for item in findings(attention(0.0, "q"), tmp_path)] == ["plugin-value"]
    assert [item.rule for item in findings(attention(0.1, "v"), tmp_path)] == ["plugin-value"]
    assert [item.rule for item in findings(attention(0.1, "q"), tmp_path)] == []
    assert [item.rule for item in findings(attention(0.2, "q"), tmp_path)] == ["scale-mismatch"]
    assert [item.rule for item in findings(attention(0.1, "q"), tmp_path, "ort")] == ["missing-function"]


def shaped(model: onnx.ModelProto) -> Graph:
    return Graph(onnx.shape_inference.infer_shapes(model))


def test_costs_are_countable_by_hand() -> None:
    costs, unknown = node_costs(shaped(int8_conv()))
    assert unknown == []
    (conv,) = costs
    assert conv.macs == 4 * 3 * 3 * (3 * 3 * 3)
    assert conv.int8
    assert conv.moved_bytes == 75 + 4 * 27 + 2 * 36  # int8 in, int8 weights, FP16 out
    assert coverage(costs)["all"] == {"macs": 972, "int8_macs": 972, "int8_share": 1.0}
    model = int8_conv()
    _float_activation(model)
    assert coverage(node_costs(shaped(model))[0])["all"]["int8_share"] == 0.0


def test_a_product_counts_its_inner_axis() -> None:
    model = graph_of(
        [helper.make_node("MatMul", ["x", "w"], ["y"]), helper.make_node("Gemm", ["y2", "w2"], ["out"], transB=1)],
        {"x": (2, 5, 7), "y2": (4, 3)}, {"w": np.zeros((7, 6), np.float32), "w2": np.zeros((8, 3), np.float32)},
    )  # fmt: skip
    assert [cost.macs for cost in node_costs(shaped(model))[0]] == [2 * 5 * 6 * 7, 4 * 8 * 3]


def test_activation_peak_is_what_lives_at_once() -> None:
    model = graph_of(
        [
            helper.make_node("Relu", ["x"], ["a"]),  # x and a live
            helper.make_node("Reshape", ["a", "flat"], ["b"]),  # a view
            helper.make_node("Neg", ["b"], ["c"]),  # a's memory and c
            helper.make_node("Abs", ["c"], ["out"]),
        ],
        {"x": (10, 100)}, {"flat": np.array([1000])},
    )  # fmt: skip
    assert activation_peak_bytes(shaped(model)) == 2 * 2 * 1000  # two tensors of FP16


def test_the_roofline_takes_the_longer_of_arithmetic_and_traffic() -> None:
    costs, _ = node_costs(shaped(int8_conv()))
    slow_memory = roofline(costs, Device("", 0, int8_tops=1e6, fp16_tflops=1.0, memory_gb_s=1.0))
    assert slow_memory.total_ms == pytest.approx((75 + 108 + 72) / 1e6)
    assert slow_memory.bound_by_memory == 1.0
    slow_arithmetic = roofline(costs, Device("", 0, int8_tops=1e-3, fp16_tflops=1.0, memory_gb_s=1e9))
    assert slow_arithmetic.total_ms == pytest.approx(2 * 972 / 1e6)
    assert slow_arithmetic.bound_by_memory == 0.0


def test_every_gpu_that_is_offered_is_known() -> None:
    assert {device_named(name).sm for name in GPU_CHOICES} == {75, 80, 86, 87, 89, 90, 100, 110, 120}
    with pytest.raises(QdbevError, match="unknown GPU 'sm_61'"):
        device_named("sm_61")
