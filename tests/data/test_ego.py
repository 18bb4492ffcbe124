"""Ego motion: derived from poses it agrees with what drove them; from the CAN bus it is read as BEVFormer does."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from qdbev_deploy.data.ego import GRAVITY, motion_from_can_bus, motion_from_poses
from qdbev_deploy.data.geometry import yaw_quaternion
from qdbev_deploy.errors import QdbevError


def test_driving_in_a_circle() -> None:
    """At constant speed v and yaw rate w: velocity (v, 0, 0), rate (0, 0, w), and v * w towards the middle."""
    speed, rate = 8.0, np.radians(25.0)
    time_us = np.arange(0, 2_000_001, 50_000, dtype=np.int64) + 1_500_000_000_000_000
    yaw = 1.0 + rate * (time_us - time_us[0]) / 1e6
    radius = speed / rate
    translation = np.stack([600 + radius * np.sin(yaw), 1600 - radius * np.cos(yaw), np.zeros_like(yaw)], axis=1)
    motion = motion_from_poses(time_us, translation, np.array([yaw_quaternion(angle) for angle in yaw]))
    acceleration, rotation_rate, velocity = motion.at(int(time_us[20]))
    np.testing.assert_allclose(velocity, [speed, 0, 0], atol=0.01)
    np.testing.assert_allclose(rotation_rate, [0, 0, rate], atol=1e-6)
    np.testing.assert_allclose(acceleration, np.add([0, speed * rate, 0], GRAVITY), atol=0.02)
    assert not motion.from_can_bus


def test_one_pose_stands_still() -> None:
    motion = motion_from_poses(np.array([5], dtype=np.int64), np.zeros((1, 3)), np.array([[1.0, 0, 0, 0]]))
    acceleration, rate, velocity = motion.at(5)
    np.testing.assert_array_equal([*velocity, *rate, *acceleration], [0, 0, 0, 0, 0, 0, *GRAVITY])


def write_messages(root: Path, messages: object) -> None:
    (root / "can_bus").mkdir(exist_ok=True)
    (root / "can_bus" / "scene-0001_pose.json").write_text(json.dumps(messages))


def message(utime: int, speed: float) -> dict[str, object]:
    return {"accel": [0.1, 0.2, 9.8], "orientation": [1, 0, 0, 0], "pos": [0, 0, 0], "rotation_rate": [0, 0, 0.5],
            "utime": utime, "vel": [speed, 0, 0]}  # fmt: skip


def test_can_bus_takes_the_last_message_not_after_the_frame(tmp_path: Path) -> None:
    write_messages(tmp_path, [message(100, 1.0), message(200, 2.0), message(300, 3.0)])
    motion = motion_from_can_bus(tmp_path, "scene-0001")
    assert motion is not None
    assert motion.from_can_bus
    assert [motion.at(time)[2][0] for time in (50, 100, 199, 200, 999)] == [1.0, 1.0, 1.0, 2.0, 3.0]
    np.testing.assert_array_equal(motion.at(200)[0], [0.1, 0.2, 9.8])
    np.testing.assert_array_equal(motion.at(200)[1], [0, 0, 0.5])


def test_can_bus_that_lacks_a_scene_or_is_broken(tmp_path: Path) -> None:
    assert motion_from_can_bus(tmp_path, "scene-0001") is None
    write_messages(tmp_path, [])
    assert motion_from_can_bus(tmp_path, "scene-0001") is None
    write_messages(tmp_path, [{"utime": 1}])
    with pytest.raises(QdbevError, match=r"scene-0001_pose\.json is not a list of CAN bus pose messages \(KeyError"):
        motion_from_can_bus(tmp_path, "scene-0001")
