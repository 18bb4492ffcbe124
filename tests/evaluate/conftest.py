"""A nuScenes small enough to reckon with by hand: the devkit's own class, its tables filled in memory."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qdbev_deploy.data.geometry import transform
from qdbev_deploy.data.nuscenes import Frame, Scene
from qdbev_deploy.streaming import EgoState

# 12.5 Hz and a key frame every sixth, so that all times are whole milliseconds.
PERIOD_US = 80_000
FRAMES_PER_KEY = 6

CATEGORIES = {
    "car": "vehicle.car", "truck": "vehicle.truck", "bus": "vehicle.bus.rigid", "trailer": "vehicle.trailer",
    "construction_vehicle": "vehicle.construction", "pedestrian": "human.pedestrian.adult",
    "motorcycle": "vehicle.motorcycle", "bicycle": "vehicle.bicycle", "traffic_cone": "movable_object.trafficcone",
    "barrier": "movable_object.barrier", "bicycle_rack": "static_object.bicycle_rack",
}  # fmt: skip


@dataclass(frozen=True)
class Thing:
    """An object that moves at a constant velocity, in the global frame; it exists from one key frame to another."""

    name: str = "car"
    x: float = 10.0
    y: float = 0.0
    velocity: tuple[float, float] = (0.0, 0.0)
    yaw: float = 0.0
    yaw_rate: float = 0.0
    attribute: str = "vehicle.parked"
    points: int = 5
    first_key: int = 0
    last_key: int = 1_000_000


@dataclass
class TinyWorld:
    """The devkit object, and the frames that the reader would give."""

    nusc: Any
    scene: Scene
    things: Sequence[Thing] = field(default_factory=tuple)

    def only_key_frames(self) -> Scene:
        return Scene(self.scene.name, self.scene.token, tuple(f for f in self.scene.frames if f.is_key_frame))

    def record(self, thing: Thing, frame: Frame, **changes: Any) -> dict[str, Any]:
        """What a perfect detector says of a thing at the time of a frame."""
        seconds = frame.ego.timestamp_us / 1e6
        yaw = thing.yaw + thing.yaw_rate * seconds
        return {
            "sample_token": frame.token,
            "translation": [thing.x + thing.velocity[0] * seconds, thing.y + thing.velocity[1] * seconds, 1.0],
            "size": [2.0, 4.0, 1.5],
            "rotation": [math.cos(yaw / 2), 0.0, 0.0, math.sin(yaw / 2)],
            "velocity": list(thing.velocity),
            "detection_name": thing.name,
            "detection_score": 0.9,
            "attribute_name": thing.attribute,
        } | changes

    def perfect_results(self) -> dict[str, list[dict[str, Any]]]:
        return {frame.token: [self.record(thing, frame) for thing in self.things] for frame in self.scene.frames}


def build_world(things: Sequence[Thing], keys: int = 4, ego_velocity: tuple[float, float] = (0.0, 0.0)) -> TinyWorld:
    """`keys` key frames of scene-0103 (of mini_val), five sweeps between each two; the ego starts at the origin."""
    from nuscenes.nuscenes import NuScenes

    nusc = NuScenes.__new__(NuScenes)
    nusc.version, nusc.dataroot, nusc.verbose = "v1.0-mini", "memory", False
    names = sorted({thing.attribute for thing in things if thing.attribute})
    nusc.attribute = [{"token": f"attribute {name}", "name": name} for name in names]
    nusc.scene = [{"token": "scene", "name": "scene-0103", "first_sample_token": "key 0"}]
    nusc.ego_pose, nusc.sample, nusc.sample_data, nusc.sample_annotation = [], [], [], []
    frames = []
    for index in range((keys - 1) * FRAMES_PER_KEY + 1):
        key, remainder = divmod(index, FRAMES_PER_KEY)
        is_key, time_us = remainder == 0, index * PERIOD_US
        token = f"key {key}" if is_key else f"sweep {index}"
        at = (ego_velocity[0] * time_us / 1e6, ego_velocity[1] * time_us / 1e6, 0.0)
        ego = EgoState(time_us, at, (1.0, 0.0, 0.0, 0.0))
        matrix = transform(np.array(at), np.array([1.0, 0.0, 0.0, 0.0]))
        frames.append(Frame(token, "scene-0103", index, is_key, ego, (Path("none"),) * 6, np.zeros((6, 4, 4)),
                            np.eye(4), matrix, token if is_key else f"key {key + 1}"))  # fmt: skip
        if is_key:
            nusc.ego_pose.append({"token": f"pose {key}", "translation": list(at), "rotation": [1, 0, 0, 0]})
            nusc.sample_data.append({"token": f"lidar {key}", "ego_pose_token": f"pose {key}"})
            alive = [(i, thing) for i, thing in enumerate(things) if thing.first_key <= key <= thing.last_key]
            nusc.sample.append(
                {
                    "token": token,
                    "scene_token": "scene",
                    "timestamp": time_us,
                    "data": {"LIDAR_TOP": f"lidar {key}"},
                    "anns": [f"thing {i} at {key}" for i, _ in alive],
                    "next": f"key {key + 1}" if key + 1 < keys else "",
                    "prev": f"key {key - 1}" if key else "",
                }
            )
    world = TinyWorld(nusc, Scene("scene-0103", "scene", tuple(frames)), things)
    for (i, thing), frame in itertools.product(enumerate(things), frames):
        key = frame.index // FRAMES_PER_KEY
        if frame.is_key_frame and thing.first_key <= key <= thing.last_key:
            record = world.record(thing, frame)
            last = min(thing.last_key, keys - 1)
            nusc.sample_annotation.append(
                {
                    "token": f"thing {i} at {key}",
                    "instance_token": f"thing {i}",
                    "sample_token": frame.token,
                    "category_name": CATEGORIES[thing.name],
                    "translation": record["translation"],
                    "size": record["size"],
                    "rotation": record["rotation"],
                    "attribute_tokens": [f"attribute {thing.attribute}"] if thing.attribute else [],
                    "num_lidar_pts": thing.points,
                    "num_radar_pts": 0,
                    "prev": f"thing {i} at {key - 1}" if key > thing.first_key else "",
                    "next": f"thing {i} at {key + 1}" if key < last else "",
                }
            )
    tables = ("attribute", "scene", "ego_pose", "sample", "sample_data", "sample_annotation")
    nusc.table_names = list(tables)
    nusc._token2ind = {table: {record["token"]: i for i, record in enumerate(getattr(nusc, table))} for table in tables}
    return world


@pytest.fixture(scope="session")
def tiny_world() -> Callable[..., TinyWorld]:
    return build_world


@pytest.fixture(scope="session")
def thing() -> type[Thing]:
    return Thing
