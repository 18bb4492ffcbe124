"""Parity judged on engines with one fault each: not a number, a state that is lost, noise, a wrong output."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest

from qdbev_deploy.engine.parity import TOLERANCES, EngineParity, prove
from tests.engine.students import SPEC, Students

Change = Callable[[str, np.ndarray], np.ndarray]


class Faulty:
    """An engine around a real one, whose outputs are changed on the way."""

    def __init__(self, students: Students, change: Change = lambda name, array: array, loses_state: bool = False,
                 reads_state: bool = False):  # fmt: skip
        self.engine = students.bundle.engine()
        self.inputs, self.outputs = self.engine.inputs, self.engine.outputs
        self.change, self.loses_state, self.reads_state = change, loses_state, reads_state

    def stream(self, options: Any = None) -> Any:
        return FaultyStream(self, self.engine.stream())


class FaultyStream:
    def __init__(self, engine: Faulty, stream: Any) -> None:
        self.engine, self.stream = engine, stream

    def step(self, image: Any, prev_bev: Any, use_prev_bev: bool, *rest: Any) -> tuple[Any, Any, Any]:
        if self.engine.loses_state and not isinstance(prev_bev, np.ndarray):
            prev_bev, use_prev_bev = None, False
        handle, classes, coords = self.stream.step(image, prev_bev, use_prev_bev, *rest)
        if self.engine.reads_state and isinstance(prev_bev, np.ndarray):
            classes = classes + 0 * prev_bev.astype(np.float32).sum()
        return handle, self.engine.change("classes", classes), self.engine.change("coords", coords)

    def read_state(self, handle: Any) -> np.ndarray:
        return self.engine.change("bev_embed", self.stream.read_state(handle))

    def close(self) -> None:
        self.stream.close()


def proved(students: Students, arithmetic: Any = "fp32", count: int = 8, **faults: Any) -> EngineParity:
    model = onnx.load(students.onnx)
    frames = students.drive if count == 8 else students.drive[:count]
    return prove(Faulty(students, **faults), model, SPEC, frames, "a drive", arithmetic)  # type: ignore[arg-type]


def test_the_same_engine_agrees_exactly(students: Students) -> None:
    report = proved(students)
    assert report.passed, report.failures
    assert report.frames == 8
    assert [bool(reason) for reason in report.resets] == [True, False, False, False, True, False, False, False]
    for gap in (report.same_state, report.own_state):
        assert set(gap.outputs_max_abs) == {"bev_embed", "outputs_classes", "outputs_coords"}
        assert set(gap.outputs_max_abs.values()) == {0.0}
        assert gap.detections == 1.0
        assert gap.boxes.center_m == 0.0
        assert gap.boxes.detections > 0
    assert report.state_gap == 0.0
    assert report.state_checks == 3
    json.dumps(report.to_dict(), allow_nan=False)


def test_the_manifests_proof_is_this_one(students: Students) -> None:
    summary = students.bundle.manifest["parity"]
    assert summary["passed"] is True
    assert (summary["frames"], summary["resets"], summary["tolerance"]) == (8, 2, "fp32")
    whole = json.loads((students.bundle.path / "parity.json").read_text(encoding="utf-8"))
    assert whole["same_state"]["outputs_relative"] == summary["outputs_relative"]
    assert whole["asked"]["relative"] == TOLERANCES["fp32"].relative


def test_an_engine_that_reads_the_state_of_a_first_frame_fails(students: Students) -> None:
    """It multiplies by the flag, say: on a device whose buffers begin as zeros nobody would see it."""
    report = proved(students, count=4, reads_state=True)
    assert any("output 'outputs_classes' differs by nan" in failure for failure in report.failures)


@pytest.mark.parametrize("name", ["bev_embed", "classes", "coords"])
def test_one_number_that_is_none_fails(students: Students, name: str) -> None:
    def change(which: str, array: np.ndarray) -> np.ndarray:
        array = array.copy()
        if which == name:
            array.ravel()[-1] = np.nan
        return array

    report = proved(students, "int8", change=change)
    assert any("differs by nan of its size" in failure for failure in report.failures)
    text = json.dumps(report.to_dict(), allow_nan=False)
    assert "nan" in text
    json.dumps(report.summary(), allow_nan=False)
    assert report.worst_feeds is not None


def test_a_state_that_is_not_carried_fails(students: Students) -> None:
    """From the reference's state, which comes as an array, such an engine is perfect."""
    report = proved(students, "int8", loses_state=True)
    assert report.same_state.outputs_max_abs["outputs_coords"] == 0.0
    assert any("carried on the device" in failure for failure in report.failures)


def test_noise_is_judged_by_the_precision(students: Students) -> None:
    def change(which: str, array: np.ndarray) -> np.ndarray:
        size = float(np.sqrt(np.mean(array.astype(np.float64) ** 2)))
        signs = np.where(np.arange(array.size) % 2, 1, -1).reshape(array.shape)
        return (array + 0.01 * size * signs).astype(array.dtype)

    failures = proved(students, "fp32", change=change).failures
    assert any("differs by 0.01 of its size" in failure for failure in failures)
    assert any("box centres differ" in failure for failure in failures)
    relative = proved(students, "int8", change=change)
    assert not any("of its size" in failure for failure in relative.failures)


def test_boxes_elsewhere_fail(students: Students) -> None:
    def change(which: str, array: np.ndarray) -> np.ndarray:
        array = array.copy()
        if which == "coords":
            array[..., 0] += 3.0  # metres
        return array

    report = proved(students, "int8", change=change)
    assert any("of the detections are found again" in failure for failure in report.failures)
    assert report.same_state.boxes.center_m == pytest.approx(3.0, abs=1e-4)


def test_a_sequence_that_never_resets_proves_too_little(students: Students) -> None:
    assert proved(students, count=4).failures == [
        "the sequence does not both carry the state and drop it after its first frame"
    ]
