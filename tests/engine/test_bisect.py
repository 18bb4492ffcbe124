"""The bisection against ONNX Runtime itself, with one layer spoilt: it is found, whatever lies behind it."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from qdbev_deploy.engine.bisect import (
    difference,
    first_divergence,
    onnxruntime_outputs,
    runner_of,
    with_outputs,
)
from qdbev_deploy.engine.interface import BuildOptions
from qdbev_deploy.graph.index import Graph
from qdbev_deploy.reference import Feeds
from tests.engine.tensorrt.toy import INPUTS, frame, toy


def feeds() -> dict[str, Any]:
    image, can_bus, lidar2img = frame(1)
    state = np.random.default_rng(5).standard_normal(INPUTS[1].shape).astype(np.float32)
    return Feeds(INPUTS)(image, state, True, can_bus, lidar2img)


def spoilt(name: str, factor: float = 1.5) -> onnx.ModelProto:
    model = toy(quantised=False)
    for tensor in model.graph.initializer:
        if tensor.name == name:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(factor), name))
            return model
    raise AssertionError(name)


@pytest.mark.parametrize("tensors_a_round", [1, 2, 3, 7, 100])
@pytest.mark.parametrize(
    ("weight", "tensor", "after"),
    [
        ("conv.weight", "features", "toy/frames"),
        ("norm.weight", "normed", "toy/summed"),
        ("coords.weight", "coords_flat", "toy/objects"),
        ("metres", "coords_metres", "toy/coords_unit"),
    ],
)
def test_the_spoilt_layer_is_found(weight: str, tensor: str, after: str, tensors_a_round: int) -> None:
    found = first_divergence(
        toy(quantised=False), spoilt(weight), feeds(), onnxruntime_outputs, 1e-3, tensors_a_round=tensors_a_round
    )
    assert found is not None
    assert (found.node, found.tensor, found.after) == (f"toy/{tensor}", tensor, after)
    assert found.relative > 1e-3
    assert found.max_abs > 0
    assert f"'toy/{tensor}' ({found.op}) is the first layer that differs" in found.says()
    assert found.to_dict()["says"] == found.says()


def test_few_tensors_are_marked_at_a_time() -> None:
    marked: list[list[str]] = []

    def run(model: onnx.ModelProto, values: dict[str, Any]) -> Any:
        marked.append([value.name for value in model.graph.output])
        return onnxruntime_outputs(model, values)

    said: list[tuple[int, int]] = []
    found = first_divergence(
        toy(quantised=False), spoilt("offsets.weight"), feeds(), run, 1e-3, tensors_a_round=4,
        progress=lambda rounds, left: said.append((rounds, left)),
    )  # fmt: skip
    assert found is not None
    assert found.tensor == "offsets_flat"
    assert all(len(names) <= 4 + 3 * (index == 0) for index, names in enumerate(marked))  # with the outputs, once
    assert 2 <= len(marked) <= 4
    assert [rounds for rounds, _ in said] == list(range(1, len(marked) + 1))
    assert said[-1][1] == 0
    assert found.examined == sum(map(len, marked))


def test_what_agreeing_tensors_are_made_of_is_not_asked_again() -> None:
    """Where the last but few layers are spoilt, the long road before them is not walked: a round may be a build."""
    found = first_divergence(
        toy(quantised=False), spoilt("metres"), feeds(), onnxruntime_outputs, 1e-3, tensors_a_round=2
    )
    assert found is not None
    assert found.tensor == "coords_metres"
    assert found.examined <= 12


def test_a_spoilt_first_layer_has_nothing_before_it() -> None:
    def run(model: onnx.ModelProto, values: dict[str, Any]) -> Any:
        return {name: array + 1 for name, array in onnxruntime_outputs(model, values).items()}

    found = first_divergence(toy(quantised=False), toy(quantised=False), feeds(), run, 1e-3)
    assert found is not None
    assert found.after == ""
    assert "nothing before it that agrees" in found.says()


def test_files_that_agree_have_no_divergence() -> None:
    assert first_divergence(toy(), toy(), feeds(), onnxruntime_outputs, 1e-6) is None


def test_nan_is_a_divergence() -> None:
    found = first_divergence(toy(quantised=False), spoilt("norm.bias", np.nan), feeds(), onnxruntime_outputs, 10.0)
    assert found is not None
    assert found.tensor == "normed"
    assert found.relative == float("inf")


@pytest.mark.parametrize(
    ("ours", "theirs", "relative", "largest"),
    [
        ([3.0, 4.0], [3.0, 4.0], 0.0, 0.0),
        ([3.0, 5.0], [3.0, 4.0], 0.2, 1.0),
        ([np.nan], [np.nan], 0.0, 0.0),
        ([np.nan], [1.0], np.inf, np.inf),
        ([np.inf, 1.0], [np.inf, 1.0], 0.0, 0.0),
        ([1.0], [1.0, 2.0], np.inf, np.inf),
        ([], [], 0.0, 0.0),
    ],
)
def test_differences(ours: list[float], theirs: list[float], relative: float, largest: float) -> None:
    assert difference(np.array(ours), np.array(theirs)) == pytest.approx((relative, largest))


def test_marked_outputs_keep_their_types() -> None:
    model = with_outputs(toy(), ["features", "outputs_coords"])
    graph = Graph(model)
    assert [value.name for value in model.graph.output] == ["features", "outputs_coords"]
    assert all(value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT for value in model.graph.output)
    assert graph.shape("outputs_coords") == (1, 1, 5, 10)


def test_a_backend_without_a_way_of_its_own_runs_the_file() -> None:
    nothing: Any = object()
    assert runner_of(nothing, BuildOptions()) is onnxruntime_outputs
    asked: list[Any] = []

    class Own:
        def outputs_of(self, model: Any, options: Any, values: Any) -> dict[str, Any]:
            asked.append(options)
            return {"y": np.zeros(1)}

    own: Any = Own()
    assert runner_of(own, BuildOptions(precision="fp16"))(toy(), {}) == {"y": np.zeros(1)}
    assert asked == [BuildOptions(precision="fp16")]
