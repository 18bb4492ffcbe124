"""A file of `--io mlperf` driven as the reference backend of MLPerf Automotive drives one: everything by position."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime

from qdbev_deploy.boxes import decode
from qdbev_deploy.contract import stream_inputs
from qdbev_deploy.export import ExportOptions, export_onnx
from qdbev_deploy.reference import stream_of
from qdbev_deploy.streaming import EgoState, can_bus_vector
from tests.drive import frames
from tests.export.students import PLAIN, feed, float_model, student


class ByPosition:
    """What that backend does: five inputs by their place, a flag without axes, zeros at first, the raw outputs back.

    It is given the CAN bus in absolute numbers, takes the last frame's position and angle off, and sets both to zero
    where the scene changes. Its log holds classes and coords of all decoder layers as one array, which its accuracy
    script shapes back by the number of layers before it takes the last.
    """

    def __init__(self, path: Path) -> None:
        self.runtime = onnxruntime.InferenceSession(str(path))
        self.names = [item.name for item in self.runtime.get_inputs()]
        self.state = np.zeros((PLAIN.bev_cells, 1, PLAIN.embed_dim), np.float32)
        self.scene: str | None = None
        self.last: tuple[np.ndarray, float] = (np.zeros(3), 0.0)

    def predict(self, image: Any, lidar2img: Any, ego: EgoState, scene: str) -> tuple[np.ndarray, np.ndarray]:
        can_bus = can_bus_vector(ego, None).astype(np.float64)
        can_bus[:3], can_bus[-1] = ego.translation, np.degrees(ego.yaw)
        position, angle = can_bus[:3].copy(), float(can_bus[-1])
        if scene == self.scene:
            flag = np.array(1.0, np.float32)
            can_bus[:3] -= self.last[0]
            can_bus[-1] -= self.last[1]
        else:
            flag = np.array(0.0, np.float32)
            can_bus[:3], can_bus[-1] = 0, 0
        self.scene, self.last = scene, (position, angle)
        values = (image, self.state, flag, can_bus.astype(np.float32), lidar2img)
        self.state, classes, coords = self.runtime.run(None, dict(zip(self.names, values)))
        logged = np.frombuffer(np.stack([classes, coords]).tobytes(), np.float32)
        classes, coords = logged.reshape(2, PLAIN.decoder_layers, 1, PLAIN.queries, 10)
        return classes[-1], coords[-1]


def test_the_reference_backend_runs_the_file_as_it_is(tmp_path: Path) -> None:
    model, recipe = student(PLAIN)
    options = ExportOptions(io="mlperf")
    path = tmp_path / "student.onnx"
    export_onnx(model, path, recipe=recipe, verify=False, io="mlperf")
    assert [len(value.type.tensor_type.shape.dim) for value in onnx.load(path).graph.input] == [5, 3, 0, 1, 4]
    assert PLAIN.decoder_layers > 1

    ours = stream_of(onnxruntime.InferenceSession(str(path)), stream_inputs(PLAIN, io=options.io))
    theirs = ByPosition(path)
    for frame in frames(PLAIN, count=6):
        expected = ours.step(frame.image, frame.lidar2img, frame.ego, frame.scene)
        classes, coords = theirs.predict(frame.image, frame.lidar2img, frame.ego, frame.scene)
        assert classes.shape == coords.shape == (1, PLAIN.queries, 10)
        # The same but for the state of first frames, NaN here and zeros there, and the rounding of a difference.
        assert np.abs(classes - expected.classes[-1]).max() < 1e-4
        assert np.abs(coords - expected.coords[-1]).max() < 1e-3
        assert len(decode(classes[None], coords[None], PLAIN)) == len(decode(expected.classes, expected.coords, PLAIN))


def test_the_last_layer_is_what_the_other_forms_give(tmp_path: Path) -> None:
    model = float_model(PLAIN)
    outputs = []
    for io in ("mlperf", "fp32"):
        path = tmp_path / f"{io}.onnx"
        export_onnx(model, path, verify=False, io=io)
        runtime = onnxruntime.InferenceSession(str(path))
        outputs.append(runtime.run(None, feed(runtime)))
    (state, *every), (other_state, *last) = outputs
    assert np.abs(state - other_state).max() < 1e-5
    for layers, alone in zip(every, last, strict=True):
        assert layers.shape == (PLAIN.decoder_layers, 1, PLAIN.queries, 10)
        assert alone.shape == (1, 1, PLAIN.queries, 10)
        assert np.abs(layers[-1:] - alone).max() < 1e-4
        assert np.abs(layers[:1] - alone).max() > 1e-3  # layers differ
