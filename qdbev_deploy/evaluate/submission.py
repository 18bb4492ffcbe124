"""Boxes in the LiDAR frame to records of a nuScenes detection submission (global frame), and back."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from qdbev_deploy.boxes import Boxes
from qdbev_deploy.contract import CLASSES
from qdbev_deploy.data.geometry import inverse, matrix_to_quaternion, quaternion_to_matrix
from qdbev_deploy.errors import QdbevError
from qdbev_deploy.files import write_json

if TYPE_CHECKING:
    from qdbev_deploy.data.nuscenes import Frame, GroundTruth

# One box of a submission, as the JSON holds it.
Record = dict[str, Any]
# Frame token -> its boxes. Key frames go by their sample token.
Results = dict[str, list[Record]]

MAX_BOXES_PER_SAMPLE = 500  # the official evaluator refuses more

SMALLEST_M = 1e-3  # width, length or height of a box that is written, metres

# Above this speed BEVFormer calls an object moving, metres per second.
MOVING_SPEED = 0.2

VEHICLES = ("car", "truck", "construction_vehicle", "bus", "trailer")
CYCLES = ("motorcycle", "bicycle")

ATTRIBUTES = (
    "pedestrian.moving",
    "pedestrian.sitting_lying_down",
    "pedestrian.standing",
    "cycle.with_rider",
    "cycle.without_rider",
    "vehicle.moving",
    "vehicle.parked",
    "vehicle.stopped",
)

META = {"use_camera": True, "use_lidar": False, "use_radar": False, "use_map": False, "use_external": False}


def attribute_of(class_name: str, speed: float) -> str:
    """The attribute that BEVFormer reports, which has no attribute head: by class and speed alone."""
    moving = speed > MOVING_SPEED
    if class_name in VEHICLES:
        at_rest = "vehicle.stopped" if class_name == "bus" else "vehicle.parked"
        return "vehicle.moving" if moving else at_rest
    if class_name in CYCLES:
        return "cycle.with_rider" if moving else "cycle.without_rider"
    if class_name == "pedestrian":
        return "pedestrian.moving" if moving else "pedestrian.standing"
    return ""  # barriers and cones have none


def _turned_about_z(rotation: npt.NDArray[np.float64], yaw: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Quaternions [n, 4]: first a turn about z by `yaw` [n], then `rotation`."""
    w, x, y, z = matrix_to_quaternion(rotation)
    cos, sin = np.cos(yaw / 2), np.sin(yaw / 2)
    return np.stack([w * cos - z * sin, x * cos + y * sin, y * cos - x * sin, w * sin + z * cos], axis=1)


def boxes_to_records(boxes: Boxes, frame: Frame, attributes: Sequence[str] | None = None) -> list[Record]:
    """The frame's boxes as submission records, best first, at most as many as the evaluator takes.

    `attributes` are used as given, one a box; None means the rule of `attribute_of`. Velocities lie in the LiDAR's xy
    plane and are turned as vectors, as the reference code does. Nothing is filtered by range: the evaluator does that.
    """
    if attributes is not None and len(attributes) != len(boxes):
        raise QdbevError(
            f"{len(attributes)} attributes for {len(boxes)} boxes",
            "one attribute a box",
            "pass None for the usual rule",
        )
    best = np.argsort(-boxes.score, kind="stable")[:MAX_BOXES_PER_SAMPLE]
    matrix = frame.lidar2global  # in double precision: global coordinates reach thousands of metres
    rotation = matrix[:3, :3]
    kept = boxes[best]
    center = kept.center.astype(np.float64) @ rotation.T + matrix[:3, 3]
    quaternion = _turned_about_z(rotation, kept.yaw.astype(np.float64))
    velocity = kept.velocity.astype(np.float64) @ rotation[:2, :2].T
    # The exponential of a very negative network output is zero, and the evaluator stops at a box without a volume.
    size = np.maximum(kept.size.astype(np.float64), SMALLEST_M)
    columns = np.concatenate([center, size, quaternion, velocity, kept.score[:, None]], axis=1)
    finite = np.isfinite(columns).all(axis=1)
    if not finite.all():
        raise QdbevError(
            f"{(~finite).sum()} of {len(finite)} boxes of the frame {frame.token} ({frame.scene}, frame {frame.index}) "
            "hold NaN or infinity",
            "a model whose outputs are finite: such boxes cannot be scored",
            "train it again with a smaller learning rate, or pass an earlier checkpoint",
        )
    records: list[Record] = []
    for row, index in enumerate(best):
        name = CLASSES[int(kept.label[row])]
        speed = math.hypot(*velocity[row])
        records.append(
            {
                "sample_token": frame.token,
                "translation": center[row].tolist(),
                "size": size[row].tolist(),
                "rotation": quaternion[row].tolist(),
                "velocity": velocity[row].tolist(),
                "detection_name": name,
                "detection_score": float(kept.score[row]),
                "attribute_name": attribute_of(name, speed) if attributes is None else attributes[int(index)],
            }
        )
    return records


def records_to_boxes(records: Sequence[Mapping[str, Any]], frame: Frame) -> Boxes:
    """The inverse of `boxes_to_records`: boxes in the LiDAR frame of `frame`, best first."""
    global2lidar = inverse(frame.lidar2global)
    rotation = global2lidar[:3, :3]

    def column(key: str, width: int) -> npt.NDArray[np.float64]:
        return np.array([record[key] for record in records], dtype=np.float64).reshape(len(records), width)

    # The direction of the length, as the evaluator sees it: where the rotation takes the x axis.
    direction = quaternion_to_matrix(column("rotation", 4))[:, :, 0] @ rotation.T
    boxes = Boxes(
        center=(column("translation", 3) @ rotation.T + global2lidar[:3, 3]).astype(np.float32),
        size=column("size", 3).astype(np.float32),
        yaw=np.arctan2(direction[:, 1], direction[:, 0]).astype(np.float32),
        velocity=(column("velocity", 2) @ rotation[:2, :2].T).astype(np.float32),
        score=np.array([record["detection_score"] for record in records], dtype=np.float32),
        label=np.array([CLASSES.index(record["detection_name"]) for record in records], dtype=np.int64),
    )
    return boxes[np.argsort(-boxes.score, kind="stable")]


def ground_truth_records(truth: GroundTruth, frame: Frame) -> list[Record]:
    """Ground truth as if it had been detected: what a perfect detector would submit.

    Objects that neither LiDAR nor radar hit are left out: the evaluator does not count them, and a detection of one
    would be a false positive. Where the data set knows no velocity (NaN) a submission must still say one: zero; the
    evaluator skips the velocity error of such objects.
    """
    hit = truth.num_points > 0
    boxes = truth.boxes[hit]
    known = np.nan_to_num(boxes.velocity, nan=0.0)
    filled = Boxes(boxes.center, boxes.size, boxes.yaw, known, np.ones(len(boxes), np.float32), boxes.label)
    return boxes_to_records(filled, frame, [name for name, counts in zip(truth.attributes, hit, strict=True) if counts])


def write_submission(path: str | os.PathLike[str], results: Results) -> None:
    """Write the JSON that the official evaluator reads, atomically."""
    write_json(path, {"meta": META, "results": results})
