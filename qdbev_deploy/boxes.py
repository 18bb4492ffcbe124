"""Detections, and the NMS-free decoding that makes them from the network's two output tensors."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from qdbev_deploy.contract import BOX_CODE, CLASSES, VariantSpec
from qdbev_deploy.errors import QdbevError

Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Boxes:
    """Boxes in the LiDAR frame of their moment (x right, y forward, z up on nuScenes), sorted by falling score.

    `center` is the gravity centre. `size` is width, length, height. `yaw` is nuScenes': the angle from the x axis to
    where the object's length points, counter-clockwise, radians.
    """

    center: Array  # [n, 3] metres
    size: Array  # [n, 3] metres
    yaw: Array  # [n]
    velocity: Array  # [n, 2] metres per second
    score: Array  # [n] 0..1; 1 for ground truth
    label: npt.NDArray[np.int64]  # [n] index into CLASSES

    def __len__(self) -> int:
        return len(self.label)

    def __getitem__(self, index: slice | npt.NDArray[np.bool_] | npt.NDArray[np.int64]) -> Boxes:
        return Boxes(
            self.center[index],
            self.size[index],
            self.yaw[index],
            self.velocity[index],
            self.score[index],
            self.label[index],
        )


def network_rotation(yaw: Array) -> Array:
    """The angle whose sine and cosine the network is trained on, from nuScenes' yaw. It is its own inverse.

    BEVFormer was trained on the boxes of a LiDAR convention that measures clockwise from the y axis.
    """
    rotation = -yaw - np.float32(np.pi / 2)
    return (rotation + np.float32(np.pi)) % np.float32(2 * np.pi) - np.float32(np.pi)


def decode_raw(classes: Array, coords: Array, spec: VariantSpec) -> tuple[Array, Array, npt.NDArray[np.int64]]:
    """The official coder: (boxes [n, 9], scores [n], labels [n]) from logits [Q, 10] and box codes [Q, 10].

    Boxes are cx, cy, cz (gravity centre), w, l, h, rotation in the network's own convention, vx, vy.
    """
    queries = spec.queries
    if classes.shape != (queries, len(CLASSES)) or coords.shape != (queries, len(BOX_CODE)):
        raise QdbevError(
            f"network outputs of shapes {classes.shape} and {coords.shape}",
            f"({queries}, {len(CLASSES)}) and ({queries}, {len(BOX_CODE)}) for variant '{spec.name}'",
            "pass one frame of the last decoder layer, from the variant that was built",
        )
    logits = classes.astype(np.float32).ravel()
    # A stable sort keeps the lower index first among equal scores, so that decoding is reproducible everywhere.
    top = np.argsort(-logits, kind="stable")[: spec.max_boxes]
    scores = 1.0 / (1.0 + np.exp(-logits[top]))
    code = coords.astype(np.float32)[top // len(CLASSES)]
    cx, cy, log_w, log_l, cz, log_h, sin, cos, vx, vy = code.T
    with np.errstate(over="ignore"):
        boxes = np.stack(
            [cx, cy, cz, np.exp(log_w), np.exp(log_l), np.exp(log_h), np.arctan2(sin, cos), vx, vy], axis=1
        )
    low, high = np.asarray(spec.post_center_range[:3]), np.asarray(spec.post_center_range[3:])
    inside = ((boxes[:, :3] >= low) & (boxes[:, :3] <= high)).all(axis=1) & np.isfinite(boxes).all(axis=1)
    return boxes[inside].astype(np.float32), scores[inside].astype(np.float32), (top % len(CLASSES))[inside]


def _last_layer(tensor: Array) -> Array:
    return tensor[-1, 0] if tensor.ndim == 4 else tensor


def decode(classes: Array, coords: Array, spec: VariantSpec) -> Boxes:
    """Detections of one frame from the step's outputs: [layers, 1, Q, 10] (the last layer counts) or [Q, 10]."""
    boxes, scores, labels = decode_raw(_last_layer(classes), _last_layer(coords), spec)
    return Boxes(
        center=boxes[:, :3],
        size=boxes[:, 3:6],
        yaw=network_rotation(boxes[:, 6]),
        velocity=boxes[:, 7:9],
        score=scores,
        label=labels,
    )


def encode(boxes: Boxes) -> Array:
    """Box codes [n, 10] of boxes: what the network is trained to say. The inverse of the decoding."""
    rotation = network_rotation(boxes.yaw)
    x, y, z = boxes.center.T
    log_w, log_l, log_h = np.log(boxes.size).T
    columns = [x, y, log_w, log_l, z, log_h, np.sin(rotation), np.cos(rotation), *boxes.velocity.T]
    codes: Array = np.stack(columns, axis=1).astype(np.float32)
    return codes
