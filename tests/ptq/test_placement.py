"""Where Q/DQ belong, on graphs of others: no name is ours, and attention may be spelt out in samplings."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import NodeProto, TensorProto, helper, numpy_helper

from qdbev_deploy.graph.index import sort_nodes
from qdbev_deploy.ptq.placement import IMAGE, STEM, Placement, find_placement

RNG = np.random.default_rng(0)
INPUTS = {"image": (1, 3, 16, 16), "prev_bev": (6, 1, 4), "use_prev_bev": (1,), "can_bus": (18,), "lidar2img": (4, 4)}


def weight(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def network(nodes: list[NodeProto], arrays: dict[str, np.ndarray], outputs: tuple[str, ...]) -> Placement:
    graph = helper.make_graph(
        nodes,
        "foreign",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in INPUTS.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    sort_nodes(model)
    model = onnx.shape_inference.infer_shapes(model)
    onnx.checker.check_model(model)
    return find_placement(model)


def conv(source: str, output: str, name: str, kernel: str, **attributes: object) -> NodeProto:
    return helper.make_node("Conv", [source, kernel], [output], name=name, **attributes)


def uses(placement: Placement) -> dict[str, list[tuple[str, int]]]:
    """tensor -> (node, input) of its readers that will read integers"""
    return {item.tensor: [(node.name, index) for node, index in item.uses] for item in placement.activations}


BACKBONE = [
    conv("image", "a", "Conv_0", "k0", pads=[1] * 4),
    helper.make_node("Relu", ["a"], ["b"]),
    conv("b", "c", "Conv_2", "k1", strides=[2, 2], pads=[1] * 4),
    helper.make_node("Relu", ["c"], ["d"]),
    conv("d", "e", "Conv_4", "k1", pads=[1] * 4),
    conv("b", "f", "Conv_5", "k2", strides=[2, 2]),
]
KERNELS = {"k0": weight(4, 3, 3, 3), "k1": weight(4, 4, 3, 3), "k2": weight(4, 4, 1, 1)}


@pytest.mark.parametrize("order", [("e", "f"), ("f", "e")])
def test_of_two_convolutions_the_shortcut_is_rounded(order: tuple[str, str]) -> None:
    nodes = [*BACKBONE, helper.make_node("Add", list(order), ["g"], name="Add_6"),
             helper.make_node("Relu", ["g"], ["out"])]  # fmt: skip
    found = uses(network(nodes, KERNELS, ("out",)))
    assert found == {
        "image": [("Conv_0", 0)],
        "b": [("Conv_2", 0), ("Conv_5", 0)],  # one tensor, one scale
        "d": [("Conv_4", 0)],
        "f": [("Add_6", order.index("f"))],
    }


def test_an_identity_shortcut_shares_the_scale_of_the_block() -> None:
    nodes = [
        conv("image", "a", "Conv_0", "k0", pads=[1] * 4), helper.make_node("Relu", ["a"], ["b"]),
        conv("b", "c", "Conv_2", "k1", pads=[1] * 4),
        helper.make_node("BatchNormalization", ["c", "ones", "zeros", "zeros", "ones"], ["n"]),
        helper.make_node("Add", ["b", "n"], ["out"], name="Add_4"),
    ]  # fmt: skip
    arrays = {**KERNELS, "ones": np.ones(4, np.float32), "zeros": np.zeros(4, np.float32)}
    assert uses(network(nodes, arrays, ("out",)))["b"] == [("Conv_2", 0), ("Add_4", 0)]


def test_in_a_pyramid_the_upper_level_is_rounded_before_it_grows() -> None:
    nodes = [
        *BACKBONE,
        helper.make_node("Relu", ["e"], ["low"]),
        conv("low", "upper", "Conv_7", "k2"), conv("b", "lateral", "Conv_8", "k2"),
        helper.make_node("Resize", ["upper", "", "scales"], ["grown"], name="Resize_9", mode="nearest"),
        helper.make_node("Add", ["lateral", "grown"], ["sum"], name="Add_10"),
        conv("sum", "out", "Conv_11", "k1"),
    ]  # fmt: skip
    found = uses(network(nodes, {**KERNELS, "scales": np.array([1, 1, 2, 2], np.float32)}, ("out",)))
    assert found["upper"] == [("Resize_9", 0)]
    assert found["sum"] == [("Conv_11", 0)]
    assert "grown" not in found
    assert "lateral" not in found


def test_the_image_and_its_convolution_have_the_names_that_recipes_know() -> None:
    placement = network(BACKBONE, KERNELS, ("e", "f"))
    assert {item.tensor: item.name for item in placement.activations}["image"] == IMAGE
    assert [item.name for item in placement.weights if item.tensor == "k0"] == [STEM]
    assert {item.tensor: item.nonnegative for item in placement.activations} == {"image": False, "b": True, "d": True}


def test_geometry_ego_motion_and_final_outputs_stay_float() -> None:
    """A peer's decoder: offsets reach a GridSample through arithmetic, attention is spelt out, a norm is a node."""
    dense = {name: weight(4, 4) for name in ("value", "project", "logit", "hidden")}
    arrays = {
        **dense, "offset": weight(4, 2), "ego": weight(18, 4), "class": weight(4, 10), "code": weight(4, 10),
        "ones": np.ones(4, np.float32), "map": np.array([1, 4, 2, 3]), "grid": np.array([1, 6, 1, 2]),
        "rows": np.array([6, 4]), "half": np.float32(0.5), "axis": np.array([1]),
    }  # fmt: skip

    def dense_node(source: str, kernel: str, output: str, **attributes: object) -> NodeProto:
        op = "Gemm" if attributes else "MatMul"
        return helper.make_node(op, [source, kernel], [output], name=f"/head/{kernel}/{op}", **attributes)

    nodes = [
        helper.make_node("Squeeze", ["prev_bev", "axis"], ["bev"]),
        dense_node("can_bus", "ego", "motion"),
        helper.make_node("Add", ["bev", "motion"], ["query"]),
        dense_node("query", "offset", "moves"),
        helper.make_node("Mul", ["moves", "half"], ["scaled"]),
        helper.make_node("Tanh", ["scaled"], ["places"]),
        helper.make_node("Reshape", ["places", "grid"], ["samples"]),
        dense_node("query", "value", "v"),
        helper.make_node("Reshape", ["v", "map"], ["maps"]),
        helper.make_node("GridSample", ["maps", "samples"], ["gathered"]),
        helper.make_node("Reshape", ["gathered", "rows"], ["attended"]),
        dense_node("query", "logit", "logits"),
        helper.make_node("Softmax", ["logits"], ["shares"]),
        helper.make_node("Mul", ["attended", "shares"], ["weighed"]),
        dense_node("weighed", "project", "projected"),
        helper.make_node("Add", ["query", "projected"], ["sum"], name="Add_r"),
        helper.make_node("LayerNormalization", ["sum", "ones"], ["bev_embed"]),
        dense_node("bev_embed", "hidden", "h", transB=1),
        helper.make_node("Relu", ["h"], ["relu"]),
        dense_node("relu", "class", "outputs_classes"),
        dense_node("relu", "code", "raw"),
        helper.make_node("Sigmoid", ["raw"], ["outputs_coords"]),
        helper.make_node("MatMul", ["lidar2img", "lidar2img"], ["projection"], name="both computed"),
    ]
    placement = network(nodes, arrays, ("bev_embed", "outputs_classes", "outputs_coords", "projection"))
    assert sorted(placement.must_stay_float) == ["head/class", "head/code", "head/ego", "head/offset"]
    assert {item.name: item.axis for item in placement.weights} == {
        "head/value": 1, "head/logit": 1, "head/project": 1, "head/hidden": 0,
    }  # fmt: skip
    assert uses(placement) == {
        "query": [("/head/value/MatMul", 0), ("/head/logit/MatMul", 0)],
        "weighed": [("/head/project/MatMul", 0)],
        "bev_embed": [("/head/hidden/Gemm", 0)],
    }  # no addition behind a product, nothing behind a norm


def test_weights_behind_views_are_found_and_others_are_not() -> None:
    arrays = {
        "packed": weight(8, 4), "zero": np.array([0]), "four": np.array([4]), "batch": weight(2, 4, 4),
        "half": weight(4, 4).astype(np.float16), "shape": np.array([256, 3]), "three": weight(3, 4),
    }  # fmt: skip
    nodes = [
        helper.make_node("Transpose", ["image"], ["t"], perm=[0, 2, 3, 1]),
        helper.make_node("Reshape", ["t", "shape"], ["rows"]),
        helper.make_node("MatMul", ["rows", "three"], ["x"], name="m0"),
        helper.make_node("Slice", ["packed", "zero", "four"], ["piece"]),
        helper.make_node("Transpose", ["piece"], ["turned"]),
        helper.make_node("MatMul", ["x", "turned"], ["a"], name="decoder.attn/MatMul"),
        helper.make_node("MatMul", ["x", "batch"], ["b"], name="m2"),
        helper.make_node("Cast", ["x"], ["x16"], to=TensorProto.FLOAT16),
        helper.make_node("MatMul", ["x16", "half"], ["c"], name="m3"),
    ]
    placement = network(nodes, arrays, ("a", "b"))
    assert [item.name for item in placement.weights] == [STEM, "decoder.attn.in_proj"]
    piece = placement.weights[1]
    assert np.array_equal(piece.values, arrays["packed"][:4].T)
    assert piece.axis == 1
