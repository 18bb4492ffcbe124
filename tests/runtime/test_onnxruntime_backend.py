"""The C++ runtime's ONNX Runtime backend on models of a few nodes, whose results one can tell by head."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from qdbev_deploy.reference import UNFUSED, session_of
from tests.runtime.programs import onnxruntime_library, program, run

Array = npt.NDArray[Any]
SHAPES = {
    "image": (1, 6, 3, 2, 2), "prev_bev": (4, 1, 2), "use_prev_bev": (1,), "can_bus": (18,), "lidar2img": (1, 6, 4, 4),
    "bev_embed": (4, 1, 2), "outputs_classes": (1, 1, 2, 10), "outputs_coords": (1, 1, 2, 10),
}  # fmt: skip
INPUTS, OUTPUTS = list(SHAPES)[:5], list(SHAPES)[5:]
OLD_LIBRARY = """
struct Base { const void* (*api)(unsigned); const char* (*version)(); };
static const void* api(unsigned version) { return version > 9 ? nullptr : ""; }
static const char* version() { return "1.9.0"; }
extern "C" const Base* OrtGetApiBase() { static const Base base{api, version}; return &base; }
"""


def ramp(shape: tuple[int, ...], start: int = 0) -> Array:
    return (np.arange(np.prod(shape), dtype=np.float32) + np.float32(start)).reshape(shape)


def write(path: Path, nodes: list[onnx.NodeProto], constants: dict[str, Array], half: bool = False,
          wrong: bool = False) -> None:  # fmt: skip
    def value(name: str) -> onnx.ValueInfoProto:
        state = half and name in ("prev_bev", "bev_embed")
        return helper.make_tensor_value_info(
            name, TensorProto.FLOAT16 if state else TensorProto.FLOAT, list(SHAPES[name])
        )

    inputs = [value(name) for name in INPUTS]
    if wrong:
        inputs[0].type.tensor_type.shape.dim[4].dim_param = "w"
        inputs[3].type.tensor_type.elem_type = TensorProto.DOUBLE
        inputs.append(helper.make_tensor_value_info("more", TensorProto.UINT8, [1]))
    graph = helper.make_graph(nodes, "small", inputs, [value(name) for name in OUTPUTS],
                              [numpy_helper.from_array(array, name) for name, array in constants.items()])  # fmt: skip
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


def sum_of(name: str, result: str) -> onnx.NodeProto:
    return helper.make_node("ReduceSum", [name], [result], keepdims=0)


HEADS = [
    # classes: i + 100 * can_bus[0] + sum of (index + 1) * can_bus; from 3 on the table has no such entry
    helper.make_node("Gather", ["can_bus", "first"], ["entry"]),
    helper.make_node("Cast", ["entry"], ["index"], to=TensorProto.INT64),
    helper.make_node("Gather", ["table", "index"], ["picked"], name="picks"),
    helper.make_node("Mul", ["can_bus", "can_bus_weights"], ["weighted_can_bus"]),
    sum_of("weighted_can_bus", "motion"),
    helper.make_node("Add", ["motion", "picked"], ["moved"]),
    helper.make_node("Add", ["head", "moved"], ["outputs_classes"]),
    # coords: i + sum of (index + 1) * lidar2img
    helper.make_node("Mul", ["lidar2img", "lidar2img_weights"], ["weighted_lidar2img"]),
    sum_of("weighted_lidar2img", "projected"),
    helper.make_node("Add", ["head", "projected"], ["outputs_coords"]),
]
HEAD_CONSTANTS = {
    "first": np.array(0), "table": np.array([0, 100, 200], np.float32), "head": ramp((1, 1, 2, 10)),
    "can_bus_weights": ramp((18,), 1), "lidar2img_weights": ramp((1, 6, 4, 4), 1),
}  # fmt: skip


def carrying(half: bool) -> list[onnx.NodeProto]:
    """bev_embed = i + sum of the image + 2 * prev_bev where use_prev_bev is not 0."""
    to_float = helper.make_node("Cast", ["prev_bev"], ["prev"], to=TensorProto.FLOAT)
    to_half = helper.make_node("Cast", ["next"], ["bev_embed"], to=TensorProto.FLOAT16 if half else TensorProto.FLOAT)
    return [
        to_float,
        helper.make_node("Cast", ["use_prev_bev"], ["use"], to=TensorProto.BOOL),
        helper.make_node("Where", ["use", "prev", "zero"], ["past"]),
        helper.make_node("Add", ["past", "past"], ["twice"]),
        sum_of("image", "seen"),
        helper.make_node("Add", ["cells", "seen"], ["present"]),
        helper.make_node("Add", ["twice", "present"], ["next"]),
        to_half,
    ]


def quantised() -> tuple[list[onnx.NodeProto], dict[str, Array]]:
    """bev_embed from a Gemm between Q and DQ, which fused comes out otherwise than unfused."""
    rng = np.random.default_rng(0)
    constants = {
        "flat": np.array([1, 72]), "cells_shape": np.array(SHAPES["bev_embed"]), "zero_point": np.array(0, np.int8),
        "image_scale": np.array(0.0213, np.float32), "weight": rng.integers(-127, 128, (72, 8)).astype(np.int8),
        "weight_scale": np.array(0.0137, np.float32), "bias": rng.integers(-9999, 9999, 8).astype(np.int32),
        "bias_scale": np.array(np.float32(0.0213) * np.float32(0.0137)), "bias_zero": np.array(0, np.int32),
    }  # fmt: skip
    nodes = [
        helper.make_node("Reshape", ["image", "flat"], ["row"]),
        helper.make_node("QuantizeLinear", ["row", "image_scale", "zero_point"], ["row_q"]),
        helper.make_node("DequantizeLinear", ["row_q", "image_scale", "zero_point"], ["row_dq"]),
        helper.make_node("DequantizeLinear", ["weight", "weight_scale", "zero_point"], ["weight_dq"]),
        helper.make_node("DequantizeLinear", ["bias", "bias_scale", "bias_zero"], ["bias_dq"]),
        helper.make_node("Gemm", ["row_dq", "weight_dq", "bias_dq"], ["cells_row"]),
        helper.make_node("Reshape", ["cells_row", "cells_shape"], ["bev_embed"]),
    ]
    return nodes, constants


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    program("test_onnxruntime")
    folder = tmp_path_factory.mktemp("small-models")
    constants = HEAD_CONSTANTS | {"zero": np.array(0, np.float32), "cells": ramp(SHAPES["bev_embed"])}
    for half in (False, True):
        write(folder / ("half.onnx" if half else "plain.onnx"), carrying(half) + HEADS, constants, half=half)
    as_double = helper.make_node("Cast", ["can_bus"], ["can_bus_f"], to=TensorProto.FLOAT)
    heads = [onnx.NodeProto.FromString(node.SerializeToString()) for node in HEADS]
    for node in heads:
        node.input[:] = ["can_bus_f" if name == "can_bus" else name for name in node.input]
    write(folder / "wrong.onnx", [*carrying(False), as_double, *heads], constants, wrong=True)
    nodes, weights = quantised()
    write(folder / "quantised.onnx", nodes + HEADS, HEAD_CONSTANTS | weights)
    content = (folder / "plain.onnx").read_bytes()
    (folder / "damaged.onnx").write_bytes(content[: len(content) // 2])
    (folder / "old.cpp").write_text(OLD_LIBRARY, encoding="utf-8")
    compiler = os.environ.get("CXX") or shutil.which("c++") or "g++"
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-o", folder / "libold.so", folder / "old.cpp"], check=True, timeout=60
    )
    return folder


def libraries() -> list[str]:
    """The package's own, and the one that the environment names."""
    named = os.environ.get("QDBEV_ONNXRUNTIME_LIBRARY")
    return list(dict.fromkeys([str(onnxruntime_library()), *([named] if named else [])]))


@pytest.mark.parametrize("library", libraries(), ids=lambda path: Path(path).name)
def test_the_backend(folder: Path, library: str) -> None:
    done = run("test_onnxruntime", folder, library)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith(" checks, 0 failures\n")


def test_fusion_of_quantised_layers_is_as_the_bundle_says(folder: Path) -> None:
    path = folder / "quantised.onnx"
    feeds = {name: np.zeros(SHAPES[name], np.float32) for name in INPUTS}
    pixels = (np.arange(72) * 37 % 101 - 50).astype(np.float32) * np.float32(0.05)
    feeds["image"] = pixels.reshape(SHAPES["image"])
    states = []
    for fused in (False, True):
        session = session_of(str(path), {} if fused else UNFUSED, threads=1)
        known = {value.name for value in session.get_inputs()}
        (state,) = session.run(["bev_embed"], {name: array for name, array in feeds.items() if name in known})
        done = run("test_onnxruntime", "state", path, onnxruntime_library(), int(fused))
        assert done.stdout.split() == [f"{word:08x}" for word in state.view(np.uint32).ravel()], done.stderr
        states.append(state)
    assert not np.array_equal(*states)  # else this would prove nothing
