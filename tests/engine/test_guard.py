"""The precision guard on layers made by hand: what fell back, what was folded, what nobody claims, what is allowed."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from qdbev_deploy.engine.guard import EMULATED, FOLDED, UNCLAIMED, Allowance, judge
from qdbev_deploy.engine.interface import Layer
from qdbev_deploy.errors import ExitCode, QdbevError


def quantised_model() -> onnx.ModelProto:
    """x -> Q/DQ -> Conv 'first' -> Conv 'second' (float) ; a product of constants 'stored'; a BEV op on integers."""
    nodes, stored = [], {"one": np.float32(0.1), "zero": np.int8(0)}
    for name in ("first", "second"):
        stored[f"{name}.integers"] = np.ones((4, 4, 1, 1), np.int8)
    stored["left"], stored["right"] = np.ones((3, 4), np.int8), np.ones((4, 5), np.int8)

    def dequantised(name: str) -> str:
        nodes.append(helper.make_node("DequantizeLinear", [name, "one", "zero"], [f"{name}/dq"], name=f"{name}/DQ"))
        return f"{name}/dq"

    def quantised(name: str) -> str:
        nodes.append(helper.make_node("QuantizeLinear", [name, "one", "zero"], [f"{name}/q"], name=f"{name}/Q"))
        return f"{name}/q"

    nodes.append(
        helper.make_node("Conv", [dequantised(quantised("x")), dequantised("first.integers")], ["y"], name="first")
    )
    nodes.append(helper.make_node("Conv", ["y", dequantised("second.integers")], ["z"], name="second"))
    nodes.append(helper.make_node("MatMul", [dequantised("left"), dequantised("right")], ["c"], name="stored"))
    nodes.append(helper.make_node(
        "MSDeformAttn", [quantised("z"), "places", "offsets", "logits"], ["b"], name="attention", domain="qdbev",
        spatial_shapes=[2, 2], value_scale=0.1,
    ))  # fmt: skip

    def value(name: str, *shape: int) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    graph = helper.make_graph(
        nodes, "test", [value("x", 1, 4, 8, 8), value("places", 1), value("offsets", 1), value("logits", 1)],
        [value("b", 1), value("c", 3, 5)],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in stored.items()],
        value_info=[value("y", 1, 4, 8, 8), value("z", 1, 4, 8, 8), value("left/dq", 3, 4)],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("qdbev", 1)])


def layers(**precisions: str) -> tuple[Layer, ...]:
    """Layers as a builder would report them; by default everything ran as asked."""
    ran = {"first": "int8", "second": "float16", "attention": "int8"} | precisions
    kinds = {"first": "CaskConvolution", "second": "CaskConvolution", "attention": "PluginV2 MSDeformAttn"}
    made = [
        Layer("fused " + name, kinds.get(name, "Gemm"), precision, (name,), time_ms=1.0)
        for name, precision in ran.items()
        if precision
    ]
    return (*made, Layer("reformat", "Reformat", "", ("first",), time_ms=0.5))


def test_all_as_asked() -> None:
    report = judge(quantised_model(), layers())
    assert report.passed
    report.require("report")
    assert {item.node: item.ran for item in report.asked} == {"first": "int8", "stored": FOLDED, "attention": "int8"}
    assert report.macs == {"int8": 1024, "float16": 1024, FOLDED: 60}
    assert report.time_ms == {"int8": 2.0, "float16": 1.0, "moves data": 0.5}
    told = report.to_dict()
    assert (told["asked_int8"], told["ran_int8"], told["folded"], told["fell_back"]) == (3, 2, 1, [])


@pytest.mark.parametrize(
    ("node", "ran", "is_told"),
    [
        ("first", "float16", "float16"),
        ("first", "float32", "float32"),
        ("first", "mixed", "mixed"),
        ("first", "", UNCLAIMED),  # its reformat alone says it was made from it
        ("attention", "float16", "float16"),
        ("attention", "", UNCLAIMED),
        ("stored", "float32", "float32"),  # constant, and yet it runs each frame, and not in int8
    ],
)
def test_what_fell_back_is_named(node: str, ran: str, is_told: str) -> None:
    report = judge(quantised_model(), layers(**{node: ran}))
    assert [(item.node, item.ran) for item in report.failures] == [(node, is_told)]
    with pytest.raises(QdbevError) as caught:
        report.require("a.guard.json")
    assert caught.value.exit_code == ExitCode.GUARD
    assert f"1 of 3 nodes that the file asks for in int8 did not run in it: {node} ({is_told})" in caught.value.found
    assert "a.guard.json" in caught.value.next_step


def test_half_of_a_node_in_float_is_no_int8() -> None:
    made = (*layers(), Layer("first, the rest", "CaskConvolution", "float16", ("first",)))
    assert [(item.node, item.ran) for item in judge(quantised_model(), made).failures] == [("first", "float16+int8")]


def test_a_cast_beside_a_product_does_not_speak_for_it() -> None:
    made = (*layers(), Layer("cast of first", "PointWise", "float16", ("first",)))
    assert judge(quantised_model(), made).passed


@pytest.mark.parametrize("precision", ["int32", "int64", "bool", ""])
def test_layers_that_count_and_copy_say_nothing_of_a_product(precision: str) -> None:
    made = (*layers(), Layer("indices of first", "Conv", precision, ("first",)))
    assert judge(quantised_model(), made).passed
    alone = (*layers(first=""), Layer("indices of first", "Conv", precision, ("first",)))
    assert [(item.node, item.ran) for item in judge(quantised_model(), alone).failures] == [("first", UNCLAIMED)]


def test_what_does_not_multiply_proves_no_int8() -> None:
    made = (*layers(first=""), Layer("quantizer of first", "kgen", "int8", ("first",)))
    assert [(item.node, item.ran) for item in judge(quantised_model(), made).failures] == [("first", "mixed")]


def test_a_kernels_name_tells_a_product() -> None:
    fused = Layer("fused", "fusion", "float16", ("first",), tactic="sm80_xmma_gemm_f16f16_f16f32")
    made = (*layers(first=""), fused, Layer("quantizer of first", "kgen", "int8", ("first",)))
    assert [(item.node, item.ran) for item in judge(quantised_model(), made).failures] == [("first", "float16")]


def test_exceptions_have_reasons_and_are_counted() -> None:
    fell = layers(first="float16", attention="float32")
    allowed = (Allowance("fir*", "three channels"), Allowance("never", "unused"))
    report = judge(quantised_model(), fell, allowed)
    assert [item.node for item in report.failures] == ["attention"]
    assert report.to_dict()["allowed"] == {"three channels": 1}
    assert report.to_dict()["unused_allowances"] == ["never"]
    by_layer = judge(quantised_model(), fell, (*allowed, Allowance("fused attention", "no kernel")))
    assert by_layer.passed
    emulated = judge(quantised_model(), fell, (allowed[0], EMULATED))
    assert emulated.passed
    assert sorted(emulated.to_dict()["allowed"].values()) == [1, 1]
    assert emulated.to_dict()["unused_allowances"] == []


@pytest.mark.parametrize("text", ["", "conv1", "conv1:", ":reason", "conv1:  "])
def test_an_exception_without_a_reason_is_refused(text: str) -> None:
    with pytest.raises(QdbevError) as caught:
        Allowance.parse(text)
    assert caught.value.exit_code == ExitCode.USAGE


def test_a_reason_may_hold_colons() -> None:
    assert Allowance.parse("conv*: see issue: 12") == Allowance("conv*", "see issue: 12")


def test_a_float_file_asks_for_nothing() -> None:
    model = quantised_model()
    del model.graph.node[:]
    model.graph.node.append(helper.make_node("Conv", ["x", "w"], ["b"], name="only"))
    model.graph.initializer.append(numpy_helper.from_array(np.ones((4, 4, 1, 1), np.float32), "w"))
    report = judge(model, (Layer("only", "Conv", "float32", ("only",)),))
    assert report.passed
    assert report.asked == ()
    assert report.time_ms is None
