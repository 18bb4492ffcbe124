"""Mixed precision by the types in the file: what stays float32, and that ONNX Runtime computes nearly the same."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from qdbev_deploy.errors import QdbevError
from qdbev_deploy.graph.half import FLOAT, HALF, float_nodes, to_half
from qdbev_deploy.graph.index import Graph, attributes, standard_opset
from qdbev_deploy.reference import Feeds, session_of
from tests.engine.tensorrt.plugin_casts import with_casts_around_plugins
from tests.engine.tensorrt.toy import INPUTS, OUTPUTS, frame, toy


def halved(model: onnx.ModelProto) -> onnx.ModelProto:
    copied = onnx.ModelProto.FromString(model.SerializeToString())
    to_half(copied)
    return copied


def steps(model: onnx.ModelProto, count: int = 4) -> list[list[np.ndarray]]:
    """Outputs of a few frames, the state carried from the second on."""
    session, feeds, state, results = session_of(model, threads=1), Feeds(INPUTS), None, []
    for index in range(count):
        image, can_bus, lidar2img = frame(index)
        outputs = session.run([spec.name for spec in OUTPUTS], feeds(image, state, index > 0, can_bus, lidar2img))
        results.append(outputs)
        state = outputs[0]
    return results


@pytest.mark.parametrize("quantised", [False, True])
def test_onnxruntime_computes_nearly_the_same(quantised: bool) -> None:
    model = toy(quantised=quantised)
    mixed = halved(model)
    for spec, value in zip((*INPUTS, *OUTPUTS), (*mixed.graph.input, *mixed.graph.output), strict=True):
        assert value.name == spec.name
        assert value.type.tensor_type.elem_type == FLOAT
    for ours, theirs in zip(steps(with_casts_around_plugins(mixed)), steps(model), strict=True):
        for name, left, right in zip(("bev_embed", "classes", "coords"), ours, theirs, strict=True):
            relative = np.sqrt(np.mean((left - right) ** 2) / np.mean(right**2))
            assert 0 < relative < (0.02 if quantised else 0.003), name  # a tie that flips is a whole step


def test_geometry_stays_in_float32() -> None:
    model = toy()
    kept = float_nodes(model)
    assert {"radians", "cosine", "places", "planes", "map", "turned", "delta", "shift", "reference_points",
            "coords_unit", "coords_metres", "projection_sum", "coords_moved"} <= kept  # fmt: skip
    # Up to the last learned layer, and no further; what is read from a place is no place.
    assert not kept & {
        "coords_flat",
        "objects",
        "normed",
        "summed",
        "attended",
        "features",
        "offsets",
        "logits",
        "rows",
    }
    graph = Graph(halved(model))
    node = next(graph.bev_nodes())
    types = [graph.element_type(name) for name in node.input]
    assert types == [TensorProto.INT8, FLOAT, HALF, HALF]
    assert graph.element_type(node.output[0]) == HALF


def test_products_and_scales_are_in_half() -> None:
    graph = Graph(halved(toy()))
    learned = [node for node in graph.proto.node if node.op_type in ("Conv", "MatMul", "LayerNormalization")]
    assert len(learned) == 7
    for node in learned:
        assert {graph.element_type(name) for name in (*node.input, *node.output)} == {HALF}, node.name
    for node in graph.proto.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            assert graph.element_type(node.input[1]) == HALF, node.name
    scales = numpy_helper.to_array(graph.initializers["conv.scale/half"])
    assert (scales > 0).all()  # the dead channel's, too: no builder takes a zero


def test_the_ops_scale_is_that_of_its_quantizer() -> None:
    graph = Graph(halved(toy()))
    node = next(graph.bev_nodes())
    scale = graph.constant("value.scale/half")
    assert scale is not None
    assert attributes(node)["value_scale"] == float(scale)
    assert attributes(node)["value_scale"] != np.float32(0.04)


def test_a_tensor_is_cast_once_and_an_output_keeps_its_name_and_type() -> None:
    graph = Graph(halved(toy()))
    casts = [node for node in graph.proto.node if node.op_type == "Cast"]
    assert len({(node.input[0], attributes(node)["to"]) for node in casts}) == len(casts)
    # The state, logits and image cross the border; the CAN bus' places never leave float32.
    assert {node.output[0] for node in casts} == {
        "image/half", "use_prev_bev/half", "turned/half", "bev_embed", "outputs_classes", "coords_flat/float",
    }  # fmt: skip


def test_a_state_in_float16_keeps_its_type() -> None:
    """As --io fp16 exports it: a Cast behind the input and one before the output."""
    model = toy(quantised=False)
    graph = model.graph
    for node in graph.node:
        for names in (node.input, node.output):
            names[:] = [{"prev_bev": "prev_bev/wide", "bev_embed": "bev_embed/wide"}.get(name, name) for name in names]
    graph.node.insert(0, helper.make_node("Cast", ["prev_bev"], ["prev_bev/wide"], name="in", to=FLOAT))
    graph.node.append(helper.make_node("Cast", ["bev_embed/wide"], ["bev_embed"], name="out", to=HALF))
    for value in (graph.input[1], graph.output[0]):
        value.type.tensor_type.elem_type = HALF
    mixed = halved(model)
    assert mixed.graph.input[1].type.tensor_type.elem_type == HALF
    assert mixed.graph.output[0].type.tensor_type.elem_type == HALF
    image, can_bus, lidar2img = frame(1)
    state = np.random.default_rng(3).standard_normal(INPUTS[1].shape).astype(np.float16)
    feeds = Feeds(INPUTS)(image, state.astype(np.float32), True, can_bus, lidar2img)
    wide = session_of(toy(quantised=False)).run(None, feeds)
    ours = session_of(with_casts_around_plugins(mixed)).run(None, feeds | {"prev_bev": state})
    assert ours[0].dtype == np.float16
    for left, right in zip(ours, wide, strict=True):
        np.testing.assert_allclose(left, right, atol=0.02, rtol=2e-3)


def test_integers_stay_as_they_are() -> None:
    model, before = toy(), toy()
    to_half(model)
    old, new = Graph(before), Graph(model)
    assert np.array_equal(old.constant("conv.integers"), new.constant("conv.integers"))
    assert standard_opset(model) == 19


@pytest.mark.parametrize("how", ["initializer", "node"])
@pytest.mark.parametrize("value", [1e6, -1e6, np.inf, -np.inf])
def test_constants_beyond_float16_keep_their_node_in_float32(value: float, how: str) -> None:
    model = toy(quantised=False)
    bias = next(tensor for tensor in model.graph.initializer if tensor.name == "offsets.bias")
    values = np.zeros(8, np.float32)
    values[3] = value
    bias.CopyFrom(numpy_helper.from_array(values, bias.name))
    if how == "node":
        model.graph.node.insert(0, helper.make_node("Constant", [], [bias.name], name="constant", value=bias))
        model.graph.initializer.remove(bias)
    graph = Graph(halved(model))
    assert graph.element_type("offsets_biased") == FLOAT
    assert graph.element_type("offsets") == HALF


def test_types_that_the_file_does_not_state_are_found() -> None:
    model = toy()
    del model.graph.value_info[:]
    mixed, stated = halved(model), halved(toy())
    assert [node.op_type for node in mixed.graph.node] == [node.op_type for node in stated.graph.node]
    assert [list(node.input) for node in mixed.graph.node] == [list(node.input) for node in stated.graph.node]


def test_a_resize_keeps_its_scales_in_float32() -> None:
    graph = helper.make_graph(
        [helper.make_node("Resize", ["x", "", "scales"], ["y"], name="resize", mode="nearest")], "resize",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, 1, 2, 2))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, (1, 1, 4, 4))],
        [numpy_helper.from_array(np.array([1, 1, 2, 2], np.float32), "scales")],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    to_half(model)
    x = np.arange(4, dtype=np.float32).reshape(1, 1, 2, 2)
    assert np.array_equal(session_of(model).run(None, {"x": x})[0], x.repeat(2, 2).repeat(2, 3))


def test_an_old_opset_is_refused() -> None:
    model = toy()
    model.opset_import[0].version = 17
    with pytest.raises(QdbevError, match="opset 17"):
        to_half(model)
