"""A camera at a moment: what it takes to get from the world to pixels."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

NEAR_M = 0.15


@dataclass(frozen=True)
class View:
    """What a camera needs to draw."""

    intrinsic: Array
    global2cam: Array
    position: Array  # of the camera, global
    sun: Array  # direction to the sun, camera axes
    ego2global: Array


def inverse3(matrix: Array) -> Array:
    """OpenCV's inverse: for three rows, LAPACK spends its time on waking up threads."""
    return np.asarray(cv2.invert(matrix)[1], dtype=np.float64)


def cross(a: Array, b: Array) -> Array:
    """The cross product of two vectors, without numpy's generality: it is asked for thousands of times a second."""
    (x, y, z), (u, v, w) = a.tolist(), b.tolist()
    return np.array((y * w - z * v, z * u - x * w, x * v - y * u))


def to_camera(points: Array, view: View) -> Array:
    seen: Array = points @ view.global2cam[:3, :3].T + view.global2cam[:3, 3]
    return seen


def project(points: Array, view: View) -> Array:
    """Pixels [n, 2] of points in camera axes, all of them in front."""
    pixels = points @ view.intrinsic.T
    return pixels[:, :2] / pixels[:, 2:]


def fixed(pixels: Array) -> npt.NDArray[np.int32]:
    """Pixels with three fractional bits, kept within what OpenCV's drawing takes."""
    return np.clip(pixels * 8, -(2**18), 2**18).round().astype(np.int32)


def clip_near(points: Array) -> Array:
    """A polygon [n, 3] in camera axes, cut at the near plane."""
    result = []
    for index, point in enumerate(points):
        previous = points[index - 1]
        if (point[2] >= NEAR_M) != (previous[2] >= NEAR_M):
            share = (NEAR_M - previous[2]) / (point[2] - previous[2])
            result.append(previous + share * (point - previous))
        if point[2] >= NEAR_M:
            result.append(point)
    return np.array(result).reshape(-1, 3)
