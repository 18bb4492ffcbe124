"""Each rule finds the node that breaks it, and nothing where none does; costs are those one can count by hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from qdbev_deploy.check import check_onnx, rules
from qdbev_deploy.check.cost import ASSUMPTIONS, activation_peak_bytes, coverage, node_costs, roofline
from qdbev_deploy.check.devices import GPU_CHOICES, Device, device_named
from qdbev_deploy.check.rules import Finding, ops, opset
from qdbev_deploy.errors import QdbevError
from qdbev_deploy.graph.files import write_onnx
from qdbev_deploy.graph.index import Graph
from qdbev_deploy.graph.quantised import pack_int4, weights_in_float
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


def test_every_gpu_has_its_vendors_peaks() -> None:
    """Dense peaks as the vendors print them: TOPS of int8, TFLOPS of FP16, GB/s."""
    printed = {
        "orin": (85.0, 42.5, 204.8),  # of 275 TOPS, 105 are the DLAs' and the rest is counted sparse
        "thor": (517.0, 258.5, 273.0),
        "rtx3090": (284.0, 142.0, 936.0),
        "h200": (1979.0, 989.5, 4800.0),
    }
    for name, peaks in printed.items():
        device = device_named(name)
        assert (device.int8_tops, device.fp16_tflops, device.memory_gb_s) == peaks


@pytest.mark.parametrize("name", ["sm_²", "sm_", "sm_61", "SM_86", "sm_086", "sm_" + "9" * 5000, ""])
def test_a_gpu_that_is_none(name: str) -> None:
    with pytest.raises(QdbevError, match="unknown GPU"):
        device_named(name)


def test_operator_lists_are_those_that_were_read() -> None:
    assert TARGETS["trt8.6"].ops is not None
    assert len(TARGETS["trt8.6"].ops) == 145
    for name in ("trt10.3", "trt11"):
        assert TARGETS[name].ops == TARGETS["trt8.6"].ops | {"CastLike", "DeformConv", "Gelu", "Hardmax", "Mish"}


def test_onnx_runtime_runs_what_onnx_defines(tmp_path: Path) -> None:
    model = int8_conv()
    _unknown_op(model)
    assert findings(model, tmp_path, "ort") == []
    node = helper.make_node("NotAnOp", ["x"], ["y"], name="strange")
    graph = Graph(graph_of([node], {"x": (2,)}, {}))
    assert [(item.rule, item.node) for item in ops(graph, TARGETS["ort"])] == [("unsupported-op", "strange")]


def test_nothing_stands_between_a_weight_and_its_user(tmp_path: Path) -> None:
    model = int8_conv()
    model.graph.node[3].input[1] = "seen"
    for op, broken in (("Identity", True), ("Transpose", False)):
        del model.graph.node[4:]
        model.graph.node.append(helper.make_node(op, ["w"], ["seen"], **({} if broken else {"perm": [0, 1, 2, 3]})))
        found = [(item.rule, item.node, item.level) for item in findings(model, tmp_path)]
        assert found == ([("weight-view", "Conv_out", "warning")] if broken else [])


def test_a_clip_of_stored_integers_is_part_of_a_weight(tmp_path: Path) -> None:
    """As Brevitas has it, with Q before or integers stored: ONNX Runtime runs it as it is."""
    model = int8_conv()
    model.graph.initializer.extend(
        numpy_helper.from_array(np.int8(bound), name) for name, bound in (("low", -7), ("high", 7))
    )
    model.graph.node[2].input[0] = "clipped"
    model.graph.node.append(helper.make_node("Clip", ["w.integers", "low", "high"], ["clipped"], name="clip"))
    assert findings(model, tmp_path, "ort") == []
    model.graph.initializer.append(numpy_helper.from_array(np.ones((4, 3, 3, 3), np.float32), "w.float"))
    model.graph.node[-1].input[0] = "w.quantised"
    model.graph.node.append(
        helper.make_node("QuantizeLinear", ["w.float", "w.scale", "w.zero"], ["w.quantised"], axis=0)
    )
    for target in TARGETS:
        assert findings(model, tmp_path, target) == []


def test_onnx_runtime_takes_a_scale_for_each_channel(tmp_path: Path) -> None:
    model = int8_conv()
    _set("s", np.array([0.1, 0.2, 0.3], np.float32))(model)
    _set("z", np.zeros(3, np.int8))(model)
    for target in TARGETS:
        levels = {item.level for item in findings(model, tmp_path, target) if item.rule == "per-channel-activation"}
        assert levels == {"warning" if target == "ort" else "error"}


def test_what_is_joined_with_a_constant_is_no_constant(tmp_path: Path) -> None:
    model = int8_conv()
    _set("s", np.array([0.1, 0.2, 0.3], np.float32))(model)
    model.graph.initializer.append(numpy_helper.from_array(np.zeros((1, 1, 5, 5), np.float32), "stored"))
    model.graph.initializer.append(numpy_helper.from_array(np.array([0, 0, 0, 0, 0, -1, 0, 0]), "cut"))
    model.graph.node[0].input[0] = "joined"
    model.graph.node.append(helper.make_node("Pad", ["x", "cut"], ["two"]))
    model.graph.node.append(helper.make_node("Concat", ["stored", "two"], ["joined"], axis=1))
    assert "per-channel-activation" in {item.rule for item in findings(model, tmp_path)}


def test_concats_of_concats_are_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = [
        node
        for level in range(12)
        for node in (
            helper.make_node("Concat", [f"t{level}", f"t{level}"], [f"c{level}"], axis=0),
            helper.make_node("Slice", [f"c{level}", "starts", "ends"], [f"t{level + 1}"]),
        )
    ]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("t0", TensorProto.FLOAT, [4])],
        [helper.make_tensor_value_info("t12", TensorProto.FLOAT, [4])],
        [numpy_helper.from_array(np.array([bound]), name) for name, bound in (("starts", 0), ("ends", 4))],
    )  # fmt: skip
    looks: list[str] = []
    real = Graph.is_constant
    monkeypatch.setattr(Graph, "is_constant", lambda self, name: looks.append(name) or real(self, name))
    concats: list[object] = []
    monkeypatch.setattr(rules, "_one_scale", lambda graph, makers: concats.append(makers) or True)
    found = Graph(helper.make_model(graph))
    assert rules.source(found, "t12") is None
    assert len(concats) == 12
    assert not rules.is_constant_chain(found, "t12")
    assert len(looks) < 40


@pytest.mark.parametrize(
    ("second", "scale", "quantised"),
    [("pair", 0.02, True), ("pair", 0.04, False), ("float", 0.02, False), ("constant", 0.02, False)],
)
def test_a_concat_of_pairs_is_int8_where_they_share_a_scale(
    second: str, scale: float, quantised: bool, tmp_path: Path
) -> None:
    makers = {
        "pair": [
            helper.make_node("QuantizeLinear", ["r", "s2", "z"], ["q2"]),
            helper.make_node("DequantizeLinear", ["q2", "s2", "z"], ["other"]),
        ],
        "float": [helper.make_node("Neg", ["r"], ["other"])],
        "constant": [helper.make_node("Identity", ["stored"], ["other"])],
    }
    model = graph_of(
        [
            helper.make_node("Relu", ["x"], ["r"]),
            helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
            helper.make_node("DequantizeLinear", ["q", "s", "z"], ["one"]),
            *makers[second],
            helper.make_node("Concat", ["one", "other"], ["joined"], axis=1, name="concat"),
            helper.make_node("Transpose", ["joined"], ["turned"], perm=[0, 1, 3, 2]),
            helper.make_node("DequantizeLinear", ["w", "ws", "wz"], ["dq"], axis=0),
            helper.make_node("Conv", ["turned", "dq"], ["out"], name="conv"),
        ],
        {"x": (1, 3, 5, 5)},
        {
            "s": np.float32(0.02), "s2": np.float32(scale), "z": np.int8(0), "w": np.ones((4, 6, 1, 1), np.int8),
            "ws": np.full(4, 0.1, np.float32), "wz": np.zeros(4, np.int8),
            "stored": np.zeros((1, 3, 5, 5), np.float32),
        },
    )  # fmt: skip
    found = [(item.rule, item.node, item.level) for item in findings(model, tmp_path)]
    assert found == ([] if quantised else [("weighted-op", "conv", "warning"), ("concat", "concat", "warning")])
    assert coverage(node_costs(shaped(model))[0])["all"]["int8_share"] == float(quantised)


def _attention() -> onnx.ModelProto:
    node = helper.make_node(
        "MSDeformAttn", ["v", "r", "o", "l"], ["out"], domain="qdbev", name="attention", spatial_shapes=[2, 2],
        value_scale=0.0,
    )  # fmt: skip
    model = graph_of([node], {"v": (1, 4, 1, 8), "r": (1, 3, 2), "o": (1, 3, 1, 1, 4, 2), "l": (1, 3, 1, 4)}, {})
    model.opset_import.append(helper.make_opsetid("qdbev", 1))
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("out", TensorProto.FLOAT, [1, 3, 8]))
    return model


def _no_such_op(model: onnx.ModelProto) -> None:
    model.graph.node[0].op_type = "NoSuchOp"


def _no_inputs(model: onnx.ModelProto) -> None:
    del model.graph.node[0].input[1:]


def _no_attributes(model: onnx.ModelProto) -> None:
    del model.graph.node[0].attribute[:]


def _other_attribute(model: onnx.ModelProto) -> None:
    model.graph.node[0].attribute.append(helper.make_attribute("levels", 3))


def _other_kind(model: onnx.ModelProto) -> None:
    del model.graph.node[0].attribute[:]
    model.graph.node[0].attribute.append(helper.make_attribute("spatial_shapes", [2, 2]))
    model.graph.node[0].attribute.append(helper.make_attribute("value_scale", 1))


def _reshaped(index: int, shape: list[int]) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        value = model.graph.input[index]
        value.CopyFrom(helper.make_tensor_value_info(value.name, TensorProto.FLOAT, shape))

    return change


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (_no_such_op, "NoSuchOp is no op of the domain 'qdbev'"),
        (_no_inputs, "1 inputs and 1 outputs: MSDeformAttn takes value, reference_points"),
        (_no_attributes, "attributes that are not there: spatial_shapes, value_scale"),
        (_other_attribute, "attributes that MSDeformAttn does not have: levels"),
        (_other_kind, "the attribute value_scale is not of the kind 'float'"),
        (_reshaped(1, [1, 3, 2, 1]), "reference_points has 4 axes, not 3"),
        (_reshaped(1, [1, 3, 3]), "reference_points has the shape [1, 3, 3], where 3 should be 2"),
        (_reshaped(2, [1, 5, 1, 1, 4, 2]), "where 5 should be Q = 3"),
        (_reshaped(3, [1, 3, 1, 5]), "where 5 should be L*P = 4"),
    ],
)
def test_nodes_of_our_domain_are_held_to_the_contract(
    change: Callable[[onnx.ModelProto], None], says: str, tmp_path: Path
) -> None:
    assert findings(_attention(), tmp_path) == []
    model = _attention()
    change(model)
    for target in TARGETS:
        found = [item for item in findings(model, tmp_path, target) if item.rule == "bev-op"]
        assert {item.node for item in found} == {"attention"}
        assert any(says in item.says for item in found)
        assert {item.level for item in found} == {"error"}


def test_a_file_without_ops_of_onnx(tmp_path: Path) -> None:
    node = helper.make_node("Thing", ["x"], ["out"], name="thing", domain="other")
    model = graph_of([node], {"x": (2,)}, {})
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("out", TensorProto.FLOAT, [2]))
    del model.opset_import[:]
    model.opset_import.append(helper.make_opsetid("other", 1))
    for target in TARGETS:
        assert [(item.rule, item.node) for item in findings(model, tmp_path, target)] == [("unsupported-op", "thing")]


def test_what_lowering_refuses_is_a_finding(tmp_path: Path) -> None:
    pool = helper.make_node("AveragePool", ["x"], ["out"], kernel_shape=[2, 2], dilations=[2, 2])
    model = graph_of([pool], {"x": (1, 4, 8, 8)}, {}, opset=19)
    assert "lowering" in {item.rule for item in findings(model, tmp_path, "trt8.6")}
    assert findings(model, tmp_path, "trt10.3") == []


def test_a_transposed_convolution_counts_a_kernel_for_each_number_that_goes_in() -> None:
    node = helper.make_node("ConvTranspose", ["x", "w"], ["out"], strides=[2, 2], kernel_shape=[2, 2])
    model = graph_of([node], {"x": (1, 4, 8, 8)}, {"w": np.zeros((4, 16, 2, 2), np.float32)})
    assert [cost.macs for cost in node_costs(shaped(model))[0]] == [4 * 8 * 8 * 16 * 2 * 2]


@pytest.mark.parametrize(
    ("equation", "shapes", "macs"),
    [
        ("nchw, oc -> nohw", [(1, 4, 8, 8), (6, 4)], 4 * 8 * 8 * 6),
        ("ij,jk", [(2, 3), (3, 5)], 2 * 3 * 5),
        ("ij->ji", [(2, 3)], 0),
        ("...ij,jk->...ik", [(2, 3), (3, 5)], None),
        ("i,i,i->i", [(2,), (2,), (2,)], None),
    ],
)
def test_an_einsum_counts_every_combination_of_its_indices(
    equation: str, shapes: list[tuple[int, ...]], macs: int | None
) -> None:
    inputs = {f"x{index}": shape for index, shape in enumerate(shapes)}
    model = graph_of([helper.make_node("Einsum", list(inputs), ["out"], equation=equation)], inputs, {})
    costs, unknown = node_costs(shaped(model))
    assert ([cost.macs for cost in costs], unknown) == (([macs], []) if macs is not None else ([], ["Einsum_out"]))


@pytest.mark.parametrize(
    ("dtype", "size"), [(np.float32, 2), (np.float16, 2), (np.float64, 2), (np.int8, 1), (np.int64, 8), (np.int32, 4)]
)
def test_a_stored_tensor_takes_what_its_type_takes(dtype: type, size: int) -> None:
    """Floats are read as FP16, and only they."""
    node = helper.make_node("Einsum", ["x", "w"], ["out"], equation="i,i->i")
    model = graph_of([node], {"x": (100,)}, {"w": np.ones(100, dtype)})
    (cost,) = node_costs(Graph(model))[0]
    assert cost.moved_bytes == 2 * 200 + 100 * size


def test_a_weight_takes_the_bytes_of_its_integers() -> None:
    """Two a byte where they are stored so; one where a QuantizeLinear makes them of floats, as TensorRT 8.6 has it."""
    packed, floats = int8_conv(opset=21), int8_conv()
    assert pack_int4(packed) == 1
    assert weights_in_float(floats) == 1
    for model, weights in ((packed, 2 * 27), (floats, 4 * 27)):
        (conv,) = node_costs(shaped(model))[0]
        assert conv.moved_bytes == 75 + weights + 2 * 36


def test_assumptions_are_what_is_counted() -> None:
    """Norms, pools and softmax pay for traffic, pointwise ops for nothing."""
    assert any(
        line.startswith("norms, pools, resizes and softmax pay for their memory traffic") for line in ASSUMPTIONS
    )
    assert any(line.startswith("pointwise ops, casts and Q/DQ are fused") for line in ASSUMPTIONS)
    model = graph_of(
        [
            helper.make_node("LayerNormalization", ["x", "w"], ["a"]),
            helper.make_node("Softmax", ["a"], ["b"]),
            helper.make_node("Relu", ["b"], ["c"]),
            helper.make_node("Add", ["c", "w"], ["d"]),
            helper.make_node("MaxPool", ["d"], ["out"], kernel_shape=[2, 2], strides=[2, 2]),
        ],
        {"x": (1, 4, 8, 8)}, {"w": np.ones(8, np.float32)},
    )  # fmt: skip
    costs, _ = node_costs(shaped(model))
    assert {cost.op: (cost.macs, cost.moved_bytes) for cost in costs} == {
        "LayerNormalization": (0, 2 * (256 + 8 + 256)), "Softmax": (0, 2 * (256 + 256)), "MaxPool": (0, 2 * (256 + 64)),
    }  # fmt: skip


_PAST = {
    "Transpose": ([], {}), "Reshape": (["shape"], {}), "MaxPool": ([], {"kernel_shape": [2, 2]}),
    "Relu": ([], {}), "AveragePool": ([], {"kernel_shape": [2, 2]}),
}  # fmt: skip


@pytest.mark.parametrize(
    ("reader", "opset", "kind", "warned"),
    [
        ("Transpose", 21, np.int8, True),
        ("Reshape", 22, np.int8, True),
        ("MaxPool", 21, np.int8, True),
        ("Relu", 21, np.int8, False),
        ("AveragePool", 21, np.int8, False),
        ("Transpose", 20, np.int8, False),
        ("Transpose", 21, np.uint8, False),
    ],
)
def test_what_onnx_runtimes_own_fusion_refuses(
    reader: str, opset: int, kind: type, warned: bool, tmp_path: Path
) -> None:
    extra, values = _PAST[reader]
    model = graph_of(
        [
            helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
            helper.make_node("DequantizeLinear", ["q", "s", "z"], ["dq"]),
            helper.make_node(reader, ["dq", *extra], ["moved"], **values),
            helper.make_node("Sin", ["moved"], ["out"]),
        ],
        {"x": (1, 2, 4, 6)}, {"s": np.float32(0.02), "z": kind(0), "shape": np.array([8, 6])}, opset,
    )  # fmt: skip
    found = [(item.rule, item.node, item.level) for item in findings(model, tmp_path, "ort")]
    assert found == ([("own-fusion", "DequantizeLinear_dq", "warning")] if warned else [])
    if not warned:  # where nothing is said, it opens as it is
        onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


@pytest.mark.parametrize(("shape", "warned"), [((2, 3, 6), True), ((3, 6), False)])
def test_onnx_runtimes_own_view_of_a_product_with_a_bias(shape: tuple[int, ...], warned: bool, tmp_path: Path) -> None:
    """It flattens the product's axes first, which is a view of its own."""
    model = graph_of(
        [
            helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
            helper.make_node("DequantizeLinear", ["q", "s", "z"], ["dq"]),
            helper.make_node("DequantizeLinear", ["w", "s", "z"], ["wd"]),
            helper.make_node("MatMul", ["dq", "wd"], ["product"]),
            helper.make_node("Add", ["product", "b"], ["out"]),
        ],
        {"x": shape},
        {
            "s": np.float32(0.02), "z": np.int8(0), "w": np.ones((6, 8), np.int8), "b": np.ones(8, np.float32),
        },
        21,
    )  # fmt: skip
    assert [item.rule for item in findings(model, tmp_path, "ort")] == (["own-fusion"] if warned else [])
    if not warned:
        onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
