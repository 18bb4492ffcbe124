"""Boxes in the LiDAR frame to submission records and back."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from qdbev_deploy.boxes import Boxes
from qdbev_deploy.contract import CLASSES
from qdbev_deploy.data.geometry import quaternion_to_matrix, transform
from qdbev_deploy.data.nuscenes import Frame, GroundTruth
from qdbev_deploy.errors import QdbevError
from qdbev_deploy.evaluate.submission import (
    MAX_BOXES_PER_SAMPLE,
    attribute_of,
    boxes_to_records,
    ground_truth_records,
    records_to_boxes,
    write_submission,
)
from qdbev_deploy.streaming import EgoState


def frame_at(lidar2ego: np.ndarray, ego2global: np.ndarray) -> Frame:
    ego = EgoState(0, (0.0, 0.0, 0.0), (1.0, 0.0, 0.0, 0.0))
    return Frame(
        "token", "scene", 0, True, ego, (Path("none"),) * 6, np.zeros((6, 4, 4)), lidar2ego, ego2global, "token"
    )


def some_boxes(count: int, seed: int = 0) -> Boxes:
    dice = np.random.default_rng(seed)
    return Boxes(
        center=dice.uniform(-50, 50, (count, 3)).astype(np.float32),
        size=dice.uniform(0.5, 8, (count, 3)).astype(np.float32),
        yaw=dice.uniform(-math.pi, math.pi, count).astype(np.float32),
        velocity=dice.uniform(-10, 10, (count, 2)).astype(np.float32),
        score=np.sort(dice.uniform(0, 1, count).astype(np.float32))[::-1].copy(),
        label=dice.integers(0, 10, count),
    )


# nuScenes' LiDAR looks to the right of the car: its y axis points ahead.
LIDAR2EGO = transform(np.array([0.94, 0.0, 1.84]), np.array([math.cos(-math.pi / 4), 0, 0, math.sin(-math.pi / 4)]))
LEVEL_EGO = transform(np.array([1200.0, 800.0, 0.0]), np.array([math.cos(0.4), 0, 0, math.sin(0.4)]))
TILTED = np.array([0.9, 0.02, -0.015, 0.43]) / np.linalg.norm([0.9, 0.02, -0.015, 0.43])


def test_by_hand_a_car_ahead_of_a_car_that_heads_north():
    """Ego at (100, 200) heading +y. In the LiDAR frame (x right, y ahead) a car 10 m ahead drives ahead at 5 m/s."""
    ego2global = transform(np.array([100.0, 200.0, 0.0]), np.array([math.sqrt(0.5), 0, 0, math.sqrt(0.5)]))
    lidar2ego = transform(np.array([1.0, 0.0, 1.8]), np.array([math.sqrt(0.5), 0, 0, -math.sqrt(0.5)]))
    boxes = Boxes(*(np.array([values], dtype=np.float32) for values in
                    ([0, 10, -1], [2, 4.5, 1.6], math.pi / 2, [0, 5], 0.75)), np.array([0]))  # fmt: skip
    (record,) = boxes_to_records(boxes, frame_at(lidar2ego, ego2global))
    assert record["translation"] == pytest.approx([100, 211, 0.8], abs=1e-5)
    assert record["size"] == pytest.approx([2, 4.5, 1.6])
    assert record["velocity"] == pytest.approx([0, 5], abs=1e-5)
    assert record["rotation"] == pytest.approx([math.sqrt(0.5), 0, 0, math.sqrt(0.5)], abs=1e-6)
    assert (record["detection_name"], record["attribute_name"]) == ("car", "vehicle.moving")
    assert record["detection_score"] == 0.75
    assert record["sample_token"] == "token"


@pytest.mark.parametrize("rotation", [[1.0, 0, 0, 0], [0, 0, 0, 1.0], [0.6, 0, 0, -0.8], TILTED])
def test_there_and_back(rotation: np.ndarray):
    frame = frame_at(LIDAR2EGO, transform(np.array([1200.0, 800.0, 3.0]), np.asarray(rotation)))
    boxes = some_boxes(100)
    again = records_to_boxes(boxes_to_records(boxes, frame), frame)
    np.testing.assert_allclose(again.center, boxes.center, atol=1e-4)
    np.testing.assert_allclose(again.size, boxes.size, rtol=1e-6)
    turned = (again.yaw - boxes.yaw + math.pi) % (2 * math.pi) - math.pi
    np.testing.assert_allclose(turned, 0, atol=1e-5)
    # A tilted car loses the vertical part of a velocity: of second order in the tilt.
    np.testing.assert_allclose(again.velocity, boxes.velocity, atol=0.05 if rotation is TILTED else 1e-5)
    np.testing.assert_array_equal(again.label, boxes.label)
    np.testing.assert_array_equal(again.score, boxes.score)


def test_rotation_takes_the_x_axis_to_where_the_length_points():
    frame = frame_at(LIDAR2EGO, transform(np.array([5.0, 6.0, 0.0]), TILTED))
    boxes = some_boxes(20)
    for record, yaw in zip(boxes_to_records(boxes, frame), boxes.yaw.astype(float), strict=True):
        wanted = frame.lidar2global[:3, :3] @ [math.cos(yaw), math.sin(yaw), 0]
        np.testing.assert_allclose(quaternion_to_matrix(record["rotation"])[:, 0], wanted, atol=1e-9)


def test_best_500_are_kept():
    boxes = some_boxes(600)
    shuffled = boxes[np.random.default_rng(1).permutation(600)]
    records = boxes_to_records(shuffled, frame_at(LIDAR2EGO, LEVEL_EGO))
    assert [record["detection_score"] for record in records] == boxes.score[:MAX_BOXES_PER_SAMPLE].tolist()


def test_boxes_without_a_volume_get_a_little():
    boxes = some_boxes(1)
    boxes.size[0] = (0.0, 4.0, 0.0)
    (record,) = boxes_to_records(boxes, frame_at(LIDAR2EGO, LEVEL_EGO))
    assert record["size"] == [0.001, 4.0, 0.001]


def test_no_boxes_at_all():
    frame = frame_at(LIDAR2EGO, LEVEL_EGO)
    assert boxes_to_records(some_boxes(0), frame) == []
    assert len(records_to_boxes([], frame)) == 0


def reference_attribute(name: str, speed: float) -> str:
    """mmdetection3d's rule, as written there (BEVFormer uses it unchanged)."""
    default = {
        "car": "vehicle.parked", "pedestrian": "pedestrian.moving", "trailer": "vehicle.parked",
        "truck": "vehicle.parked", "bus": "vehicle.moving", "motorcycle": "cycle.without_rider",
        "construction_vehicle": "vehicle.parked", "bicycle": "cycle.without_rider", "barrier": "", "traffic_cone": "",
    }  # fmt: skip
    if speed > 0.2:
        if name in ("car", "construction_vehicle", "bus", "truck", "trailer"):
            return "vehicle.moving"
        if name in ("bicycle", "motorcycle"):
            return "cycle.with_rider"
        return default[name]
    if name == "pedestrian":
        return "pedestrian.standing"
    if name == "bus":
        return "vehicle.stopped"
    return default[name]


@pytest.mark.parametrize("speed", [0.0, 0.2, 0.2001, 8.0])
@pytest.mark.parametrize("name", CLASSES)
def test_attributes_follow_the_reference(name: str, speed: float):
    assert attribute_of(name, speed) == reference_attribute(name, speed)


def test_given_attributes_stay_with_their_boxes():
    boxes = some_boxes(3)[np.array([2, 0, 1])]  # not in the order of scores
    records = boxes_to_records(boxes, frame_at(LIDAR2EGO, LEVEL_EGO), ["c", "a", "b"])
    assert [record["attribute_name"] for record in records] == ["a", "b", "c"]
    with pytest.raises(QdbevError, match="2 attributes for 3 boxes"):
        boxes_to_records(boxes, frame_at(LIDAR2EGO, LEVEL_EGO), ["a", "b"])


def test_ground_truth_without_a_velocity_becomes_a_submission_without_nan():
    boxes = some_boxes(2)
    boxes.velocity[1] = np.nan
    truth = GroundTruth(boxes, ("vehicle.parked", ""), np.ones(2, np.int64), ("a", "b"), np.ones(2, np.int64))
    first, second = ground_truth_records(truth, frame_at(LIDAR2EGO, LEVEL_EGO))
    assert second["velocity"] == [0.0, 0.0]
    assert (first["detection_score"], first["attribute_name"], second["attribute_name"]) == (1.0, "vehicle.parked", "")


def test_ground_truth_that_the_evaluator_does_not_count_is_left_out():
    truth = GroundTruth(some_boxes(3), ("a", "b", "c"), np.array([4, 0, 1]), ("", "", ""), np.ones(3, np.int64))
    records = ground_truth_records(truth, frame_at(LIDAR2EGO, LEVEL_EGO))
    assert [record["attribute_name"] for record in records] == ["a", "c"]


def test_the_devkit_reads_what_is_written(tmp_path: Path):
    from nuscenes.eval.common.loaders import load_prediction
    from nuscenes.eval.detection.data_classes import DetectionBox

    path = tmp_path / "results.json"
    records = boxes_to_records(some_boxes(20), frame_at(LIDAR2EGO, LEVEL_EGO))
    write_submission(path, {"token": records, "empty": []})
    boxes, meta = load_prediction(str(path), 500, DetectionBox)
    assert [box.detection_score for box in boxes["token"]] == [record["detection_score"] for record in records]
    assert set(boxes.sample_tokens) == {"token", "empty"}
    assert meta["use_camera"]
    assert not meta["use_lidar"]


@pytest.mark.parametrize("field", ["center", "size", "yaw", "velocity", "score"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_boxes_that_are_not_finite_are_refused_with_their_frame(field: str, value: float):
    boxes = some_boxes(3)
    getattr(boxes, field)[1:] = value
    with np.errstate(invalid="ignore"), pytest.raises(QdbevError, match=r"2 of 3 boxes of the frame token .*NaN"):
        boxes_to_records(boxes, frame_at(LIDAR2EGO, LEVEL_EGO))
