"""The view from above: ego car, range rings, fields of view, boxes with headings and velocities."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from qdbev_deploy.boxes import Boxes
from qdbev_deploy.contract import CLASSES
from qdbev_deploy.evaluate.canvas import (
    CLASS_COLOURS,
    FAINT_TEXT,
    PANEL,
    RING,
    TEXT,
    TRUTH,
    Colour,
    Label,
    Picture,
    dot,
    fill,
    line,
    write,
)
from qdbev_deploy.evaluate.draw_camera import box_corners, camera_centre

Array = npt.NDArray[np.float64]

RING_STEP_M = 10
# The car that recorded nuScenes: length, width, and how far its middle lies ahead of the ego frame (the rear axle).
_EGO_LENGTH_M, _EGO_WIDTH_M, _EGO_MIDDLE_M = 4.08, 1.73, 1.36
_SUPERSAMPLING = 2
_LABEL_ANGLE = 0.42  # of the rings' labels, radians to the right of straight behind
# Arrows show where an object would be after this time; slower objects get none.
_ARROW_S, _ARROW_MIN_SPEED = 1.0, 0.5


@dataclass(frozen=True)
class BevView:
    """Maps metres of the ego frame (x ahead, y left) to pixels: ahead is up."""

    width: int
    height: int
    range_m: float  # from the ego car to the upper and lower border

    @property
    def pixels_per_m(self) -> float:
        return self.height / (2 * self.range_m)

    def pixels(self, ego_xy: Array) -> Array:
        """[n, 2] pixels of ego coordinates [n, 2 or 3]."""
        middle = np.array([self.width, self.height]) / 2
        return middle - ego_xy[:, 1::-1] * self.pixels_per_m


def _fields_of_view(picture: Picture, view: BevView, lidar2img: Array, lidar2ego: Array, image_width: float) -> None:
    """A faint wedge for what each camera [6, 4, 4] sees, as far as the last ring."""
    reach = math.floor(view.range_m / RING_STEP_M) * RING_STEP_M
    for projection in lidar2img:
        inverse = np.linalg.inv(projection[:3, :3])
        height_guess = float(
            projection[1, :3] @ projection[2, :3]
        )  # the image's middle row, as the optical axis hits it
        directions = [lidar2ego[:3, :3] @ inverse @ (u, height_guess, 1.0) for u in (0.0, image_width)]
        eye = lidar2ego[:3, :3] @ camera_centre(projection) + lidar2ego[:3, 3]
        left, right = (math.atan2(direction[1], direction[0]) for direction in directions)
        span = (left - right) % (2 * math.pi)
        angles = right + span * np.linspace(0, 1, 33)
        arc = eye[:2] + reach * np.stack([np.cos(angles), np.sin(angles)], axis=1)
        pixels = view.pixels(np.concatenate([eye[None, :2], arc]))
        fill(picture, pixels, (120, 160, 210), 0.045)
        for border in (arc[0], arc[-1]):
            line(picture, view.pixels(np.array([eye[:2], border])), RING, 1, 0.5)


def _rings(picture: Picture, view: BevView) -> None:
    """A circle every ten metres; their distances stand behind the car, under the boxes."""
    centre = view.pixels(np.zeros((1, 2)))[0]
    behind = np.array([[-math.cos(_LABEL_ANGLE), -math.sin(_LABEL_ANGLE)]])
    labels = []
    for radius_m in range(RING_STEP_M, math.ceil(view.range_m), RING_STEP_M):
        dot(picture, centre, radius_m * view.pixels_per_m, RING, _SUPERSAMPLING, 0.75)
        x, y = view.pixels(float(radius_m) * behind)[0]
        size = max(9.0, view.height / _SUPERSAMPLING / 55) * _SUPERSAMPLING
        labels.append(Label(x, y, f"{radius_m} m", size, FAINT_TEXT, "mm", chip=True))
    write(picture, labels)


def _ego(picture: Picture, view: BevView) -> None:
    ahead, behind = _EGO_MIDDLE_M + _EGO_LENGTH_M / 2, _EGO_MIDDLE_M - _EGO_LENGTH_M / 2
    half = _EGO_WIDTH_M / 2
    shoulder = ahead - 0.9
    body = np.array(
        [
            [ahead, 0.35 * half],
            [shoulder, half],
            [behind, half],
            [behind, -half],
            [shoulder, -half],
            [ahead, -0.35 * half],
        ]
    )
    fill(picture, view.pixels(body), TEXT, 0.95)
    roof = np.array([[ahead - 1.5, 0.7 * half], [behind + 0.5, 0.7 * half], [behind + 0.5, -0.7 * half],
                     [ahead - 1.5, -0.7 * half]])  # fmt: skip
    fill(picture, view.pixels(roof), PANEL, 0.75)


def _arrow(picture: Picture, start: Array, end: Array, colour: Colour, opacity: float) -> None:
    direction = (end - start) / max(float(np.linalg.norm(end - start)), 1e-9)
    side = np.array([-direction[1], direction[0]])
    head = 4.5 * _SUPERSAMPLING
    line(picture, np.array([start, end]), colour, _SUPERSAMPLING, opacity)
    fill(picture, np.array([end, end - head * direction + head / 2 * side, end - head * direction - head / 2 * side]),
         colour, opacity)  # fmt: skip


def _boxes(
    picture: Picture, view: BevView, boxes: Boxes, lidar2ego: Array, *, colour: Colour | None, filled: bool
) -> None:
    """Outlines with a line to the front; filled boxes also get an arrow for their velocity."""
    rotation, translation = lidar2ego[:3, :3], lidar2ego[:3, 3]
    # The upper face of a box: front left, front right, rear right, rear left.
    outlines = box_corners(boxes)[:, [0, 2, 6, 4]] @ rotation.T + translation
    velocities = boxes.velocity.astype(np.float64) @ rotation[:2, :2].T
    for index in np.argsort(boxes.score, kind="stable"):
        own = colour or CLASS_COLOURS[CLASSES[int(boxes.label[index])]]
        opacity = 0.35 + 0.65 * float(boxes.score[index])
        outline = view.pixels(outlines[index])
        if filled:
            fill(picture, outline, own, 0.45 * opacity)
        line(picture, outline, own, _SUPERSAMPLING, opacity, closed=True)
        middle, front = outline.mean(axis=0), outline[:2].mean(axis=0)
        line(picture, np.array([middle, front]), own, _SUPERSAMPLING, opacity)
        velocity = velocities[index]
        if filled and np.isfinite(velocity).all() and np.linalg.norm(velocity) >= _ARROW_MIN_SPEED:
            moved = front - velocity[::-1] * _ARROW_S * view.pixels_per_m
            _arrow(picture, front, moved, own, opacity)


def draw_bev(
    width: int, height: int, lidar2img: Array, lidar2ego: Array, image_width: float, *, truth: Boxes | None,
    predictions: Boxes | None, range_m: float = 52.0,
) -> Picture:  # fmt: skip
    """The panel [height, width, 3]. `lidar2img` [6, 4, 4] is for images `image_width` pixels wide; boxes: LiDAR frame.

    Ground truth is in class colours where it stands alone, in white outlines beside predictions.
    """
    fine = _SUPERSAMPLING
    view = BevView(width * fine, height * fine, range_m)
    picture: Picture = np.full((height * fine, width * fine, 3), PANEL, dtype=np.uint8)
    _fields_of_view(picture, view, lidar2img, lidar2ego, image_width)
    _rings(picture, view)
    if truth is not None:
        alone = predictions is None
        _boxes(picture, view, truth, lidar2ego, colour=None if alone else TRUTH, filled=alone)
    if predictions is not None:
        _boxes(picture, view, predictions, lidar2ego, colour=None, filled=True)
    _ego(picture, view)
    result: Picture = cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA).astype(np.uint8)
    return result
