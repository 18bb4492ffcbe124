"""NDS of the parity frames: ground truth scores 1, what is moved less, and frames without a data set do not count."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import qdbev_deploy.export.parity as parity_module
from qdbev_deploy.boxes import encode
from qdbev_deploy.cli.export import _print_parity
from qdbev_deploy.contract import NUSCENES_HW, VariantSpec, stream_inputs
from qdbev_deploy.data.nuscenes import NuScenesSequences
from qdbev_deploy.data.stream_frames import StreamFrame, parity_frames
from qdbev_deploy.export import export_onnx
from qdbev_deploy.export.accuracy import Accuracy, RunScores
from qdbev_deploy.reference import UNFUSED, session_of, stream_of
from qdbev_deploy.streaming import StreamingSession
from tests.drive import frames
from tests.export.students import PLAIN, SHORT, student

NATIVE = dataclasses.replace(
    SHORT, name="native", preprocess=dataclasses.replace(SHORT.preprocess, source_hw=NUSCENES_HW)
)
WIDE = dataclasses.replace(SHORT, queries=300)


@pytest.fixture(scope="module")
def drive(synthetic_dataroot: Path) -> tuple[NuScenesSequences, list[StreamFrame]]:
    sequences = NuScenesSequences(synthetic_dataroot)
    scenes = sequences.scenes(key_frames_only=True)
    empty = np.zeros(0, np.float32)
    return sequences, [
        StreamFrame(empty, empty, frame.ego, frame.scene, frame, sequences.nusc)
        for scene in scenes
        for frame in scene.frames
    ]


def said(sequences: NuScenesSequences, frame: StreamFrame, moved_m: float) -> tuple[np.ndarray, np.ndarray]:
    """What a network would say that sees the ground truth, moved to the side."""
    assert frame.origin is not None
    truth = sequences.ground_truth(frame.origin)
    hit = truth.num_points > 0
    boxes = truth.boxes[hit]
    codes = encode(dataclasses.replace(boxes, velocity=np.nan_to_num(boxes.velocity)))
    codes[:, 0] += moved_m
    classes, coords = np.full((1, 1, WIDE.queries, 10), -20.0), np.zeros((1, 1, WIDE.queries, 10))
    classes[0, 0, np.arange(len(codes)), boxes.label] = 5.0
    coords[0, 0, : len(codes)] = codes
    return classes, coords


def test_runs_are_scored_by_the_official_evaluator(drive: tuple[NuScenesSequences, list[StreamFrame]]) -> None:
    sequences, given = drive
    accuracy = Accuracy(WIDE)
    for frame in given:
        accuracy.add_frame(frame)
        for run, moved_m in (("torch", 0.0), ("onnxruntime", 0.7), ("default mode", 30.0)):
            accuracy.add(run, frame, *said(sequences, frame, moved_m))
        accuracy.add("broken", frame, np.full((1, 1, WIDE.queries, 10), np.nan), np.zeros((1, 1, WIDE.queries, 10)))
    scores = accuracy.scores()
    assert len(accuracy.frames) == len(given)
    # Classes of which these few frames have none score 0 in the official mean over ten.
    assert scores["torch"].nds is not None
    assert scores["torch"].map is not None
    assert scores["onnxruntime"].map is not None
    assert scores["default mode"].map is not None
    assert scores["torch"].map > 0.5
    assert 0.2 < scores["onnxruntime"].map / scores["torch"].map < 0.9  # within 1, 2 and 4 m, but not within 0.5
    assert scores["default mode"].map < 0.1 * scores["torch"].map
    assert scores["broken"].nds is None
    assert "NaN or infinity" in scores["broken"].refused


def test_frames_of_no_data_set_have_no_scores() -> None:
    accuracy = Accuracy(SHORT)
    for frame in frames(SHORT, count=2):
        accuracy.add_frame(frame)
        accuracy.add("torch", frame, np.zeros((SHORT.queries, 10)), np.zeros((SHORT.queries, 10)))
    assert accuracy.scores() == {}
    assert accuracy.frames == []


def test_the_parity_report_says_them_of_each_run(
    synthetic_dataroot: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from rich.console import Console

    model, recipe = student(NATIVE)
    report = export_onnx(model, tmp_path / "m.onnx", recipe=recipe, dataroot=synthetic_dataroot, frame_count=4)
    parity = report.parity
    assert parity is not None
    assert set(parity.scores) == {"torch", "onnxruntime"}
    assert parity.scored_frames == 4
    assert parity.default_mode is not None
    assert set(parity.default_mode.scores) == {"torch", "onnxruntime", "default mode"}
    told = report.to_dict()["parity"]["default_mode"]["scores_over_these_frames"]
    assert told["default mode"]["nds"] == parity.default_mode.scores["default mode"].nds is not None
    assert report.to_dict()["parity"]["scores"]["torch"].keys() == {"nds", "map", "refused"}
    _print_parity(Console(width=120), parity, 1.0)
    printed = capsys.readouterr().out
    assert printed.count("NDS over 4 frames, torch") == printed.count("NDS over 4 frames, default mode") == 1


def test_synthetic_parity_frames_bring_their_ground_truth() -> None:
    with parity_frames(NATIVE, "float32", None, 4) as (frames_are, given):
        found = list(given)
    assert frames_are == "two scenes of a synthetic nuScenes"
    assert all(frame.nusc.get("sample", frame.origin.sample_token)["anns"] for frame in found if frame.origin)


def test_each_run_is_scored_with_what_it_gave_over_its_frames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[list[tuple[str, dict[str, list[np.ndarray]]]]] = []

    class Noting(Accuracy):
        def __init__(self, spec: VariantSpec) -> None:
            super().__init__(spec)
            self.noted: list[tuple[str, dict[str, list[np.ndarray]]]] = []
            given.append(self.noted)

        def add_all(self, frame: StreamFrame, outputs: Mapping[str, Sequence[Any]]) -> None:
            self.noted.append((frame.scene, {run: list(arrays) for run, arrays in outputs.items()}))

    monkeypatch.setattr(parity_module, "Accuracy", Noting)
    monkeypatch.setattr(parity_module, "DEFAULT_MODE_FRAMES", 3)
    model, recipe = student(PLAIN)
    drive = list(frames(PLAIN, count=6))
    report = export_onnx(model, tmp_path / "m.onnx", recipe=recipe, frames=drive)
    (over_all, over_first) = given
    assert [set(outputs) for _, outputs in over_all] == [{"torch", "onnxruntime"}] * 6
    assert [set(outputs) for _, outputs in over_first] == [{"torch", "onnxruntime", "default mode"}] * 3

    def stream(config: Mapping[str, str]) -> StreamingSession:
        return stream_of(session_of(str(report.path), config), stream_inputs(PLAIN))

    again = {"torch": model.session(), "onnxruntime": stream(UNFUSED), "default mode": stream({})}
    for index, frame in enumerate(drive):
        for run, session in again.items():
            output = session.step(frame.image, frame.lidar2img, frame.ego, frame.scene)
            for noted in (over_all, over_first):
                if index < len(noted) and run in noted[index][1]:
                    assert np.array_equal(noted[index][1][run][1], output.classes), run
                    assert np.array_equal(noted[index][1][run][2], output.coords), run


def test_printed_scores_are_those_of_their_run_and_frames(capsys: pytest.CaptureFixture[str]) -> None:
    from rich.console import Console

    def scores(**nds: float) -> dict[str, RunScores]:
        return {run.replace("_", " "): RunScores(value, 0.9) for run, value in nds.items()}

    report = parity_module.ParityReport(
        "made up", frames=20, scored_frames=20, scores=scores(torch=0.1, onnxruntime=0.2)
    )
    report.default_mode = parity_module.BesideRun(
        10, 10, scores=scores(torch=0.3, onnxruntime=0.4, default_mode=0.5)
    )  # fmt: skip
    _print_parity(Console(width=120), report, 1.0)
    rows = {line.rsplit(None, 2)[0].strip(): line.rsplit(None, 2)[1] for line in capsys.readouterr().out.splitlines()
            if "NDS over" in line}  # fmt: skip
    assert rows == {
        "NDS over 20 frames, torch": "0.1000",
        "NDS over 20 frames, onnxruntime": "0.2000",
        "NDS over 10 frames, torch": "0.3000",
        "NDS over 10 frames, onnxruntime": "0.4000",
        "NDS over 10 frames, default mode": "0.5000",
    }
