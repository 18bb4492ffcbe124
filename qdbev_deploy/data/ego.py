"""Acceleration, rotation rate and velocity of the ego car: from the CAN bus expansion, or derived from its poses."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from qdbev_deploy.data.geometry import quaternion_to_matrix, rotation_vector
from qdbev_deploy.errors import QdbevError

Array = npt.NDArray[np.float64]

# The CAN bus reports what an accelerometer feels, so a car at rest reads one g upwards.
GRAVITY = (0.0, 0.0, 9.81)


@dataclass(frozen=True)
class EgoMotion:
    """Motion of one scene, sampled in time; all vectors in the ego frame."""

    timestamp_us: npt.NDArray[np.int64]  # [n], rising
    acceleration: Array  # [n, 3] m/s^2
    rotation_rate: Array  # [n, 3] rad/s
    velocity: Array  # [n, 3] m/s
    from_can_bus: bool

    def at(self, timestamp_us: int) -> tuple[Array, Array, Array]:
        """Acceleration, rotation rate, velocity of the last sample not after that time, as BEVFormer takes them."""
        index = max(int(np.searchsorted(self.timestamp_us, timestamp_us, side="right")) - 1, 0)
        return self.acceleration[index], self.rotation_rate[index], self.velocity[index]


def motion_source(lacking: int, scenes: int) -> str:
    """In words, where the motion of so many scenes comes from, of which some lack CAN bus messages."""
    if lacking == 0:
        return "CAN bus expansion"
    if lacking == scenes:
        return "derived from poses"
    return f"CAN bus expansion, but derived from poses for {lacking} of {scenes} scenes, which it lacks"


def motion_from_can_bus(dataroot: Path, scene: str) -> EgoMotion | None:
    """The pose messages of the CAN bus expansion; None where the scene has none (nuScenes lacks some itself)."""
    path = dataroot / "can_bus" / f"{scene}_pose.json"
    if not path.is_file():
        return None
    try:
        messages = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(messages, list):
            raise TypeError(f"a {type(messages).__name__}")
        times = np.array([message["utime"] for message in messages], dtype=np.int64)
        columns = [np.array([message[key] for message in messages], dtype=np.float64).reshape(-1, 3)
                   for key in ("accel", "rotation_rate", "vel")]  # fmt: skip
    except (ValueError, KeyError, TypeError, OverflowError, OSError) as error:
        raise QdbevError(
            f"{path} is not a list of CAN bus pose messages ({type(error).__name__}: {error})",
            "the file as the nuScenes CAN bus expansion holds it",
            "unpack can_bus.zip again, or remove the file to derive the motion from poses",
        ) from error
    if not len(times):
        return None
    order = np.argsort(times, kind="stable")
    return EgoMotion(times[order], columns[0][order], columns[1][order], columns[2][order], True)


def motion_from_poses(timestamp_us: npt.NDArray[np.int64], translation: Array, rotation: Array) -> EgoMotion:
    """Motion by centred differences of ego poses: times [n], translations [n, 3], quaternions [n, 4]."""
    count = len(timestamp_us)
    seconds = (timestamp_us - timestamp_us[0]) / 1e6
    to_global = quaternion_to_matrix(rotation)
    gravity = np.asarray(GRAVITY)
    if count < 2:
        zeros = np.zeros((count, 3))
        return EgoMotion(timestamp_us, zeros + gravity, zeros, zeros.copy(), False)
    velocity = np.gradient(translation, seconds, axis=0)
    acceleration = np.gradient(velocity, seconds, axis=0) + gravity
    before = np.maximum(np.arange(count) - 1, 0)
    after = np.minimum(np.arange(count) + 1, count - 1)
    rate = np.stack(
        [
            rotation_vector(to_global[i].T @ to_global[j]) / (seconds[j] - seconds[i])
            for i, j in zip(before, after, strict=True)
        ]
    )
    into_ego = to_global.transpose(0, 2, 1)
    return EgoMotion(
        timestamp_us,
        np.einsum("nij,nj->ni", into_ego, acceleration),
        rate,
        np.einsum("nij,nj->ni", into_ego, velocity),
        False,
    )
