"""The inspector's JSON as 8.6 and as 10 and later write it: nodes, precisions, bytes, multiplications."""

from __future__ import annotations

import json
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper

from qdbev_deploy.engine.guard import judge
from qdbev_deploy.engine.interface import Layer
from qdbev_deploy.engine.tensorrt.layers import parse_layers
from qdbev_deploy.engine.tensorrt.network import onnx_nodes
from tests.engine.tensorrt.toy import lowered_for

CHW4 = "Four wide channel vectorized row major Int8 format"
CHW32 = "Thirty-two wide channel vectorized row major Int8 format"
HWC8 = "Channel major FP16 format where channel % 8 == 0"
FP32, FP16, INT8 = "Row major linear FP32", "Row major linear FP16 format", "Row major Int8 format"


def tensor(said: str, name: str = "x", shape: tuple[int, ...] = (1, 3, 8, 8)) -> dict[str, Any]:
    return {"Name": name, "Location": "Device", "Dimensions": list(shape), "Format/Datatype": said}


def layer(name: str, kind: str, inputs: list[str], outputs: list[str], **more: Any) -> dict[str, Any]:
    return {"Name": name, "LayerType": kind, "Inputs": [tensor(said) for said in inputs],
            "Outputs": [tensor(said, "y") for said in outputs], **more}  # fmt: skip


def parsed(*entries: dict[str, Any] | str, model: onnx.ModelProto | None = None) -> tuple[Layer, ...]:
    content = json.dumps({"Layers": list(entries), "Bindings": ["image", "bev_embed"]})
    return parse_layers(content, model or lowered_for("trt8.6"))


WEIGHTS = {"Weights": {"Type": "Int8", "Count": 864}, "Bias": {"Type": "Float", "Count": 32}}


def test_a_fused_convolution_of_8_6() -> None:
    """Names joined by plus signs, Q/DQ of the weights among them."""
    name = "conv.integers.float + toy/conv.integers/dq#2 + toy/features"
    (conv,) = parsed(layer(name, "CaskConvolution", [CHW4], [FP32], ParameterType="Convolution",
                           TacticName="ampere_fp32_icudnn_int8x4_128x64_relu_medium_nn_v1", **WEIGHTS))  # fmt: skip
    assert (conv.name, conv.kind, conv.precision) == (name, "CaskConvolution", "int8")
    assert conv.nodes[-1] == "toy/features"
    assert conv.inputs[0].dtype == "int8"
    assert conv.inputs[0].format == CHW4
    assert conv.inputs[0].shape == (1, 3, 8, 8)
    assert conv.outputs[0].dtype == "float32"
    assert conv.weight_bytes == 864 + 32 * 4
    assert conv.macs == 6 * 32 * 64 * 27
    assert conv.tactic.startswith("ampere_fp32_icudnn")


def test_the_same_of_10() -> None:
    """Myelin's names say nothing; the metadata does."""
    metadata = "[ONNX Layer: toy/frames/q]\x1e[ONNX Layer: toy/conv.integers/dq]\x1f[ONNX Layer: toy/features]"
    (conv,) = parsed(layer("__myl_Conv_myl0_3", "conv", ["Int8", "Int8", "Half"], ["Half"], Metadata=metadata,
                           TacticName="sm80_xmma_fprop_implicit_gemm_i8f16_i8i32_f16_nhwckrsc_nhwc"),
                     model=lowered_for("trt10.3"))  # fmt: skip
    assert conv.nodes == ("toy/frames/q", "toy/conv.integers/dq", "toy/features")
    assert conv.precision == "int8"
    assert conv.outputs[0].dtype == "float16"
    assert conv.macs == 6 * 32 * 64 * 27


@pytest.mark.parametrize(
    "tactic",
    [
        "sm80_xmma_fprop_implicit_gemm_interleaved_i8i8_i8i32_f32_nchw_vect_c_32kcrs_vect_c_32_tilesize256x128x64_stage4"
        "_warpsize4x2x1_g1_tensor16x8x32_simple_t1r1s1_epifadd",
        "sm80_xmma_fprop_implicit_gemm_interleaved_i8f32_i8i32_f32_nchw_vect_c_32kcrs_tensor16x8x32_t1r3s3_alignc4_nchw",
        "sm80_xmma_fprop_implicit_gemm_i8f16_i8i32_f16_nhwckrsc_nhwc",
        "ampere_fp32_icudnn_int8x4_128x64_relu_medium_nn_v1",
        "turing_int8_i8816cudnn_int8_256x64_ldg16_relu_medium_nt_v1",
        "ampere_int8_i16816gemm_int8_128x128_ldg16_relu_stages_32x6_tn_v1",
        "cutlass_80_tensorop_s8_i16832gemm_s8_256x128_64x3_tn_align16",
        "",
    ],
)
def test_kernels_of_real_engines_are_int8(tactic: str) -> None:
    """Names that NVIDIA's kernels have; with weights in the entry (8.6) and with the weights as an input (10)."""
    (conv,) = parsed(layer("toy/features", "CaskConvolution", [CHW32], [HWC8], TacticName=tactic, **WEIGHTS))
    assert conv.precision == "int8"
    meta = {"Metadata": "[ONNX Layer: toy/features]"}
    (gemm,) = parsed(layer("g", "gemm", ["Int8", "Int8", "Float"], ["Half"], TacticName=tactic, **meta))
    assert gemm.precision == "int8"
    for made in ([conv], [gemm]):
        assert judge(lowered_for("trt8.6"), made).macs["int8"] == 6 * 32 * 64 * 27


@pytest.mark.parametrize(
    "tactic",
    [
        "sm80_xmma_gemm_f16f16_f16f32_f32_tn_n", "sm80_xmma_fprop_implicit_gemm_f16f16_f16f16_f16",
        "sm80_xmma_fprop_implicit_gemm_tf32f32_tf32f32_f32", "sm80_xmma_gemm_f32f32_f32f32_f32",
        "sm50_xmma_cublas_gemvx_f16f16_f32", "ampere_h16816gemm_256x128_ldg8_nn_v1", "trt_volta_h884cudnn_256x64",
        "turing_fp16_s1688cudnn_fp16_128x128", "cutlass_80_tensorop_s16816gemm_f16", "volta_scudnn_128x32_relu_small",
        "ampere_sgemm_32x32_sliced1x4", "sm80_xmma_hmma_conv", "sm89_xmma_gemm_e4m3e4m3_e4m3f32_f32",
    ],
)  # fmt: skip
@pytest.mark.parametrize(
    "entry",
    [
        layer("g", "gemm", ["Int8"], ["Half"]),
        layer("g", "gemm", ["Int8", "Int8"], ["Half"]),
        layer("g", "CaskConvolution", [CHW32], [HWC8], Weights={"Type": "Int8", "Count": 864}),
        layer("g", "kgen", ["Int8"], ["Half"]),
        layer("g", "fusion", ["Int8", "Half"], ["Half"]),
    ],
)
def test_a_float_kernel_is_no_int8_whatever_it_reads(tactic: str, entry: dict[str, Any]) -> None:
    made = parsed({**entry, "TacticName": tactic, "Metadata": "[ONNX Layer: toy/features]"})
    assert made[0].precision == "mixed"
    assert [item.ran for item in judge(lowered_for("trt8.6"), made).asked if item.op == "Conv"] == ["mixed"]


QDQ_AND_PRODUCT = "[ONNX Layer: toy/frames/q]\x1e[ONNX Layer: toy/conv.integers/dq]\x1e[ONNX Layer: toy/features]"


def test_a_generated_kernel_is_no_int8_by_its_one_input() -> None:
    """Int8 in, half out, with quantizer, weights and product in its metadata: what did it multiply?"""
    made = parsed(layer("__myl_CastMulFc", "kgen", ["Int8"], ["Half"], TacticName="__myl_Fc_0x1",
                        Metadata=QDQ_AND_PRODUCT))  # fmt: skip
    assert made[0].precision == "mixed"
    two = parsed(layer("__myl_CastMulFc", "kgen", ["Int8", "Int8"], ["Int8"], Metadata=QDQ_AND_PRODUCT))
    assert two[0].precision == "mixed"


def test_a_kernel_that_only_prepares_does_not_speak_for_the_product() -> None:
    """It claims the product, which a half kernel runs whose metadata names the quantizer alone."""
    prepares = layer("prep", "kgen", ["Int8"], ["Half"], Metadata=QDQ_AND_PRODUCT)
    multiplies = layer("k", "gemm", ["Half", "Half"], ["Half"], Metadata="[ONNX Layer: toy/frames/q]")
    for made in ((prepares, multiplies), ({**prepares, "Outputs": [tensor("Int8")]}, multiplies)):
        report = judge(lowered_for("trt10.3"), parsed(*made))
        assert [item.ran for item in report.asked if item.op == "Conv"] == ["mixed"]


def test_a_fusion_of_myelin_multiplies_by_its_kernels_name() -> None:
    """Beside the casts that were split off, which claim the node too."""
    fused = layer("__myl_FcMulAdd_myl0_25", "fusion", ["Int8", "Int8", "Half"], ["Half"], Metadata=QDQ_AND_PRODUCT,
                  TacticName="sm80_xmma_gemm_i8i8_i8i32_f32_tn_n_tensor16x8x32_by_fusion_tactic")  # fmt: skip
    quantizes = layer("__myl_MulRounCast", "kgen", ["Half"], ["Int8"], Metadata=QDQ_AND_PRODUCT)
    report = judge(lowered_for("trt10.3"), parsed(quantizes, fused))
    assert [item.ran for item in report.asked if item.op == "Conv"] == ["int8"]


@pytest.mark.parametrize(
    ("entry", "precision"),
    [
        (layer("a", "CaskConvolution", [HWC8], [HWC8], Weights={"Type": "Half", "Count": 9}), "float16"),
        (layer("a", "CaskConvolution", [FP32], [FP32], Weights={"Type": "Float", "Count": 9}), "float32"),
        # Integers come in and meet float weights: they are not multiplied as integers.
        (layer("a", "CaskConvolution", [INT8], [FP32], Weights={"Type": "Float", "Count": 9}), "float32"),
        # A shortcut in int8 beside the activation.
        (layer("a", "CaskConvolution", [CHW32, CHW32], [CHW32], **WEIGHTS), "int8"),
        (layer("a", "gemm", ["Half", "Half"], ["Half"], TacticName="sm80_xmma_gemm_f16f16_f16f32"), "float16"),
        (layer("a", "gemm", ["Int8", "Int8", "Float"], ["Half"], TacticName="__myl_fc"), "int8"),
        (layer("a", "fusion", ["Int8", "Half"], ["Half"], TacticName="sm80_xmma_gemm_i8i8_i8i32_f32_tn"), "int8"),
        (layer("a", "kgen", ["Int8", "Half"], ["Half"], TacticName="__myl_AddResMul"), "mixed"),
        (layer("a", "fusion", ["Int8", "Half"], ["Half"], TacticName="sm80_xmma_gemm_f16f16_f16f32_f32_tn"), "mixed"),
        (layer("a", "kgen", ["Half", "Bool", "Int64"], ["Half"]), "float16"),
        (layer("a", "kgen", ["Int8"], ["Half"], TacticName="__myl_CastMul"), "mixed"),  # a dequantizer
        (layer("a", "CaskPooling", [CHW32], [CHW32], TacticName="sm72_xmma_pooling_IMMA_NCxHW32_generic"), "int8"),
        (layer("a", "TiledPooling", [CHW32], [CHW32]), "int8"),
        # One factor, or two that an unnamed kernel may have turned into floats first, is no proof.
        (layer("a", "gemm", ["Int8"], ["Half"], TacticName="__myl_fc"), "mixed"),
        (layer("a", "gemm", ["Int8", "Half"], ["Half"]), "mixed"),
        (layer("a", "gemm", ["Int8", "Int8"], ["Half"], TacticName="sm80_xmma_gemm_f16f16_f16f16_f16_nn"), "mixed"),
        (layer("a", "gemm", ["Int8", "Int8"], ["Half"], TacticName="ampere_h16816gemm_256x128_ldg8_nn_v1"), "mixed"),
        (layer("a", "gemm", ["Half", "Half"], ["Half"], TacticName="sm80_xmma_gemm_i8i8_i8i32_f32_tn"), "mixed"),
        (layer("a", "gemm", ["Half"], ["Half"], TacticName="ampere_h16816gemm_256x128_ldg8_nn_v1"), "float16"),
        # Half weights under an integer kernel's name; int8 weights that meet half activations.
        (
            layer(
                "a",
                "CaskConvolution",
                [CHW32],
                [HWC8],
                Weights={"Type": "Half", "Count": 9},
                TacticName="sm80_xmma_fprop_implicit_gemm_i8i8_i8i32_f32",
            ),
            "mixed",
        ),
        (layer("a", "CaskConvolution", [HWC8], [HWC8], **WEIGHTS), "float16"),
        (layer("a", "PointWiseV2", [FP16], [FP16]), "float16"),
        (layer("a", "PointWiseV2", [FP16], [INT8]), "float16"),  # with the quantizer behind it
        (layer("a", "Reformat", [FP32], [INT8]), ""),
        (layer("a", "NoOp", [INT8], [INT8]), ""),
        (layer("a", "Constant", [], [FP32]), ""),
        (layer("Reformatting CopyNode for Input Tensor 0 to toy/features", "Reformat", [FP32], [FP16]), ""),
        (layer("a", "PluginV2", [INT8, FP32, FP16, FP16], [FP16], PluginType="MSDeformAttn"), "int8"),
        (layer("a", "PluginV3", ["Half", "Float", "Half", "Half"], ["Half"]), "float16"),
        (layer("a", "TiledPooling", ["BFloat16"], ["BFloat16"]), "bfloat16"),
    ],
)
def test_precisions(entry: dict[str, Any], precision: str) -> None:
    assert parsed(entry)[0].precision == precision


def test_the_plugin_is_named_with_its_op() -> None:
    (plugin,) = parsed(layer("toy/attended", "PluginV2", [INT8], [FP16], PluginType="MSDeformAttn"))
    assert plugin.kind == "PluginV2 MSDeformAttn"
    assert plugin.nodes == ("toy/attended",)


def test_names_that_were_wrapped_and_copied() -> None:
    layers = parsed(
        layer("PWN(PWN(toy/coords_unit), toy/coords_metres)", "PointWiseV2", [FP32], [FP32]),
        layer("toy/frames/q_clone_1", "Scale", [FP32], [INT8]),
        layer("Reformatting CopyNode for Output Tensor 0 to toy/features", "Reformat", [FP32], [FP16]),
        layer("(Unnamed Layer* 307) [ElementWise]", "ElementWise", [FP32], [FP32]),
    )
    assert [item.nodes for item in layers] == [("toy/coords_unit", "toy/coords_metres"), ("toy/frames/q",), (), ()]


def test_a_foreign_node_holds_what_lies_between_its_ends() -> None:
    """8.6 names the first and the last node; with Q/DQ inside, its inputs and outputs do not tell its precision."""
    (plain,) = parsed(layer("{ForeignNode[toy/objects...toy/coords_metres]}", "Myelin", [FP16], [FP16]))
    assert set(plain.nodes) == {"toy/objects", "toy/coords_flat", "toy/coords_unit", "toy/coords_metres"}
    assert plain.precision == "float16"
    assert plain.macs == 5 * 9 * 32 + 5 * 32 * 10
    (hidden,) = parsed(layer("{ForeignNode[toy/frames/q...toy/features]}", "Myelin", [FP16], [FP16]))
    assert "toy/features" in hidden.nodes
    assert hidden.precision == "mixed"


def test_a_product_is_counted_once() -> None:
    """A layer that was split keeps its multiplications with its first computing part."""
    meta = "[ONNX Layer: toy/objects]"
    layers = parsed(
        layer("copy", "Reformat", [FP32], [FP16], Metadata=meta),
        layer("part one", "gemm", ["Half", "Half"], ["Half"], Metadata=meta),
        layer("part two", "kgen", ["Half"], ["Half"], Metadata=meta),
    )
    assert [item.macs for item in layers] == [0, 5 * 9 * 32, 0]


@pytest.mark.parametrize(
    ("metadata", "names"),
    [
        ("", ()),
        ("some text", ()),
        ("[ONNX Layer: a/b.0/Conv]", ("a/b.0/Conv",)),
        ("[ONNX Layer: a | a doc string | Local Function: f]\x1e[ONNX Layer: b]\x1f[ONNX Layer: a]", ("a", "b")),
        ("x [ONNX Layer: qk][ONNX Layer: softmax]", ("qk", "softmax")),
    ],
)
def test_metadata(metadata: str, names: tuple[str, ...]) -> None:
    assert onnx_nodes(metadata) == names


def test_less_verbose_engines_say_less() -> None:
    names_only = parsed("toy/features", "Reformatting CopyNode for Input Tensor 0 to toy/features")
    assert [(item.nodes, item.precision) for item in names_only] == [(("toy/features",), ""), ((), "")]
    assert parse_layers(json.dumps({"Layers": []}), lowered_for("trt8.6")) == ()


def test_the_guard_reads_them() -> None:
    """A convolution that fell back to FP16 fails; with its layer in int8 it passes."""
    model = lowered_for("trt10.3")
    plugin = layer("p", "PluginV3", ["Int8", "Float", "Half", "Half"], ["Half"], Metadata="[ONNX Layer: toy/attended]")
    meta = {"Metadata": "[ONNX Layer: toy/features]"}
    good = parsed(plugin, layer("c", "conv", ["Int8", "Int8"], ["Half"], **meta), model=model)
    assert judge(model, good).passed
    bad = parsed(plugin, layer("c", "conv", ["Half", "Half"], ["Half"], **meta), model=model)
    assert [(item.node, item.ran) for item in judge(model, bad).failures] == [("toy/features", "float16")]


def test_a_graph_without_names_of_nodes_is_no_trouble() -> None:
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])], "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (1,))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, (1,))],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    assert parsed(layer("Relu_0", "Activation", [FP32], [FP32]), model=model)[0].nodes == ()
