"""Quaternions and rigid transforms in double precision, with numpy alone."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


def quaternion_to_matrix(quaternion: Sequence[float] | Array) -> Array:
    """Rotation matrices [..., 3, 3] of quaternions [..., 4] (w, x, y, z), which need not be normalised."""
    q = np.asarray(quaternion, dtype=np.float64)
    w, x, y, z = np.moveaxis(q / np.linalg.norm(q, axis=-1, keepdims=True), -1, 0)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)


def matrix_to_quaternion(rotation: Array) -> tuple[float, float, float, float]:
    """The unit quaternion (w, x, y, z), w >= 0, of a rotation matrix."""
    m = np.asarray(rotation, dtype=np.float64)
    # Shepperd's method: dividing by the largest component keeps it exact near half turns.
    squares = np.array(
        [1 + m[0, 0] + m[1, 1] + m[2, 2], 1 + m[0, 0] - m[1, 1] - m[2, 2],
         1 - m[0, 0] + m[1, 1] - m[2, 2], 1 - m[0, 0] - m[1, 1] + m[2, 2]])  # fmt: skip
    largest = int(np.argmax(squares))
    double = 2 * np.sqrt(squares[largest])
    wx, wy, wz = m[2, 1] - m[1, 2], m[0, 2] - m[2, 0], m[1, 0] - m[0, 1]
    xy, xz, yz = m[0, 1] + m[1, 0], m[0, 2] + m[2, 0], m[1, 2] + m[2, 1]
    quarter = squares[largest]
    q = np.array([[quarter, wx, wy, wz], [wx, quarter, xy, xz], [wy, xy, quarter, yz], [wz, xz, yz, quarter]][largest])
    q = q / double
    q = q / np.linalg.norm(q) * (1 if q[0] >= 0 else -1)
    return float(q[0]), float(q[1]), float(q[2]), float(q[3])


def yaw_quaternion(yaw: float) -> tuple[float, float, float, float]:
    """The quaternion (w, x, y, z) of a turn about z."""
    return float(np.cos(yaw / 2)), 0.0, 0.0, float(np.sin(yaw / 2))


def transform(translation: Sequence[float] | Array, rotation: Sequence[float] | Array) -> Array:
    """The 4x4 matrix of a nuScenes pose: a translation and a quaternion or a rotation matrix."""
    matrix = np.eye(4)
    rotation = np.asarray(rotation, dtype=np.float64)
    matrix[:3, :3] = rotation if rotation.shape == (3, 3) else quaternion_to_matrix(rotation)
    matrix[:3, 3] = translation
    return matrix


def inverse(matrix: Array) -> Array:
    """The inverse of a rigid transform, without the rounding of a general inverse."""
    result = np.eye(4)
    result[:3, :3] = matrix[:3, :3].T
    result[:3, 3] = -matrix[:3, :3].T @ matrix[:3, 3]
    return result


def rotation_vector(rotation: Array) -> Array:
    """Axis times angle, radians, of a rotation matrix."""
    w, x, y, z = matrix_to_quaternion(rotation)
    axis: Array = np.array([x, y, z], dtype=np.float64)
    sine = float(np.linalg.norm(axis))
    factor = 2.0 if sine < 1e-12 else 2.0 * math.atan2(sine, w) / sine
    return axis * factor
