"""The cars' sensors: six cameras and a LiDAR, mounted, aimed and timed as on nuScenes' cars."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from qdbev_deploy.contract import CAMERAS, NUSCENES_HW
from qdbev_deploy.data.geometry import matrix_to_quaternion, transform

Matrix = npt.NDArray[np.float64]
HEIGHT, WIDTH = NUSCENES_HW

KEY_PERIOD_US = 500_000
SWEEPS_PER_KEY = 6  # 12 Hz

# name -> position in the ego frame (m), yaw (degrees, left is positive), focal length and principal point (pixels),
# and the time of exposure against the LiDAR's sweep (us): the cameras fire as the LiDAR turns past them.
_MOUNTS: dict[str, tuple[tuple[float, float, float], float, float, tuple[float, float], int]] = {
    "CAM_FRONT": ((1.7008, 0.0159, 1.5110), 0.0, 1266.42, (816.27, 491.51), -35_500),
    "CAM_FRONT_RIGHT": ((1.5508, -0.4934, 1.4957), -55.7, 1260.85, (807.97, 495.33), -27_500),
    "CAM_FRONT_LEFT": ((1.5239, 0.4946, 1.5093), 55.2, 1272.60, (826.62, 479.75), -43_100),
    "CAM_BACK": ((0.0283, 0.0035, 1.5791), 180.0, 809.22, (829.22, 481.78), -10_400),
    "CAM_BACK_LEFT": ((1.0357, 0.4848, 1.5910), 108.6, 1256.74, (792.11, 492.78), -500),
    "CAM_BACK_RIGHT": ((1.0149, -0.4806, 1.5624), -110.1, 1259.51, (807.25, 501.20), -20_100),
}

# Camera axes (x right, y down, z forward) in a frame that looks along x (y left, z up).
_OPTICAL = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])


@dataclass(frozen=True)
class Camera:
    """A pinhole camera on the car."""

    name: str
    intrinsic: Matrix  # [3, 3]
    cam2ego: Matrix  # [4, 4]
    delay_us: int  # exposure against the LiDAR sweep


@dataclass(frozen=True)
class Rig:
    """The sensors of one car."""

    cameras: tuple[Camera, ...]  # in the order of CAMERAS
    lidar2ego: Matrix


def rotation(yaw: float, pitch: float, roll: float) -> Matrix:
    """Yaw about z, then pitch about y, then roll about x, in degrees."""
    (cy, cp, cr), (sy, sp, sr) = np.cos(np.radians([yaw, pitch, roll])), np.sin(np.radians([yaw, pitch, roll]))
    about_z = np.array([[cy, -sy, 0], [sy, cy, 0], [0, 0, 1]])
    about_y = np.array([[cp, 0, sp], [0, 1, 0], [-sp, 0, cp]])
    about_x = np.array([[1, 0, 0], [0, cr, -sr], [0, sr, cr]])
    matrix: Matrix = about_z @ about_y @ about_x
    return matrix


def make_rig(rng: np.random.Generator) -> Rig:
    """A car of the fleet: the same mounts, each with the small errors of its own calibration."""
    cameras = []
    for name in CAMERAS:
        position, yaw, focal, centre, delay = _MOUNTS[name]
        angles = rng.normal((yaw, 0.3, 0.0), 0.25)
        where = np.asarray(position) + rng.normal(0.0, 0.005, 3)
        focal *= 1 + rng.normal(0.0, 0.002)
        intrinsic = np.array([[focal, 0, centre[0]], [0, focal, centre[1]], [0, 0, 1]]).round(6)
        cam2ego = _as_stored(where, rotation(*angles) @ _OPTICAL)
        cameras.append(Camera(name, intrinsic, cam2ego, delay))
    # The LiDAR's y axis points forward, and it leans by a fraction of a degree.
    tilt = rng.normal((-90.0, 0.0, 0.0), 0.4)
    return Rig(tuple(cameras), _as_stored(np.array([0.9437, 0.0, 1.8402]), rotation(*tilt)))


def _as_stored(translation: Matrix, rotation_: Matrix) -> Matrix:
    """The transform that the tables' rounded numbers give back: pictures and tables agree to the last digit."""
    return transform(stored_translation(translation), stored_rotation(rotation_))


def stored_translation(translation: npt.NDArray[np.float64]) -> list[float]:
    return [round(float(value), 6) for value in translation]


def stored_rotation(rotation_: Matrix) -> list[float]:
    return [round(value, 9) for value in matrix_to_quaternion(rotation_)]
