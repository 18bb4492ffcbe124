"""A model over scenes: frames in order, their inputs, their boxes; and what is not a model."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from qdbev_deploy.boxes import Boxes, encode
from qdbev_deploy.contract import CAMERAS, CLASSES, VARIANTS, VariantSpec
from qdbev_deploy.data.geometry import transform
from qdbev_deploy.data.nuscenes import Frame, Scene
from qdbev_deploy.errors import ExitCode, QdbevError
from qdbev_deploy.evaluate.runner import detect_scenes, open_model
from qdbev_deploy.evaluate.submission import records_to_boxes
from qdbev_deploy.streaming import EgoState, StreamingSession

MICRO = VARIANTS["micro"]
SPEC: VariantSpec = dataclasses.replace(
    MICRO, queries=20, max_boxes=5,
    preprocess=dataclasses.replace(MICRO.preprocess, source_hw=(45, 80), resized_hw=(45, 80), padded_hw=(64, 96)),
)  # fmt: skip


@pytest.fixture
def scenes(tmp_path: Path) -> list[Scene]:
    """Two scenes of three frames; each image is filled with ten times its frame's number, plus the camera's."""
    from PIL import Image

    made = []
    for scene in range(2):
        frames = []
        for index in range(3):
            number = 3 * scene + index
            paths = tuple(tmp_path / f"{number}-{name}.png" for name in CAMERAS)
            for camera, path in enumerate(paths):
                Image.new("RGB", (80, 45), (10 * number + camera,) * 3).save(path)
            ego = EgoState(index * 500_000, (float(index), 0.0, 0.0), (1.0, 0.0, 0.0, 0.0))
            turned = transform(np.array([100.0 + number, 50.0, 0.0]), np.array([math.cos(0.3), 0, 0, math.sin(0.3)]))
            lidar2img, token = np.tile(np.eye(4), (6, 1, 1)) * (number + 1), f"token {number}"
            frames.append(Frame(token, f"scene-{scene}", index, True, ego, paths, lidar2img, np.eye(4), turned, token))
        made.append(Scene(f"scene-{scene}", f"scene-{scene}", tuple(frames)))
    return made


def seen(number: int) -> Boxes:
    """What the stand-in detects in the frame of that number."""
    return Boxes(
        center=np.array([[number, 5.0, -1.0]], np.float32), size=np.array([[2, 4.5, 1.6]], np.float32),
        yaw=np.array([0.1 * number], np.float32), velocity=np.array([[1.0, 2.0]], np.float32),
        score=np.array([0.8], np.float32), label=np.array([number % 10]),
    )  # fmt: skip


def network(images: Any, prev_bev: Any, use_prev: bool, can_bus: Any, lidar2img: Any) -> tuple[Any, Any, Any]:
    """A stand-in that reads the number of the frame off its pixels and counts in its state how long it has run."""
    std, mean = SPEC.preprocess.std[0], SPEC.preprocess.mean[0]
    pixels = images[0, :, 0, 10, 10] * std + mean
    number = round(float(pixels[0]) / 10)
    np.testing.assert_allclose(pixels, 10 * number + np.arange(6), atol=1e-3)
    np.testing.assert_allclose(lidar2img[0, :, 0, 0], number + 1)
    classes, coords = np.full((1, 1, 20, 10), -9.0, np.float32), np.zeros((1, 1, 20, 10), np.float32)
    boxes = seen(number)
    classes[0, 0, 3, boxes.label[0]] = math.log(0.8 / 0.2)
    coords[0, 0, 3] = encode(boxes)[0]
    return (prev_bev if use_prev else 0) + 1, classes, coords


@pytest.mark.parametrize("workers", [0, 2])
def test_boxes_of_every_frame_in_the_order_of_time(scenes: list[Scene], workers: int):
    session = StreamingSession(network)
    resets, ticks = [], []

    def step(*inputs: Any) -> Any:
        output = session.step(*inputs)
        resets.append(output.reset)
        return output

    results = detect_scenes(step, SPEC, scenes, workers=workers, on_frame=lambda: ticks.append(1))
    assert list(results) == [f"token {number}" for number in range(6)]
    assert resets == [True, False, False, True, False, False]
    assert len(ticks) == 6
    for number, frame in enumerate(frame for scene in scenes for frame in scene.frames):
        assert len(results[frame.token]) == SPEC.max_boxes
        best, wanted = records_to_boxes(results[frame.token], frame)[:1], seen(number)
        np.testing.assert_allclose(best.center, wanted.center, atol=1e-4)
        np.testing.assert_allclose(best.yaw, wanted.yaw, atol=1e-5)
        np.testing.assert_allclose(best.velocity, wanted.velocity, atol=1e-5)
        np.testing.assert_allclose(best.score, wanted.score, atol=1e-6)
        assert CLASSES[best.label[0]] == CLASSES[wanted.label[0]]


def test_a_missing_image_is_named(scenes: list[Scene]):
    missing = scenes[1].frames[1].image_paths[4]
    missing.unlink()
    with pytest.raises(QdbevError, match=r"4-CAM_BACK_LEFT\.png does not exist"):
        detect_scenes(StreamingSession(network).step, SPEC, scenes, workers=0)


def test_no_frames_no_boxes():
    assert detect_scenes(lambda *_: SimpleNamespace(), SPEC, []) == {}


def test_what_is_no_model(tmp_path: Path):
    with pytest.raises(QdbevError, match="there is no") as caught:
        open_model(tmp_path / "none.pth")
    assert caught.value.exit_code == ExitCode.BAD_INPUT
    text = tmp_path / "results.txt"
    text.write_text('\n {"meta": {}, "results": {}}')
    with pytest.raises(
        QdbevError, match=r"results\.txt holds JSON text.*ends with \.json.*mv .*results\.json"
    ) as caught:
        open_model(text)
    assert caught.value.exit_code == ExitCode.BAD_INPUT
    bundle = tmp_path / "student.qdbev"
    bundle.mkdir()
    with pytest.raises(QdbevError, match=r"student\.qdbev: manifest\.json is not there") as caught:
        open_model(bundle)
    assert caught.value.exit_code == ExitCode.BAD_INPUT
