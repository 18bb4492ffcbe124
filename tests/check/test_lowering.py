"""Each pass on its own: what it changes, and that ONNX Runtime computes the same bit for bit before and after."""

from __future__ import annotations

from collections.abc import Callable

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from qdbev_deploy.errors import QdbevError
from qdbev_deploy.graph import constants, lowering, quantised
from qdbev_deploy.graph.index import Graph, remove_unused, sort_nodes, standard_opset
from qdbev_deploy.graph.opset import to_opset17
from qdbev_deploy.ops.functions import op_function

RNG = np.random.default_rng(0)


def graph_of(
    nodes: list[onnx.NodeProto], inputs: dict[str, tuple[int, ...]], arrays: dict[str, np.ndarray], opset: int = 18
) -> onnx.ModelProto:
    """A model that ends in 'out'; names of nodes are their op types."""
    for node in nodes:
        node.name = node.name or f"{node.op_type}_{node.output[0]}"
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    if not any(node.domain for node in nodes):
        sort_nodes(inferred := copy_of(model))
        model.graph.output[0].CopyFrom(onnx.shape_inference.infer_shapes(inferred).graph.output[0])
    return model


def run(model: onnx.ModelProto) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    rng = np.random.default_rng(1)
    return session.run(
        ["out"], {item.name: rng.standard_normal(item.shape).astype(np.float32) for item in session.get_inputs()}
    )[0]


def copy_of(model: onnx.ModelProto) -> onnx.ModelProto:
    return onnx.ModelProto.FromString(model.SerializeToString())


def int8_conv(opset: int = 18) -> onnx.ModelProto:
    """x, quantised, through a convolution whose weights are four-bit integers stored as int8."""
    return graph_of(
        [
            helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
            helper.make_node("DequantizeLinear", ["q", "s", "z"], ["dq"]),
            helper.make_node("DequantizeLinear", ["w.integers", "w.scale", "w.zero"], ["w"], axis=0),
            helper.make_node("Conv", ["dq", "w"], ["out"]),
        ],
        {"x": (1, 3, 5, 5)},
        {
            "s": np.float32(0.02), "z": np.int8(0), "w.integers": RNG.integers(-8, 8, (4, 3, 3, 3)).astype(np.int8),
            "w.scale": RNG.random(4).astype(np.float32) * 0.1 + 0.01, "w.zero": np.zeros(4, np.int8),
        },
        opset,
    )  # fmt: skip


def test_int4_packs_and_expands() -> None:
    model = int8_conv(opset=21)
    before, integers = run(model), numpy_helper.to_array(model.graph.initializer[2])
    assert quantised.pack_int4(model) == 1
    packed = {item.name: item for item in model.graph.initializer}["w.integers"]
    assert packed.data_type == TensorProto.INT4
    assert len(packed.raw_data) == integers.size // 2
    assert np.array_equal(numpy_helper.to_array(packed).astype(ml_dtypes.int4).astype(np.int8), integers)
    assert np.array_equal(run(model), before)
    assert quantised.expand_int4(model) == 2  # the integers and their zero points
    assert np.array_equal(
        numpy_helper.to_array({item.name: item for item in model.graph.initializer}["w.integers"]), integers
    )
    assert np.array_equal(run(model), before)


def test_int4_leaves_what_does_not_fit() -> None:
    model = int8_conv(opset=21)
    array = numpy_helper.to_array(model.graph.initializer[2]).copy()
    array.flat[0] = 8
    model.graph.initializer[2].CopyFrom(numpy_helper.from_array(array, "w.integers"))
    assert quantised.pack_int4(model) == 0


def test_weights_in_float_quantise_to_the_same_integers() -> None:
    model = int8_conv()
    before = run(model)
    assert quantised.weights_in_float(model) == 1
    assert {item.data_type for item in model.graph.initializer if item.name.startswith("w.integers")} == {1}
    assert [node.op_type for node in model.graph.node].count("QuantizeLinear") == 2
    onnx.checker.check_model(model, full_check=True)
    assert np.array_equal(run(model), before)


@pytest.mark.parametrize("name", ["", "w", "w_DequantizeLinear"])
def test_a_new_node_has_a_name_of_its_own(name: str) -> None:
    """ONNX Runtime refuses two nodes of one name; names of others' nodes do not say the op."""
    model = int8_conv()
    model.graph.node[2].name = name
    model.graph.node[3].name = name.replace("DequantizeLinear", "QuantizeLinear") if "_" in name else "conv"
    model.graph.node.append(  # another pair on the same integers
        helper.make_node("DequantizeLinear", ["w.integers", "w.scale", "w.zero"], ["w2"], axis=0)
    )
    model.graph.node.append(helper.make_node("Conv", ["dq", "w2"], ["again"]))
    model.graph.node[3].output[0] = "once"
    model.graph.node.append(helper.make_node("Add", ["once", "again"], ["out"]))
    before = run(model)
    assert quantised.weights_in_float(model) == 2
    onnx.checker.check_model(model, full_check=True)
    names = [node.name for node in model.graph.node if node.op_type.endswith("Linear") and node.name]
    assert len(names) == len(set(names)) >= 4
    assert np.array_equal(run(model), before)


@pytest.mark.parametrize("scale", [1e38, 1e-45])
def test_weights_that_no_float_holds_are_refused(scale: float) -> None:
    model = int8_conv()
    model.graph.initializer[3].CopyFrom(numpy_helper.from_array(np.full(4, scale, np.float32), "w.scale"))
    before = run(model)
    if scale < 1:  # denormal, and still exact
        quantised.weights_in_float(model)
        assert np.array_equal(run(model), before)
        return
    with pytest.raises(QdbevError, match="'DequantizeLinear_w' has scales of 1e\\+38"):
        quantised.weights_in_float(model)


def test_two_ops_may_read_the_integers_of_one_view() -> None:
    def sample(name: str) -> onnx.NodeProto:
        return helper.make_node(
            "ModulatedDeformSample", ["viewed", "offset", "mask"], [name], domain="qdbev", value_scale=0.0,
            kernel=[1, 1], stride=[1, 1], padding=[0, 0], dilation=[1, 1],
        )  # fmt: skip

    model = graph_of(
        [
            helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
            helper.make_node("DequantizeLinear", ["q", "s", "z"], ["dq"]),
            helper.make_node("Reshape", ["dq", "shape"], ["viewed"]),
            sample("a"), sample("b"), helper.make_node("Add", ["a", "b"], ["out"]),
        ],
        {"x": (2, 6, 5), "offset": (1, 2, 6, 5), "mask": (1, 1, 6, 5)},
        {"s": np.float32(0.1), "z": np.int8(0), "shape": np.array([1, 2, 6, 5])},
    )  # fmt: skip
    model.opset_import.append(helper.make_opsetid("qdbev", 1))
    model.functions.append(op_function("ModulatedDeformSample", 18))
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("out", TensorProto.FLOAT, [1, 2, 6, 5]))
    before = run(model)
    assert quantised.feed_values_as_integers(model) == 2
    onnx.checker.check_model(model)
    assert [node.op_type for node in model.graph.node].count("Reshape") == 1
    assert np.abs(run(model) - before).max() < 1e-6  # the scale is multiplied after the sums


def test_views_of_weights_are_folded_into_their_integers() -> None:
    integers = RNG.integers(-8, 8, (6, 4)).astype(np.int8)
    model = graph_of(
        [
            helper.make_node("DequantizeLinear", ["w.integers", "w.scale", "w.zero"], ["w"], axis=0),
            helper.make_node("Slice", ["w", "zero", "four", "axis"], ["qk"]),
            helper.make_node("Slice", ["w", "four", "six", "axis"], ["v"]),
            helper.make_node("Reshape", ["v", "shape"], ["v2"]),
            helper.make_node("Gemm", ["x", "qk"], ["a"], transB=1),
            helper.make_node("Gemm", ["x", "v2"], ["b"], transB=1),
            helper.make_node("Concat", ["a", "b"], ["out"], axis=1),
        ],
        {"x": (3, 4)},
        {
            "w.integers": integers, "w.scale": RNG.random(6).astype(np.float32) + 0.1, "w.zero": np.zeros(6, np.int8),
            "zero": np.array([0]), "four": np.array([4]), "six": np.array([6]), "axis": np.array([0]),
            "shape": np.array([2, 4]),
        },
    )  # fmt: skip
    before = run(model)
    assert quantised.fold_weight_views(model) == 3
    graph = Graph(model)
    assert {graph.producer[node.input[1]].op_type for node in graph.proto.node if node.op_type == "Gemm"} == {
        "DequantizeLinear"
    }
    pieces = sorted(name for name in graph.initializers if name.startswith("w.integers"))
    assert np.array_equal(np.concatenate([graph.constant(name) for name in pieces]), integers)
    assert np.array_equal(run(model), before)


def test_weights_that_share_a_zero_point_are_folded_apart() -> None:
    """As the exporter leaves the kernels of several deformable convolutions: flattened, then with two axes again."""
    arrays = {"zero": np.zeros(4, np.int8), "flat": np.array([4, 27]), "kernel": np.array([4, 27, 1, 1])}
    nodes = []
    for index, source in enumerate(("x", "y")):
        arrays[f"w{index}.integers"] = RNG.integers(-8, 8, (4, 3, 3, 3)).astype(np.int8)
        arrays[f"w{index}.scale"] = RNG.random(4).astype(np.float32) + 0.1
        nodes += [
            helper.make_node(
                "DequantizeLinear", [f"w{index}.integers", f"w{index}.scale", "zero"], [f"w{index}"], axis=0
            ),
            helper.make_node("Reshape", [f"w{index}", "flat"], [f"f{index}"]),
            helper.make_node("Reshape", [f"f{index}", "kernel"], [f"k{index}"]),
            helper.make_node("Conv", [source, f"k{index}"], [f"c{index}"]),
        ]
    model = graph_of(
        [*nodes, helper.make_node("Add", ["c0", "c1"], ["out"])], {"x": (1, 27, 2, 2), "y": (1, 27, 2, 2)}, arrays
    )
    before = run(model)
    assert quantised.fold_weight_views(model) == 4
    onnx.checker.check_model(model, full_check=True)
    assert [node.op_type for node in model.graph.node] == ["DequantizeLinear", "Conv"] * 2 + ["Add"]
    assert np.array_equal(run(model), before)


def test_broadcast_constants_are_stored_once() -> None:
    wide = np.broadcast_to(RNG.standard_normal((1, 64, 32)).astype(np.float32), (40, 64, 32)).copy()
    model = graph_of(
        [helper.make_node("Sum", ["x", "wide", "wider"], ["out"])],
        {"x": (40, 64, 32)},
        {"wide": wide, "wider": wide[::-1] * 2},
    )
    before, size = run(model), model.ByteSize()
    assert constants.share_broadcasts(model) == 2
    assert model.ByteSize() < size / 20
    assert len({node.name for node in model.graph.node}) == 3
    assert np.array_equal(run(model), before)


def test_constants_are_named_after_their_reader() -> None:
    model = graph_of(
        [helper.make_node("Add", ["x", "val_1"], ["y"], name="encoder.norm/Add"),
         helper.make_node("Mul", ["y", "some.weight"], ["out"])],
        {"x": (2,)}, {"val_1": np.ones(2, np.float32), "some.weight": np.ones(2, np.float32)},
    )  # fmt: skip
    before = run(model)
    assert constants.name_constants(model) == 1
    assert [item.name for item in model.graph.initializer] == ["encoder.norm/Add.1", "some.weight"]
    assert np.array_equal(run(model), before)


@pytest.mark.parametrize(
    ("node", "arrays"),
    [
        (helper.make_node("ReduceMean", ["x", "axes"], ["out"], keepdims=0), {"axes": np.array([1])}),
        (helper.make_node("ReduceMax", ["x", "axes"], ["out"]), {"axes": np.array([-1])}),
        (
            helper.make_node("Pad", ["x", "pads", "", "axes"], ["out"]),
            {"pads": np.array([1, 2]), "axes": np.array([-1])},
        ),
        (
            helper.make_node("Resize", ["x", "", "scales"], ["out"], mode="linear", antialias=0),
            {"scales": np.array([1, 1, 2, 2], np.float32)},
        ),
    ],
    ids=lambda value: value.op_type if isinstance(value, onnx.NodeProto) else "",
)
def test_opset_17_forms(node: onnx.NodeProto, arrays: dict[str, np.ndarray]) -> None:
    model = graph_of([node], {"x": (1, 2, 6, 4)}, arrays)
    before = run(model)
    assert to_opset17(model) == 1
    assert standard_opset(model) == 17
    onnx.checker.check_model(model, full_check=True)
    assert np.array_equal(run(model), before)


def test_opset_17_split_and_grid_sample() -> None:
    halves = helper.make_node("Split", ["x"], ["a", "b"], axis=1, num_outputs=2)
    split = graph_of([halves, helper.make_node("Sub", ["a", "b"], ["out"])], {"x": (3, 4)}, {})
    bilinear = helper.make_node("GridSample", ["x", "grid"], ["out"], mode="linear")
    sample = graph_of([bilinear], {"x": (1, 2, 6, 4), "grid": (1, 3, 3, 2)}, {}, opset=20)
    for model in (split, sample):
        before = run(model)
        assert to_opset17(model) == 1
        onnx.checker.check_model(model, full_check=True)
        assert np.array_equal(run(model), before)


@pytest.mark.parametrize("op", ["ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL2", "ReduceSumSquare"])
@pytest.mark.parametrize("axes", [None, [], [1, -1]], ids=["absent", "empty", "two"])
@pytest.mark.parametrize("idle", [None, 0, 1])
def test_a_reduction_along_no_axes(op: str, axes: list[int] | None, idle: int | None) -> None:
    """Torch writes `noop_with_empty_axes` into every reduction; opset 17 does not know the word."""
    node = helper.make_node(
        op, ["x"] if axes is None else ["x", "axes"], ["out"], keepdims=1,
        **({} if idle is None else {"noop_with_empty_axes": idle}),
    )  # fmt: skip
    model = graph_of([node], {"x": (2, 3, 4)}, {} if axes is None else {"axes": np.array(axes, np.int64)})
    if idle and not axes and op in ("ReduceL2", "ReduceSumSquare"):
        with pytest.raises(QdbevError, match=f"{op} along no axis"):
            to_opset17(model)
        return
    before = run(model)
    to_opset17(model)
    onnx.checker.check_model(model, full_check=True)
    assert np.array_equal(run(model), before)
    assert (model.graph.node[0].op_type == "Identity") == (bool(idle) and not axes)


def test_dilations_of_one_are_none() -> None:
    for dilation in (1, 2):
        pool = helper.make_node("AveragePool", ["x"], ["out"], kernel_shape=[2, 2], dilations=[dilation, 1])
        model = graph_of([pool], {"x": (1, 2, 6, 4)}, {}, opset=19)
        if dilation == 2:
            with pytest.raises(QdbevError, match=r"AveragePool with dilations \[2, 1\]"):
                to_opset17(model)
            continue
        before = run(model)
        assert to_opset17(model) == 1
        onnx.checker.check_model(model, full_check=True)
        assert np.abs(run(model) - before).max() < 1e-6  # ONNX Runtime sums in another order from opset 19 on


@pytest.mark.parametrize(
    ("node", "arrays", "says"),
    [
        (helper.make_node("Pad", ["x", "p"], ["out"], mode="wrap"), {"p": np.ones(8, np.int64)}, "Pad with mode wrap"),
        (
            helper.make_node("ScatterElements", ["x", "i", "u"], ["out"], reduction="max"),
            {"i": np.zeros((1, 1, 1, 1), np.int64), "u": np.zeros((1, 1, 1, 1), np.float32)},
            "ScatterElements with reduction max",
        ),
        (
            helper.make_node(
                "Resize", ["x", "", "s"], ["out"], mode="linear", coordinate_transformation_mode="half_pixel_symmetric"
            ),
            {"s": np.array([1, 1, 2, 2], np.float32)},
            "half_pixel_symmetric",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_values_that_the_checker_does_not_read(node: onnx.NodeProto, arrays: dict[str, np.ndarray], says: str) -> None:
    with pytest.raises(QdbevError, match=says):
        to_opset17(graph_of([node], {"x": (1, 2, 6, 4)}, arrays, opset=19))


def test_a_sample_of_volumes_is_refused() -> None:
    sample = helper.make_node("GridSample", ["x", "grid"], ["out"], mode="linear")
    with pytest.raises(QdbevError, match="GridSample of volumes"):
        to_opset17(graph_of([sample], {"x": (1, 2, 3, 4, 5), "grid": (1, 2, 2, 2, 3)}, {}, opset=20))


@pytest.mark.parametrize(("opset", "scale"), [(19, np.float16(0.1)), (23, np.float32(0.1))])
def test_quantisation_of_fp16_is_no_quantisation_of_opset_17(opset: int, scale: np.generic) -> None:
    nodes = [
        helper.make_node("Cast", ["x"], ["half"], to=TensorProto.FLOAT16),
        helper.make_node("QuantizeLinear", ["half", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["dq"]),
        helper.make_node("Cast", ["dq"], ["out"], to=TensorProto.FLOAT),
    ]
    model = graph_of(nodes, {"x": (2, 3)}, {"s": scale, "z": np.int8(0)}, opset)
    with pytest.raises(QdbevError, match="QuantizeLinear_q' is a QuantizeLinear of float16"):
        to_opset17(onnx.shape_inference.infer_shapes(model))


def test_what_opset_17_cannot_say_is_refused() -> None:
    antialias = graph_of(
        [helper.make_node("Resize", ["x", "", "s"], ["out"], mode="linear", antialias=1)], {"x": (1, 1, 4, 4)},
        {"s": np.array([1, 1, 0.5, 0.5], np.float32)},
    )  # fmt: skip
    with pytest.raises(QdbevError, match="Resize with antialias 1"):
        to_opset17(antialias)
    with pytest.raises(QdbevError, match="Mish which opset 17 does not know"):
        to_opset17(graph_of([helper.make_node("Mish", ["x"], ["out"])], {"x": (2,)}, {}))


def test_opset_21_without_its_types_is_opset_20() -> None:
    model = int8_conv(opset=21)
    before = run(model)
    assert lowering.to_opset20(model) == 1
    assert standard_opset(model) == 20
    onnx.checker.check_model(model, full_check=True)
    assert np.array_equal(run(model), before)


def test_what_opset_20_defines_otherwise_is_refused() -> None:
    norm = helper.make_node("GroupNormalization", ["x", "one", "one"], ["out"], num_groups=2)
    one = {"one": np.ones(4, np.float32)}
    with pytest.raises(QdbevError, match="'GroupNormalization_out' is a GroupNormalization as opset 21 defines it"):
        lowering.to_opset20(graph_of([norm], {"x": (1, 4, 3, 3)}, one, opset=21))
    blocks = helper.make_node("DequantizeLinear", ["w", "s"], ["out"], axis=0, block_size=2)
    model = graph_of([blocks], {}, {"w": np.ones((4, 3), np.int8), "s": np.ones((2, 3), np.float32)}, opset=21)
    with pytest.raises(QdbevError, match="DequantizeLinear as opset 21 defines it"):
        lowering.to_opset20(model)


@pytest.mark.parametrize(
    ("opset", "change"),
    [
        (18, lambda node: node.attribute.append(helper.make_attribute("strange", 1))),
        (19, lambda node: node.attribute.append(helper.make_attribute("to", TensorProto.FLOAT8E4M3FN))),
    ],
    ids=["attribute", "type"],
)
def test_no_pass_leaves_an_invalid_file(opset: int, change: Callable[[onnx.NodeProto], None]) -> None:
    """A form that the passes have no words for is refused by the checker, by its types as well."""
    nodes = [helper.make_node("Cast", ["x"], ["c"]), helper.make_node("Cast", ["c"], ["out"], to=TensorProto.FLOAT)]
    nodes[0].attribute.extend([] if opset == 19 else [helper.make_attribute("to", TensorProto.FLOAT16)])
    model = graph_of(nodes, {"x": (2, 3)}, {}, opset)
    change(model.graph.node[0])
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("out", TensorProto.FLOAT, [2, 3]))
    with pytest.raises(QdbevError, match=r"lowered for trt8\.6 it is no valid ONNX of opset 17: .*(strange|float8)"):
        lowering.lower(model, "trt8.6")


def test_a_model_whose_own_types_are_wrong_is_not_the_passes_fault() -> None:
    model = graph_of([helper.make_node("Relu", ["x"], ["out"])], {"x": (2, 3)}, {})
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("out", TensorProto.FLOAT, [4, 4]))
    with pytest.raises(onnx.shape_inference.InferenceError):
        onnx.checker.check_model(model, full_check=True)
    assert standard_opset(lowering.lower(model, "trt8.6")[0]) == 17


@pytest.mark.parametrize("stride", [1, 2])
def test_deform_conv_becomes_sampling_and_a_product(stride: int) -> None:
    out = [(7 - 1) // stride + 1, (5 - 1) // stride + 1]
    model = graph_of(
        [
            helper.make_node(
                "DeformConv",
                ["x", "w", "offset", "b", "mask"],
                ["out"],
                kernel_shape=[3, 3],
                strides=[stride] * 2,
                pads=[1] * 4,
                dilations=[1, 1],
            )
        ],
        {"x": (2, 3, 7, 5), "offset": (2, 18, *out), "mask": (2, 9, *out)},
        {"w": RNG.standard_normal((4, 3, 3, 3)).astype(np.float32), "b": RNG.standard_normal(4).astype(np.float32)},
        opset=19,
    )
    before = run(model)
    assert lowering.deform_conv_to_sampling(model) == 1
    model.functions.append(op_function("ModulatedDeformSample", 19))
    onnx.checker.check_model(model, full_check=True)
    assert np.abs(run(model) - before).max() < 1e-5  # sums in another order


def test_sorting_and_removing() -> None:
    model = graph_of(
        [helper.make_node("Relu", ["a"], ["out"]), helper.make_node("Neg", ["x"], ["a"]),
         helper.make_node("Abs", ["x"], ["nobody_reads"])],
        {"x": (2,)}, {"unused": np.ones(3, np.float32)},
    )  # fmt: skip
    sort_nodes(model)
    remove_unused(model)
    assert [node.op_type for node in model.graph.node] == ["Neg", "Relu"]
    assert not model.graph.initializer
    onnx.checker.check_model(model)


def test_lowering_leaves_the_model_itself_alone() -> None:
    model = int8_conv(opset=21)
    quantised.pack_int4(model)
    content = model.SerializeToString()
    lowered, notes = lowering.lower(model, "trt8.6")
    assert model.SerializeToString() == content
    assert standard_opset(lowered) == 17
    assert lowered.ir_version == 8
    assert len(notes) == 4
    assert np.array_equal(run(lowered), run(model))
    with pytest.raises(QdbevError, match="unknown target 'trt7'"):
        lowering.lower(model, "trt7")
