"""The tables of a synthetic data set: records as the nuScenes schema has them, linked and numbered."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from qdbev_deploy.contract import CAMERAS
from qdbev_deploy.data.ego import GRAVITY
from qdbev_deploy.data.geometry import matrix_to_quaternion, yaw_quaternion
from qdbev_deploy.data.synth.catalogue import ATTRIBUTES, CATEGORIES, KINDS
from qdbev_deploy.data.synth.motion import STEP_S
from qdbev_deploy.data.synth.rig import (
    HEIGHT,
    KEY_PERIOD_US,
    SWEEPS_PER_KEY,
    WIDTH,
    stored_rotation,
    stored_translation,
)
from qdbev_deploy.data.synth.things import ego_pose
from qdbev_deploy.data.synth.world import World
from qdbev_deploy.data.tables import TABLES

Record = dict[str, Any]
Tables = dict[str, list[Record]]

LIDAR = "LIDAR_TOP"
_FIRST_US = 1_532_402_927_600_000
_VISIBILITY = (("1", "v0-40"), ("2", "v40-60"), ("3", "v60-80"), ("4", "v80-100"))
_CAN_PERIOD_US = 20_000


def visibility_token(share: float) -> str:
    """nuScenes' four levels of the visible share of an object."""
    return str(1 + int(share >= 0.4) + int(share >= 0.6) + int(share >= 0.8))


def _neighbours(tokens: list[str], index: int) -> dict[str, str]:
    """The links of a chain's record."""
    return {
        "prev": tokens[index - 1] if index else "",
        "next": tokens[index + 1] if index + 1 < len(tokens) else "",
    }


@dataclass(frozen=True)
class Shot:
    """One turn of the LiDAR and the six pictures that belong to it."""

    index: int  # position in the scene
    lidar_us: int  # since the scene began
    is_key: bool
    key: int  # number of the key frame it belongs to: itself, or the next


def shots_of(key_frames: int, sweeps: bool) -> list[Shot]:
    """All shots of a scene in the order of time."""
    step = 1 if sweeps else SWEEPS_PER_KEY
    numbers = range(0, (key_frames - 1) * SWEEPS_PER_KEY + 1, step)
    return [
        Shot(
            index,
            round(number * KEY_PERIOD_US / SWEEPS_PER_KEY),
            number % SWEEPS_PER_KEY == 0,
            -(-number // SWEEPS_PER_KEY),
        )
        for index, number in enumerate(numbers)
    ]


@dataclass
class SceneFacts:
    """What rendering found out about a scene's actors, by key frame."""

    visible: dict[int, dict[int, float]] = field(default_factory=dict)  # key frame -> actor -> visible share
    points: dict[int, dict[int, int]] = field(default_factory=dict)  # key frame -> actor -> LiDAR points


class Clerk:
    """Writes a scene at a time into the tables."""

    def __init__(self, version: str, seed: int) -> None:
        self._version, self._seed = version, seed
        self.tables: Tables = {name: [] for name in TABLES}
        self.tables["category"] = [
            {"token": self.token("category", name), "name": name, "description": name.split(".")[-1].replace("_", " ")}
            for name in CATEGORIES
        ]
        self.tables["attribute"] = [
            {"token": self.token("attribute", name), "name": name, "description": text}
            for name, text in ATTRIBUTES.items()
        ]
        self.tables["visibility"] = [
            {"token": token, "level": level, "description": f"visibility of whole object is in {level[1:]} percent"}
            for token, level in _VISIBILITY
        ]
        self.tables["sensor"] = [
            {"token": self.token("sensor", name), "channel": name, "modality": "lidar" if name == LIDAR else "camera"}
            for name in (*CAMERAS, LIDAR)
        ]

    def token(self, *parts: object) -> str:
        """A token that depends on the version, the seed and what it names, and on nothing else."""
        text = "/".join(map(str, (self._version, self._seed, *parts)))
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()

    def start_us(self, scene: int) -> int:
        return _FIRST_US + scene * 60_000_000

    def log_name(self, scene: int) -> str:
        return f"synth-{self._seed:04d}-{scene:04d}"

    def file_name(self, scene: int, shot: Shot, channel: str, delay_us: int) -> str:
        """Where a sensor's file lies, relative to the data root."""
        folder = "samples" if shot.is_key else "sweeps"
        ending = "pcd.bin" if channel == LIDAR else "jpg"
        time_us = self.start_us(scene) + shot.lidar_us + delay_us
        return f"{folder}/{channel}/{self.log_name(scene)}__{channel}__{time_us}.{ending}"

    def map_name(self, scene: int) -> str:
        return f"maps/{self.token('map', scene)}.png"

    # ------------------------------------------------------------------------------------------------------------------

    def add_scene(self, scene: int, name: str, world: World, shots: list[Shot], facts: SceneFacts) -> None:
        start_us = self.start_us(scene)
        log = self.token("log", scene)
        keys = [shot for shot in shots if shot.is_key]
        samples = [self.token("sample", scene, shot.key) for shot in keys]
        self.tables["log"].append(
            {"token": log, "logfile": self.log_name(scene), "vehicle": f"synth{scene % 4:02d}",
             "date_captured": "2018-07-24", "location": "synthetic"}
        )  # fmt: skip
        self.tables["map"].append(
            {"token": self.token("map", scene), "log_tokens": [log], "category": "semantic_prior",
             "filename": self.map_name(scene)}
        )  # fmt: skip
        self.tables["scene"].append(
            {"token": self.token("scene", scene), "log_token": log, "nbr_samples": len(samples),
             "first_sample_token": samples[0], "last_sample_token": samples[-1], "name": name,
             "description": f"Synthetic, {world.weather.name}, ego: {world.scenario}"}
        )  # fmt: skip
        for index, (shot, token) in enumerate(zip(keys, samples, strict=True)):
            self.tables["sample"].append(
                {"token": token, "timestamp": start_us + shot.lidar_us,
                 **_neighbours(samples, index),
                 "scene_token": self.token("scene", scene)}
            )  # fmt: skip
        self._add_sensor_data(scene, world, shots)
        self._add_annotations(scene, world, keys, facts)

    def _add_sensor_data(self, scene: int, world: World, shots: list[Shot]) -> None:
        mounts = [
            (camera.name, camera.cam2ego, camera.intrinsic.tolist(), camera.delay_us) for camera in world.rig.cameras
        ]
        mounts.append((LIDAR, world.rig.lidar2ego, [], 0))
        for channel, sensor2ego, intrinsic, delay_us in mounts:
            calibration = self.token("calibration", scene, channel)
            self.tables["calibrated_sensor"].append(
                {"token": calibration, "sensor_token": self.token("sensor", channel),
                 "translation": stored_translation(sensor2ego[:3, 3]), "rotation": stored_rotation(sensor2ego[:3, :3]),
                 "camera_intrinsic": intrinsic}
            )  # fmt: skip
            tokens = [self.token("data", scene, channel, shot.lidar_us) for shot in shots]
            for index, (shot, token) in enumerate(zip(shots, tokens, strict=True)):
                time_us = shot.lidar_us + delay_us
                pose = ego_pose(world, time_us / 1e6)
                # nuScenes has one ego pose for each record of sensor data, under the same token.
                self.tables["ego_pose"].append(
                    {"token": token, "timestamp": self.start_us(scene) + time_us,
                     "rotation": stored_rotation(pose[:3, :3]), "translation": stored_translation(pose[:3, 3])}
                )  # fmt: skip
                is_camera = channel != LIDAR
                self.tables["sample_data"].append(
                    {"token": token, "sample_token": self.token("sample", scene, shot.key), "ego_pose_token": token,
                     "calibrated_sensor_token": calibration, "timestamp": self.start_us(scene) + time_us,
                     "fileformat": "jpg" if is_camera else "pcd", "is_key_frame": shot.is_key,
                     "height": HEIGHT if is_camera else 0, "width": WIDTH if is_camera else 0,
                     "filename": self.file_name(scene, shot, channel, delay_us), **_neighbours(tokens, index)}
                )  # fmt: skip

    def _add_annotations(self, scene: int, world: World, keys: list[Shot], facts: SceneFacts) -> None:
        for number, actor in enumerate(world.actors):
            # nuScenes annotates what a sensor has touched; a label for what nothing saw would teach a network to guess.
            near = [shot for shot in keys if facts.points[shot.key].get(number, 0)]
            if not near:
                continue
            # An object that is hidden for a while stays annotated in between: one unbroken chain each.
            chain = [shot for shot in keys if near[0].key <= shot.key <= near[-1].key]
            instance = self.token("instance", scene, number)
            tokens = [self.token("annotation", scene, number, shot.key) for shot in chain]
            self.tables["instance"].append(
                {"token": instance, "category_token": self.token("category", actor.kind.category),
                 "nbr_annotations": len(chain),
                 "first_annotation_token": tokens[0], "last_annotation_token": tokens[-1]}
            )  # fmt: skip
            for index, shot in enumerate(chain):
                time_s = shot.lidar_us / 1e6
                x, y, yaw = actor.track.at(time_s)
                attribute = actor.attribute(time_s)
                self.tables["sample_annotation"].append(
                    {"token": tokens[index], "sample_token": self.token("sample", scene, shot.key),
                     "instance_token": instance,
                     "visibility_token": visibility_token(facts.visible[shot.key].get(number, 0.0)),
                     "attribute_tokens": [self.token("attribute", attribute)] if attribute else [],
                     "translation": stored_translation(np.array([x, y, actor.size[2] / 2])),
                     "size": list(actor.size), "rotation": [round(part, 9) for part in yaw_quaternion(yaw)],
                     **_neighbours(tokens, index),
                     "num_lidar_pts": facts.points[shot.key].get(number, 0), "num_radar_pts": 0}
                )  # fmt: skip


def can_bus_messages(world: World, key_frames: int, start_us: int) -> list[Record]:
    """Pose messages at 50 Hz, as the CAN bus expansion has them."""
    ego = world.ego
    speed = np.hypot(*np.gradient(ego.xy, STEP_S, axis=0).T)
    forward, rate = np.gradient(speed, STEP_S), np.gradient(ego.yaw, STEP_S)
    messages = []
    for time_us in range(-100_000, (key_frames - 1) * KEY_PERIOD_US + 100_000, _CAN_PERIOD_US):
        time_s = time_us / 1e6
        v, a, w = (float(np.interp(time_s, ego.time_s, values)) for values in (speed, forward, rate))
        pose = ego_pose(world, time_s)
        # The car turns about its rear axle's middle, where the ego frame sits: sideways there is only centripetal pull.
        messages.append(
            {"accel": [round(a, 6), round(v * w, 6), GRAVITY[2]],
             "orientation": [round(part, 9) for part in matrix_to_quaternion(pose[:3, :3])],
             "pos": stored_translation(pose[:3, 3]), "rotation_rate": [0.0, 0.0, round(w, 6)],
             "utime": start_us + time_us, "vel": [round(v, 6), 0.0, 0.0]}
        )  # fmt: skip
    return messages


assert {kind.category for kind in KINDS} <= set(CATEGORIES)
