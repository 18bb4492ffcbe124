"""The float network inside a quantised file: weights bit for bit, no grid left, what the quantiser clipped as well."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from qdbev_deploy.errors import QdbevError
from qdbev_deploy.graph.float_baseline import float_copy, without_quantisation
from qdbev_deploy.reference import session_of

RNG = np.random.default_rng(0)
INTEGERS = RNG.integers(-8, 8, (4, 3, 3, 3)).astype(np.int8)
SCALES = RNG.uniform(0.01, 0.1, 4).astype(np.float32)


def model_of(*, clip: tuple[float, float] = (-0.8, 0.7), extra: list[onnx.NodeProto] | None = None) -> onnx.ModelProto:
    """x -> Clip -> Q -> Reshape -> DQ -> Conv of stored integers -> y."""
    stored = {
        "w": INTEGERS, "ws": SCALES, "wz": np.zeros(4, np.int8), "s": np.float32(0.1), "z": np.int8(0),
        "low": np.float32(clip[0]), "high": np.float32(clip[1]), "shape": np.array([1, 3, 8, 8]),
    }  # fmt: skip
    nodes = [
        helper.make_node("Clip", ["x", "low", "high"], ["clipped"], name="tap/Clip"),
        helper.make_node("QuantizeLinear", ["clipped", "s", "z"], ["q"], name="tap/QuantizeLinear"),
        helper.make_node("Reshape", ["q", "shape"], ["r"], name="view"),
        helper.make_node("DequantizeLinear", ["r", "s", "z"], ["dq"], name="dq"),
        helper.make_node("DequantizeLinear", ["w", "ws", "wz"], ["wdq"], name="wdq", axis=0),
        helper.make_node("Conv", ["dq", "wdq"], ["y"], name="conv"),
        *(extra or []),
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes, "test", [value("x", TensorProto.FLOAT, (1, 3, 64))], [value("y", TensorProto.FLOAT, (1, 4, 6, 6))],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in stored.items()],
        value_info=[value("r", TensorProto.INT8, (1, 3, 8, 8)), value("clipped", TensorProto.FLOAT, (1, 3, 64))],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, {"qdbev.bits": json.dumps({"activations": {"tap": {"bits": 4, "signed": True}}})})
    return model


def test_weights_are_integer_times_scale_and_nothing_else_is_left() -> None:
    model = model_of()
    assert without_quantisation(model) == 3
    onnx.checker.check_model(model, full_check=True)
    assert [node.op_type for node in model.graph.node] == ["Reshape", "Conv"]
    (weights,) = (tensor for tensor in model.graph.initializer if tensor.name == "wdq")
    np.testing.assert_array_equal(
        numpy_helper.to_array(weights), INTEGERS.astype(np.float32) * SCALES.reshape(-1, 1, 1, 1)
    )
    assert {tensor.name for tensor in model.graph.initializer} == {"wdq", "shape"}


def test_it_computes_what_the_weights_say_bit_for_bit() -> None:
    x = RNG.normal(size=(1, 3, 64)).astype(np.float32) * 3
    stored = session_of(model_of()).run(None, {"x": np.round(np.clip(x, -0.8, 0.7) / 0.1).astype(np.float32) * 0.1})
    plain = model_of(extra=[])
    del plain.graph.node[:4]
    plain.graph.node.insert(0, helper.make_node("Reshape", ["x", "shape"], ["dq"], name="view"))
    (expected,) = session_of(plain).run(None, {"x": x})
    (found,) = session_of(float_copy(model_of())).run(None, {"x": x})
    np.testing.assert_array_equal(found, expected)
    assert np.abs(found - stored[0]).max() > 0.1  # what was clipped is back


def test_a_clip_of_the_models_own_stays() -> None:
    own = model_of(clip=(-0.83, 0.7))
    without_quantisation(own)
    assert [node.op_type for node in own.graph.node] == ["Clip", "Reshape", "Conv"]
    shared = model_of(extra=[helper.make_node("Relu", ["clipped"], ["e"], name="e")])
    shared.graph.output.append(helper.make_tensor_value_info("e", TensorProto.FLOAT, (1, 3, 64)))
    without_quantisation(shared)
    assert [node.op_type for node in shared.graph.node] == ["Clip", "Reshape", "Conv", "Relu"]


def kept_clips(model: onnx.ModelProto) -> int:
    return sum(node.op_type == "Clip" for node in float_copy(model).graph.node)


def test_a_relu6_on_the_grid_stays() -> None:
    """Its bounds are 0 and 127 steps of the very quantiser behind it, and still it is the network's."""
    model = model_of(clip=(0.0, 12.7))
    assert kept_clips(model) == 1
    helper.set_model_props(model, {})
    for node, name in zip(model.graph.node, ("tap/Clip", "tap/QuantizeLinear"), strict=False):
        node.name = name
    assert kept_clips(model) == 1
    unsigned = {"activations": {"tap": {"bits": 7, "signed": False}}}
    helper.set_model_props(model, {"qdbev.bits": json.dumps(unsigned)})
    assert kept_clips(model) == 0  # the file says that it is the quantiser's
    model.graph.node[0].name = "relu6/Clip"
    assert kept_clips(model) == 1


@pytest.mark.parametrize("bits", ["float", "{", "[1]", '{"activations": 3}', '{"activations": {"tap": {}}}'])
def test_a_file_that_says_nothing_of_its_grid_keeps_its_clips(bits: str) -> None:
    model = model_of()
    assert kept_clips(model) == 0
    helper.set_model_props(model, {"qdbev.bits": bits})
    assert kept_clips(model) == 1


def test_integers_into_a_bev_op_become_floats() -> None:
    extra = [helper.make_node("MSDeformAttn", ["q", "x", "x", "x"], ["b"], name="b", domain="qdbev", value_scale=0.1)]
    model = model_of(extra=extra)
    model.graph.output.append(helper.make_tensor_value_info("b", TensorProto.FLOAT, (1,)))
    without_quantisation(model)
    (attention,) = (node for node in model.graph.node if node.op_type == "MSDeformAttn")
    assert attention.input[0] == "x"
    assert attention.attribute[0].f == 0.0


def test_what_cannot_be_told_apart_is_refused() -> None:
    model = model_of()
    model.graph.node[5].output[0] = "conv"
    model.graph.node.append(helper.make_node("QuantizeLinear", ["conv", "s", "z"], ["cq"], name="cq"))
    model.graph.node.append(helper.make_node("DequantizeLinear", ["cq", "s", "z"], ["y"], name="ydq"))
    with pytest.raises(QdbevError, match="comes straight from a DequantizeLinear"):
        without_quantisation(model)


def test_the_original_stays() -> None:
    model = model_of()
    before = model.SerializeToString()
    float_copy(model)
    assert model.SerializeToString() == before
