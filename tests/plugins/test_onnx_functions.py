"""The C++ ops and the ONNX function bodies are the same functions: ONNX Runtime runs what the plugin computes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper
from plugin_cases import BUILDERS, Case, ms_deform_case, spatial_case

from qdbev_deploy.contract import OP_DOMAIN, OP_VERSION
from qdbev_deploy.ops.functions import op_function
from qdbev_deploy.plugins import PluginLibrary

OPSET = 17
TYPES = {torch.float32: TensorProto.FLOAT, torch.int8: TensorProto.INT8}


def as_lists(attributes: dict[str, Any]) -> dict[str, Any]:
    return {name: list(value) if isinstance(value, Sequence) else value for name, value in attributes.items()}


def run_function(case: Case) -> np.ndarray:
    """The op's function body under ONNX Runtime, the op being one node of a model."""
    names = [f"input{index}" for index in range(len(case.inputs))]
    attributes = {"value_scale": 0.0, **as_lists(case.attributes)}
    node = helper.make_node(case.op, names, ["out"], domain=OP_DOMAIN, **attributes)
    graph = helper.make_graph(
        [node],
        "op",
        [helper.make_tensor_value_info(n, TYPES[t.dtype], t.shape) for n, t in zip(names, case.inputs, strict=True)],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, case.out_shape)],
    )
    levels = len(case.attributes.get("spatial_shapes", (0, 0))) // 2
    function = op_function(case.op, OPSET, levels=levels, cameras=case.inputs[0].shape[0])
    imports = [helper.make_opsetid("", OPSET), helper.make_opsetid(OP_DOMAIN, OP_VERSION)]
    model = helper.make_model(graph, functions=[function], opset_imports=imports, ir_version=8)
    onnx.checker.check_model(model)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    feeds = {name: tensor.contiguous().numpy() for name, tensor in zip(names, case.inputs, strict=True)}
    return session.run(["out"], feeds)[0]


def assert_same(case: Case, library: PluginLibrary) -> None:
    expected = run_function(case)
    actual = case.run(library)
    # Both are FP32; int8 samples differ by the fixed-point bound of bilinear.h.
    fixed_point = 0.012 * case.value_scale if case.op != "ModulatedDeformSample" else 0.0
    scale = np.abs(expected).max()
    assert scale > 0.05
    assert np.abs(actual - expected).max() <= fixed_point + 2e-5 * scale


@pytest.mark.parametrize("value_dtype", ["float32", "int8"])
@pytest.mark.parametrize("op", tuple(BUILDERS))
def test_friendly(library: PluginLibrary, op: str, value_dtype: str) -> None:
    assert_same(BUILDERS[op](60, value_dtype), library)


@pytest.mark.parametrize("op", tuple(BUILDERS))
def test_hostile_offsets(library: PluginLibrary, op: str) -> None:
    case = BUILDERS[op](61)
    flat = case.inputs[1 if op == "ModulatedDeformSample" else 2].view(-1)
    hostile = torch.tensor([float("nan"), float("inf"), -float("inf"), 3e38, -3e38, 1e5, -1e5])
    chosen = torch.arange(3, flat.numel(), 7)
    flat[chosen] = hostile[torch.arange(len(chosen)) % len(hostile)]
    assert_same(case, library)


def test_one_level_and_cameras_that_are_none(library: PluginLibrary) -> None:
    assert_same(ms_deform_case(62, shapes=((9, 7),)), library)
    case = spatial_case(63, shapes=((12, 20),), bev_hw=(20, 20))
    case.inputs[1][1] = float("nan")
    case.inputs[1][4] *= -1
    assert_same(case, library)
    case.inputs[1][:] = float("nan")
    assert (run_function(case) == 0).all()
    assert (case.run(library) == 0).all()
