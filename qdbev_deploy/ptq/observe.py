"""Activations of a float ONNX file counted over driven sequences, its own state fed back, in ONNX Runtime."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from qdbev_deploy.calibration.histogram import Histogram
from qdbev_deploy.contract import TensorSpec, VariantSpec
from qdbev_deploy.data.nuscenes import Frame
from qdbev_deploy.data.stream_frames import stream_frame
from qdbev_deploy.errors import QdbevError
from qdbev_deploy.graph.index import Graph
from qdbev_deploy.ptq.placement import Activation
from qdbev_deploy.reference import Feeds, session_of
from qdbev_deploy.streaming import StreamingSession

# Observed tensors leave the runtime all at once: beyond this they are observed in several passes.
PASS_BYTES = 1 << 30
_OUTPUTS = ["bev_embed", "outputs_classes", "outputs_coords"]


def passes(model: onnx.ModelProto, activations: Sequence[Activation]) -> list[list[Activation]]:
    """The activations in groups that fit the memory of one pass each."""
    graph = Graph(model)
    groups: list[list[Activation]] = []
    room = 0
    for activation in activations:
        shape = graph.shape(activation.tensor)
        size = 4 * math.prod(shape) if shape is not None else PASS_BYTES // 8
        if size > room or not groups:
            groups.append([])
            room = PASS_BYTES
        groups[-1].append(activation)
        room -= size
    return groups


def observe(
    model: onnx.ModelProto,
    inputs: Sequence[TensorSpec],
    spec: VariantSpec,
    groups: Sequence[Sequence[Activation]],
    rollouts: Sequence[Sequence[Frame]],
    on_frame: Callable[[], object],
) -> dict[str, Histogram]:
    """Histogram of each activation. Every pass drives all rollouts, each from a first frame on."""
    histograms: dict[str, Histogram] = {}
    image_form = inputs[0].dtype
    for group in groups:
        runtime = _open(_with_outputs(model, [activation.tensor for activation in group]))
        counted = {activation.tensor: histograms.setdefault(activation.name, Histogram()) for activation in group}
        session = StreamingSession(_step(runtime, inputs, counted))
        for frames in rollouts:
            session.reset()
            for frame in frames:
                given = stream_frame(frame, spec, image_form)
                session.step(given.image, given.lidar2img, given.ego, given.scene)
                on_frame()
    return histograms


def _with_outputs(model: onnx.ModelProto, tensors: Sequence[str]) -> onnx.ModelProto:
    copy: onnx.ModelProto = onnx.ModelProto.FromString(model.SerializeToString())
    present = {value.name for value in copy.graph.output}
    for name in dict.fromkeys(tensors):
        if name not in present:
            copy.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    return copy


def _open(model: onnx.ModelProto) -> Any:
    try:
        return session_of(model)
    except Exception as error:  # ONNX Runtime's own classes, which derive from nothing narrower
        raise QdbevError(
            f"ONNX Runtime does not run the file: {str(error).strip().splitlines()[0]}",
            "a file of standard ops, or with a function for each other one",
            "export it with: qdbev-deploy export",
        ) from error


def _step(runtime: Any, inputs: Sequence[TensorSpec], counted: dict[str, Histogram]) -> Any:
    feeds, state = Feeds(inputs), inputs[1]
    wanted = [*_OUTPUTS, *(name for name in counted if name not in _OUTPUTS)]

    def step(image: Any, prev_bev: Any, use_prev: bool, can_bus: Any, lidar2img: Any) -> tuple[Any, Any, Any]:
        # Others' files multiply the state by the flag: what is not a number would stay so.
        previous = np.zeros(state.shape, state.dtype) if prev_bev is None else prev_bev
        found = dict(zip(wanted, runtime.run(wanted, feeds(image, previous, use_prev, can_bus, lidar2img))))
        for name, histogram in counted.items():
            histogram.add(found[name])
        bev_embed, classes, coords = (found[name] for name in _OUTPUTS)
        return bev_embed, classes, coords

    return step
