"""Files as Brevitas and ModelOpt write them become ours: same numbers, our forms; what cannot is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import NodeProto, TensorProto, helper, numpy_helper

from qdbev_deploy.check import check_onnx
from qdbev_deploy.errors import QdbevError
from qdbev_deploy.graph.files import write_onnx
from qdbev_deploy.graph.index import Graph
from qdbev_deploy.graph.lowering import lower
from qdbev_deploy.graph.normalise import STEPS, normalise
from tests.check.test_lowering import copy_of, graph_of, run

RNG = np.random.default_rng(3)
TARGETS = ("trt8.6", "trt10.3", "trt11")


def constant(name: str, array: np.ndarray) -> NodeProto:
    return helper.make_node("Constant", [], [name], name=f"node of {name}", value=numpy_helper.from_array(array))


def quantiser(name: str, source: str, low: int, high: int, dtype: type = np.int8, zero: int = 0) -> list[NodeProto]:
    """An activation as Brevitas' QCDQ has it: Q, a Clip of integers, DQ, and its numbers in Constant nodes."""
    path = f"/{name}/act_quant/export_handler"
    return [
        constant(f"{path}/scale", np.float32(0.11)),
        constant(f"{path}/zero", dtype(zero)),
        constant(f"{path}/low", dtype(low)),
        constant(f"{path}/high", dtype(high)),
        helper.make_node(
            "QuantizeLinear", [source, f"{path}/scale", f"{path}/zero"], [f"{name}/q"], name=f"{path}/QuantizeLinear"
        ),
        helper.make_node("Clip", [f"{name}/q", f"{path}/low", f"{path}/high"], [f"{name}/c"], name=f"{path}/Clip"),
        helper.make_node(
            "DequantizeLinear", [f"{name}/c", f"{path}/scale", f"{path}/zero"], [f"{name}/dq"],
            name=f"{path}/DequantizeLinear",
        ),
    ]  # fmt: skip


def brevitas(*, float_weight: bool, relu_high: int = 63, relu_zero: int = 0) -> onnx.ModelProto:
    """A W4A6 convolution, ReLU, product. `float_weight`: as on the new exporter, with Q before the weight's Clip."""
    integers = RNG.integers(-7, 8, (4, 3, 3, 3)).astype(np.int8)
    scale = (RNG.random(4) * 0.1 + 0.01).astype(np.float32)
    nodes = [*quantiser("inp", "x", -32, 31)]
    arrays: dict[str, np.ndarray] = {"fc": RNG.integers(-7, 8, (4, 5)).astype(np.int8), "fc.scale": np.float32(0.05)}
    if float_weight:
        arrays |= {
            "w": integers * scale.reshape(-1, 1, 1, 1) * 1.2, "w.scale": scale, "w.zero": np.zeros(4, np.int8),
            "w.low": np.int8(-7), "w.high": np.int8(7),
        }  # fmt: skip
        nodes += [
            helper.make_node("QuantizeLinear", ["w", "w.scale", "w.zero"], ["w/q"], axis=0),
            helper.make_node("Clip", ["w/q", "w.low", "w.high"], ["w/c"]),
        ]
    else:
        nodes += [
            constant("w", integers), constant("w.scale", scale), constant("w.zero", np.zeros(4, np.int8)),
            constant("w.low", np.int8(-6)), constant("w.high", np.int8(6)),
            helper.make_node("Clip", ["w", "w.low", "w.high"], ["w/c"]),
        ]  # fmt: skip
    nodes += [
        helper.make_node("DequantizeLinear", ["w/c", "w.scale", "w.zero"], ["w/dq"], axis=0),
        helper.make_node("Conv", ["inp/dq", "w/dq"], ["y"]),
        helper.make_node("Relu", ["y"], ["r"]),
        *quantiser("act", "r", max(0, relu_zero - 63), relu_high, np.uint8, relu_zero),
        helper.make_node("ReduceMean", ["act/dq"], ["mean"], axes=[2, 3], keepdims=0),
        *quantiser("last", "mean", -32, 31),
        helper.make_node("DequantizeLinear", ["fc", "fc.scale"], ["fc/dq"]),  # the zero point is implied
        helper.make_node("MatMul", ["last/dq", "fc/dq"], ["out"]),
    ]
    model = graph_of(nodes, {"x": (1, 3, 5, 5)}, arrays, opset=17)
    # Both exporters list stored tensors among the inputs, too.
    model.graph.input.append(helper.make_tensor_value_info("fc.scale", TensorProto.FLOAT, []))
    return model


def modelopt() -> onnx.ModelProto:
    """Weights in float with Q and DQ along axis 0; a zero point in float that a Cast makes int8; unsigned about 128."""
    weight = RNG.standard_normal((4, 3, 3, 3)).astype(np.float32)
    nodes = [
        constant("in.scale", np.float32(0.027)), constant("in.float_zero", np.float32(0)),
        helper.make_node("Cast", ["in.float_zero"], ["in.zero"], to=TensorProto.INT8),
        helper.make_node("QuantizeLinear", ["x", "in.scale", "in.zero"], ["x/q"], name="/c1/input_quantizer/Q"),
        helper.make_node("DequantizeLinear", ["x/q", "in.scale", "in.zero"], ["x/dq"]),
        constant("w.scale", np.abs(weight).max(axis=(1, 2, 3)) / 127), constant("w.zero", np.zeros(4, np.int8)),
        helper.make_node("QuantizeLinear", ["w", "w.scale", "w.zero"], ["w/q"], axis=0),
        helper.make_node("DequantizeLinear", ["w/q", "w.scale", "w.zero"], ["w/dq"], axis=0),
        helper.make_node("Conv", ["x/dq", "w/dq"], ["y"]),
        helper.make_node("QuantizeLinear", ["y", "y.scale", "y.zero"], ["y/q"], name="y/Q", domain="com.microsoft"),
        helper.make_node("DequantizeLinear", ["y/q", "y.scale", "y.zero"], ["y/dq"], domain="com.microsoft"),
        helper.make_node("Relu", ["y/dq"], ["out"]),
    ]  # fmt: skip
    arrays = {"w": weight, "y.scale": np.float32(0.1), "y.zero": np.uint8(128)}
    model = graph_of(nodes, {"x": (1, 3, 5, 5)}, arrays, opset=17)
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("out", TensorProto.FLOAT, [1, 4, 3, 3]))
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    return model


def reports(model: onnx.ModelProto, folder: Path) -> list[tuple[str, str]]:
    write_onnx(model, folder / "m.onnx")
    return [(item.rule, item.node) for target in TARGETS for item in check_onnx(folder / "m.onnx", target).errors]


@pytest.mark.parametrize("float_weight", [False, True])
def test_brevitas_files_have_the_same_numbers_in_our_form(float_weight: bool, tmp_path: Path) -> None:
    model = brevitas(float_weight=float_weight)
    before = run(model)
    assert np.unique(before).size > 3
    notes = normalise(changed := copy_of(model))
    onnx.checker.check_model(changed, full_check=True)
    assert np.abs(run(changed) - before).max() < 1e-6
    graph = Graph(changed)
    for node in graph.proto.node:
        if node.op_type == "Clip":  # in float, before Q
            assert graph.consumers[node.output[0]][0].op_type == "QuantizeLinear"
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            zero = graph.initializers[node.input[2]]
            assert zero.data_type == TensorProto.INT8
            assert not numpy_helper.to_array(zero).any()
    assert [node.op_type for node in graph.proto.node].count("QuantizeLinear") == 3  # none for weights
    bounds = {
        node.name.split("/")[1]: tuple(round(float(graph.constant(name) / np.float32(0.11))) for name in node.input[1:])
        for node in graph.proto.node if node.op_type == "Clip"
    }  # fmt: skip
    assert bounds == {"inp": (-32, 31), "act": (0, 63), "last": (-32, 31)}
    assert [value.name for value in graph.proto.input] == ["x"]
    assert len(notes) >= 3
    assert any("integer Clips moved" in note and "(3)" in note for note in notes)
    assert reports(model, tmp_path) == []


def test_integers_of_weights_are_those_that_the_clip_leaves() -> None:
    model = brevitas(float_weight=False)
    stored = next(numpy_helper.to_array(node.attribute[0].t) for node in model.graph.node if node.output[0] == "w")
    normalise(model)
    graph = Graph(model)
    (conv,) = [node for node in graph.proto.node if node.op_type == "Conv"]
    integers = graph.constant(graph.producer[conv.input[1]].input[0])
    assert integers is not None
    assert np.array_equal(integers, np.clip(stored, -6, 6))


def test_modelopt_files_have_the_same_numbers_in_our_form(tmp_path: Path) -> None:
    model = modelopt()
    before = run(model)
    normalise(changed := copy_of(model))
    assert np.abs(run(changed) - before).max() < 1e-6
    assert {node.domain for node in changed.graph.node} == {""}
    assert [entry.domain for entry in changed.opset_import] == [""]
    graph = Graph(changed)
    types = {graph.element_type(node.input[2]) for node in graph.proto.node if node.op_type == "QuantizeLinear"}
    assert types == {TensorProto.INT8}
    # uint8 about 128 is all of int8 about 0: nothing is left to clip.
    assert not any(node.op_type in ("Clip", "Cast", "Constant") for node in graph.proto.node)
    assert reports(model, tmp_path) == []


@pytest.mark.parametrize(("high", "zero"), [(255, 0), (128, 0), (255, 125)])
def test_what_int8_does_not_hold_is_left_alone_and_refused(high: int, zero: int, tmp_path: Path) -> None:
    model = brevitas(float_weight=False, relu_high=high, relu_zero=zero)
    before = run(model)
    normalise(changed := copy_of(model))
    assert np.abs(run(changed) - before).max() < 1e-6
    for target in TARGETS:
        with pytest.raises(QdbevError, match="unsigned integers") as refusal:
            lower(model, target)
        assert "largest / 127" in refusal.value.next_step
    assert lower(model, "ort")[1] == []
    assert set(reports(model, tmp_path)) == {
        ("uint8", "/act/act_quant/export_handler/QuantizeLinear"),
        ("uint8", "/act/act_quant/export_handler/DequantizeLinear"),
        *([] if high == 63 else [("int8-clip", "/act/act_quant/export_handler/Clip")]),
    }


def test_weights_that_int8_does_not_hold_are_left_alone_and_refused(tmp_path: Path) -> None:
    """uint8 about 3 reaches 252: its low byte would be another number."""
    integers = RNG.integers(0, 256, (4, 3, 3, 3)).astype(np.uint8)
    integers.flat[0] = 255
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["dq"]),
        helper.make_node("DequantizeLinear", ["w", "s", "w.zero"], ["w/dq"], name="weight"),
        helper.make_node("Conv", ["dq", "w/dq"], ["out"]),
    ]
    for zero, fits in ((3, False), (128, True)):
        arrays = {"s": np.float32(0.02), "z": np.int8(0), "w": integers, "w.zero": np.uint8(zero)}
        model = graph_of(nodes, {"x": (1, 3, 5, 5)}, arrays)
        before = run(model)
        normalise(changed := copy_of(model))
        assert np.array_equal(run(changed), before)
        assert reports(model, tmp_path).count(("uint8", "weight")) == (0 if fits else len(TARGETS))


@pytest.mark.parametrize("weight", ["w.integers", "w.integers.zero_point"])
def test_new_tensors_have_names_of_their_own(weight: str, tmp_path: Path) -> None:
    """The names that ours would have may be taken in a file of others."""
    model = brevitas(float_weight=True)
    path = "/act/act_quant/export_handler/QuantizeLinear"
    for name in (f"{path}.zero_point", f"{path}.low", weight):
        model.graph.initializer.append(numpy_helper.from_array(np.float32(7), name))
        model.graph.node.append(helper.make_node("Identity", [name], [f"{name}/read"]))
        model.graph.output.append(helper.make_tensor_value_info(f"{name}/read", TensorProto.FLOAT, []))
    before = run(model)
    normalise(changed := copy_of(model))
    onnx.checker.check_model(changed, full_check=True)
    assert np.abs(run(changed) - before).max() < 1e-6
    assert reports(model, tmp_path) == []


def test_blocks_of_weights_are_refused(tmp_path: Path) -> None:
    model = graph_of(
        [
            helper.make_node(
                "DequantizeLinear", ["w", "w.scale"], ["w/dq"], name="fc.weight_DequantizeLinear", axis=0, block_size=4
            ),
            helper.make_node("MatMul", ["x", "w/dq"], ["out"]),
        ],
        {"x": (2, 8)},
        {"w": RNG.integers(-7, 8, (8, 3)).astype(np.int8), "w.scale": np.full((2, 3), 0.1, np.float32)},
        opset=21,
    )
    with pytest.raises(QdbevError, match="a scale for each block of 4 weights"):
        lower(model, "trt11")
    assert ("lowering", "(file)") in reports(model, tmp_path)


def test_our_own_files_need_nothing() -> None:
    from tests.check.test_lowering import int8_conv

    model = int8_conv()
    content = model.SerializeToString()
    assert normalise(model) == []
    assert model.SerializeToString() == content
    assert [step.apply(int8_conv()) for step in STEPS] == [[]] * len(STEPS)


def test_a_constant_activation_is_no_weight() -> None:
    """Object queries start as a piece of an embedding; the first decoder layer rounds and multiplies it."""
    model = graph_of(
        [
            helper.make_node("Split", ["embedding"], ["position", "query"], axis=1, num_outputs=2),
            helper.make_node("QuantizeLinear", ["query", "s", "z"], ["q"]),
            helper.make_node("DequantizeLinear", ["q", "s", "z"], ["dq"]),
            helper.make_node("MatMul", ["dq", "x"], ["out"]),
        ],
        {"x": (4, 2)},
        {"embedding": RNG.standard_normal((3, 8)).astype(np.float32), "s": np.float32(0.1), "z": np.int8(0)},
    )
    content = model.SerializeToString()
    assert normalise(model) == []
    assert model.SerializeToString() == content


def test_what_the_standard_op_of_this_opset_cannot_say_keeps_its_domain() -> None:
    model = modelopt()
    for tensor in model.graph.initializer:
        if tensor.name == "y.zero":
            tensor.CopyFrom(numpy_helper.from_array(np.uint16(128), "y.zero"))
    normalise(model)
    assert [node.domain for node in model.graph.node if node.domain] == ["com.microsoft"] * 2


def with_integer_bias(scale_shape: tuple[int, ...], zero: int = 0) -> onnx.ModelProto:
    """A convolution and its bias as onnxruntime.quantization writes them: 32-bit integers behind a DequantizeLinear."""
    scales = np.asarray(RNG.random(scale_shape) * 0.01 + 0.001, np.float32)
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["dq"]),
        helper.make_node("DequantizeLinear", ["w", "w.scale", "w.zero"], ["w/dq"], axis=0),
        helper.make_node("DequantizeLinear", ["b", "b.scale", "b.zero"], ["b/dq"], name="bias", axis=0),
        helper.make_node("Conv", ["dq", "w/dq", "b/dq"], ["out"]),
    ]
    arrays = {
        "s": np.float32(0.02), "z": np.int8(0), "w": RNG.integers(-127, 128, (4, 3, 3, 3)).astype(np.int8),
        "w.scale": RNG.random(4).astype(np.float32) * 0.01, "w.zero": np.zeros(4, np.int8),
        "b": np.array([-30000, 5, 0, 2**24 + 1], np.int32), "b.scale": scales,
        "b.zero": np.full(scale_shape, zero, np.int32),
    }  # fmt: skip
    return graph_of(nodes, {"x": (1, 3, 5, 5)}, arrays)


@pytest.mark.parametrize("scale_shape", [(), (1,), (4,)])
def test_integer_biases_become_floats(scale_shape: tuple[int, ...], tmp_path: Path) -> None:
    model = with_integer_bias(scale_shape)
    notes = normalise(changed := copy_of(model))
    assert [note for note in notes if "bias" in note]
    assert np.array_equal(run(changed), run(model))
    graph = Graph(changed)
    assert graph.element_type(graph.proto.node[-1].input[2]) == TensorProto.FLOAT
    assert TensorProto.INT32 not in {tensor.data_type for tensor in changed.graph.initializer}
    assert reports(model, tmp_path) == []


def test_other_integers_are_refused(tmp_path: Path) -> None:
    model = with_integer_bias((), zero=3)
    assert ("integer-type", "bias") in reports(model, tmp_path)
    with pytest.raises(QdbevError, match="node 'bias' has integers of type int32"):
        lower(model, "trt10.3")


@pytest.mark.parametrize(("says", "kind"), [({}, np.uint8), ({"output_dtype": TensorProto.INT8}, np.int8)])
def test_zero_points_that_a_quantizer_implies(says: dict[str, int], kind: type) -> None:
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s"], ["q"], **says),
        helper.make_node("Identity", ["q"], ["seen"]),
        helper.make_node("DequantizeLinear", ["seen", "s"], ["out"]),
    ]
    model = graph_of(nodes, {"x": (1, 3, 5, 5)}, {"s": np.float32(0.02)}, opset=21)
    before = run(model)
    normalise(model)
    onnx.checker.check_model(model, full_check=True)
    assert np.array_equal(run(model), before)
    graph = Graph(model)
    for node in (graph.proto.node[0], graph.proto.node[-1]):
        zero = graph.constant(node.input[2])
        assert zero is not None
        assert zero.dtype == kind
        assert not node.attribute
    if kind is np.int8:
        lower(model, "trt10.3")
    else:
        with pytest.raises(QdbevError, match="unsigned"):
            lower(model, "trt10.3")


@pytest.mark.parametrize("target", TARGETS)
def test_a_type_that_is_said_twice_is_said_once(target: str) -> None:
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], output_dtype=TensorProto.INT8),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["out"]),
    ]
    model = graph_of(nodes, {"x": (1, 3, 5, 5)}, {"s": np.float32(0.02), "z": np.int8(0)}, opset=21)
    lowered, _ = lower(model, target)
    onnx.checker.check_model(lowered, full_check=True)
    assert np.array_equal(run(lowered), run(model))
