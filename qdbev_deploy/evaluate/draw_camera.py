"""Boxes on a camera image: projected, clipped where they leave the view, nearer ones over farther ones."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from qdbev_deploy.boxes import Boxes
from qdbev_deploy.contract import CLASSES
from qdbev_deploy.evaluate.canvas import CLASS_COLOURS, Colour, Picture, fill, line

Array = npt.NDArray[np.float64]

# Corners in units of half the length, width, height; x along the length.
_UNIT_CORNERS = np.array([[x, y, z] for x in (1, -1) for y in (1, -1) for z in (1, -1)], dtype=np.float64)
# Corner indices around each face: front, back, left, right, top, bottom.
_FACES = ((0, 1, 3, 2), (4, 5, 7, 6), (0, 1, 5, 4), (2, 3, 7, 6), (0, 2, 6, 4), (1, 3, 7, 5))
_EDGES = tuple(
    (a, b) for a in range(8) for b in range(a + 1, 8) if np.abs(_UNIT_CORNERS[a] - _UNIT_CORNERS[b]).sum() == 2
)
# Nothing nearer than this is drawn: it would cover the whole picture.
_NEAR_M = 0.3
# A box is behind others where these cover more than this share of it and stand this much before it.
_HIDDEN_SHARE, _CLEAR_M = 0.75, 1.0


def box_corners(boxes: Boxes) -> Array:
    """[n, 8, 3] corners in the frame of the boxes; the first four belong to the front face."""
    width, length, height = boxes.size.astype(np.float64).T
    local = _UNIT_CORNERS * np.stack([length, width, height], axis=1)[:, None, :] / 2
    yaw = boxes.yaw.astype(np.float64)[:, None]
    cos, sin = np.cos(yaw), np.sin(yaw)
    turned = np.stack(
        [cos * local[..., 0] - sin * local[..., 1], sin * local[..., 0] + cos * local[..., 1], local[..., 2]], axis=2
    )
    corners: Array = turned + boxes.center.astype(np.float64)[:, None, :]
    return corners


def view_planes(width: int, height: int) -> Array:
    """[5, 3] planes that (u d, v d, d) must lie above to be in view: in front of the camera, and near the image.

    Clipping before the division is what keeps boxes right that cross the camera plane. The image gets a margin, so
    that outlines end outside of the picture, not on its border.
    """
    margin = 16.0
    return np.array(
        [
            [0, 0, 1],  # the offset _NEAR_M is applied in _heights
            [1, 0, margin],
            [-1, 0, width + margin],
            [0, 1, margin],
            [0, -1, height + margin],
        ],
        dtype=np.float64,
    )


def _heights(points: Array, planes: Array) -> Array:
    """[n, 5] how far above each plane; negative is out of view."""
    heights: Array = points @ planes.T
    heights[:, 0] -= _NEAR_M
    return heights


def clip_polygon(points: Array, planes: Array) -> Array:
    """The part of a convex polygon [n, 3], in (u d, v d, d), that is in view: [m, 3], m = 0 where nothing is."""
    for index in range(len(planes)):
        if not len(points):
            break
        height = _heights(points, planes)[:, index]
        kept: list[Array] = []
        for here in range(len(points)):
            there = (here + 1) % len(points)
            if height[here] >= 0:
                kept.append(points[here])
            if (height[here] >= 0) != (height[there] >= 0):
                share = height[here] / (height[here] - height[there])
                kept.append(points[here] + share * (points[there] - points[here]))
        points = np.array(kept).reshape(-1, 3)
    return points


def clip_segment(first: Array, second: Array, planes: Array) -> Array:
    """The part of a segment, in (u d, v d, d), that is in view: [2, 3], or [0, 3] where nothing is."""
    heights = _heights(np.array([first, second]), planes)
    low, high = 0.0, 1.0
    for start, end in heights.T:
        if start < 0 and end < 0:
            return np.empty((0, 3))
        if start < 0:
            low = max(low, start / (start - end))
        elif end < 0:
            high = min(high, start / (start - end))
    if low > high:
        return np.empty((0, 3))
    return np.array([first + low * (second - first), first + high * (second - first)])


def _pixels(points: Array) -> Array:
    return points[:, :2] / points[:, 2:]


def camera_centre(lidar2img: Array) -> Array:
    """Where the camera is, in the frame that the projection starts from."""
    centre: Array = -np.linalg.solve(lidar2img[:3, :3], lidar2img[:3, 3])
    return centre


def draw_box(
    picture: Picture, corners: Array, lidar2img: Array, colour: Colour, *, thickness: int, opacity: float, filled: bool
) -> bool:
    """Draw one box [8, 3]; its front is tinted more strongly. Returns whether any of it is in view."""
    planes = view_planes(picture.shape[1], picture.shape[0])
    projected = corners @ lidar2img[:3, :3].T + lidar2img[:3, 3]
    if (_heights(projected, planes) < 0).all(axis=0).any():
        return False
    eye = camera_centre(lidar2img)
    middle = corners.mean(axis=0)
    facing = []
    for face in _FACES:
        centre = corners[list(face)].mean(axis=0)
        facing.append(bool((centre - middle) @ (eye - centre) > 0))
    if filled:
        for index, face in enumerate(_FACES):
            if facing[index]:
                shape = clip_polygon(projected[list(face)], planes)
                fill(picture, _pixels(shape), colour, (0.34 if index == 0 else 0.12) * opacity)
    for a, b in sorted(_EDGES, key=lambda edge: _seen(edge, facing)):
        segment = clip_segment(projected[a], projected[b], planes)
        seen = _seen((a, b), facing)
        line(picture, _pixels(segment), colour, thickness if seen else 1, opacity * (1.0 if seen else 0.35))
    return True


def _seen(edge: tuple[int, int], facing: list[bool]) -> bool:
    return any(facing[index] for index, face in enumerate(_FACES) if edge[0] in face and edge[1] in face)


def covered_shares(boxes: Boxes, eye: Array) -> Array:
    """[n] which share of each box other boxes stand in front of, for a camera at `eye`; boxes count as solid.

    Rays go to a lattice of points in each box. A box blocks one that meets it at least `_CLEAR_M` before it meets its
    own: two boxes around one object do not hide each other.
    """
    count = len(boxes)
    if not count:
        return np.zeros(0)
    yaw = boxes.yaw.astype(np.float64)
    center = boxes.center.astype(np.float64)
    half = boxes.size[:, [1, 0, 2]].astype(np.float64) / 2  # length, width, height
    cos, sin, zero, one = np.cos(yaw), np.sin(yaw), np.zeros_like(yaw), np.ones_like(yaw)
    into_box = np.stack([cos, sin, zero, -sin, cos, zero, zero, zero, one], axis=1).reshape(-1, 3, 3)
    lattice = np.stack(np.meshgrid(*[[-0.8, 0.0, 0.8]] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    points = np.einsum("nji,npj->npi", into_box, lattice * half[:, None]) + center[:, None]  # [n, 27, 3]
    rays = points - eye
    met = np.full((count, *rays.shape[:2]), np.inf)  # [box met, n, 27] metres along each ray; infinity where it misses
    with np.errstate(divide="ignore", invalid="ignore"):
        for index in range(count):
            origin, direction = into_box[index] @ (eye - center[index]), rays @ into_box[index].T
            first, second = (-half[index] - origin) / direction, (half[index] - origin) / direction
            enter, leave = np.minimum(first, second).max(axis=-1), np.maximum(first, second).min(axis=-1)
            # A box around the camera itself (enter < 0) hides nothing.
            met[index] = np.where((enter < leave) & (enter > 0), enter * np.linalg.norm(rays, axis=-1), np.inf)
    own = met[np.arange(count), np.arange(count)]  # [n, 27]
    shares: Array = (met.min(axis=0) < own - _CLEAR_M).mean(axis=1)
    return shares


def draw_boxes(
    picture: Picture, boxes: Boxes, lidar2img: Array, *, colour: Colour | None = None, thickness: int = 2,
    filled: bool = True,
) -> int:  # fmt: skip
    """Draw boxes of the LiDAR frame on an image that `lidar2img` projects to, in place; farthest first.

    `colour` None means each class' own. Scores set the opacity; a box that others hide is a faint outline. Returns how
    many boxes are in view.
    """
    corners = box_corners(boxes)
    eye = camera_centre(lidar2img)
    distance = np.linalg.norm(boxes.center.astype(np.float64) - eye, axis=1)
    hidden = covered_shares(boxes, eye) > _HIDDEN_SHARE
    drawn = 0
    for index in np.argsort(-distance, kind="stable"):
        own = CLASS_COLOURS[CLASSES[int(boxes.label[index])]]
        behind = bool(hidden[index])
        drawn += draw_box(
            picture, corners[index], lidar2img, colour or own,
            thickness=1 if behind or distance[index] > 35 else thickness,
            opacity=(0.4 + 0.6 * float(boxes.score[index])) * (0.4 if behind else 1.0),
            filled=filled and not behind,
        )  # fmt: skip
    return drawn
