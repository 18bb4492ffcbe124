"""nuScenes as ordered sequences of six-camera frames, on the official devkit."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from qdbev_deploy.boxes import Boxes
from qdbev_deploy.contract import CAMERAS, CLASSES
from qdbev_deploy.data.ego import EgoMotion, motion_from_can_bus, motion_from_poses, motion_source
from qdbev_deploy.data.geometry import inverse, quaternion_to_matrix, transform
from qdbev_deploy.data.links import link_problems
from qdbev_deploy.data.splits import splits_of
from qdbev_deploy.data.tables import (
    TABLES,
    Record,
    check_files,
    find_version,
    read_tables,
    records_problem,
    refuse_tables,
)
from qdbev_deploy.errors import QdbevError, listed
from qdbev_deploy.streaming import EgoState

Matrix = npt.NDArray[np.float64]

LIDAR = "LIDAR_TOP"
# A camera image further than this from where a sweep expects it belongs to another sweep.
_SWEEP_TOLERANCE_US = 60_000

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Frame:
    """One moment seen by six cameras, with everything that leads from the LiDAR frame to pixels and to the map."""

    token: str  # sample token of a key frame; of a sweep, the token of its CAM_FRONT sample_data
    scene: str  # scene name
    index: int  # position in the scene's list of frames
    is_key_frame: bool
    ego: EgoState  # at the time of the LiDAR sweep (CAM_FRONT's where there is none)
    image_paths: tuple[Path, ...]  # in the order of CAMERAS
    lidar2img: Matrix  # [6, 4, 4] LiDAR frame -> native pixels, through the car's pose at each camera's own time
    lidar2ego: Matrix  # [4, 4]
    ego2global: Matrix  # [4, 4]
    sample_token: str  # the key frame itself; of a sweep, the sample it belongs to: the next key frame

    @property
    def lidar2global(self) -> Matrix:
        return self.ego2global @ self.lidar2ego


@dataclass(frozen=True)
class Scene:
    """A drive of some seconds: frames in the order of time."""

    name: str
    token: str
    frames: tuple[Frame, ...]


@dataclass(frozen=True)
class GroundTruth:
    """Annotations of a key frame that belong to the ten detection classes, in the LiDAR frame."""

    boxes: Boxes  # score 1; velocity NaN where the devkit cannot tell it
    attributes: tuple[str, ...]  # attribute name, "" where there is none
    num_points: npt.NDArray[np.int64]  # LiDAR and radar points; the evaluator drops boxes without any
    instance_tokens: tuple[str, ...]
    visibility: npt.NDArray[np.int64]  # 1..4 as in nuScenes' visibility table


class NuScenesSequences:
    """Scenes of a nuScenes data root. Reads tables only; images are opened by whoever loads a frame."""

    def __init__(self, dataroot: str | os.PathLike[str], version: str | None = None, *, can_bus: bool = True) -> None:
        """`version` None: the only one in the data root. `can_bus` False: derive motion from poses even where the
        CAN bus expansion is installed."""
        self.dataroot = Path(dataroot)
        self.version = find_version(self.dataroot, version)
        # Before the devkit meets a broken table with a bare traceback.
        check_files(self.dataroot, self.version)
        self.nusc = self._open()
        self._use_can_bus = can_bus
        self._told_of_can_bus = False
        self._motions: dict[str, EgoMotion] = {}
        self._data_of_scene: dict[str, dict[str, list[Record]]] | None = None

    def _open(self) -> Any:
        from nuscenes.nuscenes import NuScenes

        folder = self.dataroot / self.version
        try:
            nusc = NuScenes(version=self.version, dataroot=str(self.dataroot), verbose=False)
        except (OSError, ValueError, LookupError, TypeError, AttributeError, AssertionError, RecursionError) as error:
            tables, problems = read_tables(folder)
            refuse_tables(folder, problems)
            raise self._misfit(link_problems(tables) or [f"{type(error).__name__}: {error}"]) from error
        # The devkit follows only some of the tokens: without this, others would fail in the middle of the work.
        tables = {name: getattr(nusc, name) for name in TABLES}
        problems = {name: text for name in TABLES if (text := records_problem(name, tables[name])) is not None}
        refuse_tables(folder, problems)
        if misfits := link_problems(tables, chains=("sample", "sample_annotation")):
            raise self._misfit(misfits)
        return nusc

    def _misfit(self, problems: list[str]) -> QdbevError:
        more = f" and {len(problems) - 1} more of that kind" if problems[1:] else ""
        return QdbevError(
            f"the tables in {self.dataroot / self.version} do not fit together: {problems[0]}{more}",
            "tables of one nuScenes release, unchanged",
            f"qdbev-deploy data info {self.dataroot}",
        )

    # ------------------------------------------------------------------------------------------------------------------
    # Which scenes

    @property
    def scene_names(self) -> list[str]:
        return [record["name"] for record in self.nusc.scene]

    @property
    def can_bus_source(self) -> str:
        """Where acceleration, rotation rate and velocity come from."""
        if not self._use_can_bus:
            return motion_source(1, 1)
        return motion_source(len(self._scenes_without_can_bus()), len(self.scene_names))

    def _scenes_without_can_bus(self) -> list[str]:
        folder = self.dataroot / "can_bus"
        return [name for name in self.scene_names if not (folder / f"{name}_pose.json").is_file()]

    def split_scenes(self, split: str | Sequence[str] | None) -> list[str]:
        """Names of the scenes of a split that this data root holds, in the order of its scene table."""
        present = self.scene_names
        if split is None:
            return present
        if not isinstance(split, str):
            wanted = set(split)
            unknown = sorted(wanted - set(present))
            if unknown or not wanted:
                raise QdbevError(
                    f"scenes {', '.join(unknown) or '(none)'} are not in {self.dataroot / self.version}",
                    f"names among {listed(present, 6)}",
                    f"qdbev-deploy data info {self.dataroot}",
                )
            return [name for name in present if name in wanted]
        splits = splits_of(self.version, self.dataroot / self.version)
        if split in splits:
            chosen = [name for name in present if name in splits[split]]
            if chosen:
                return chosen
            having = [name for name, scenes in splits.items() if not set(scenes).isdisjoint(present)]
            raise QdbevError(
                f"split '{split}' has no scene in {self.dataroot / self.version}",
                f"a split of this data set: {', '.join(having) or 'none; use scene names'}",
                f"pass --split {having[0]}" if having else "pass a scene name instead",
            )
        if split in present:
            return [split]
        raise QdbevError(
            f"unknown split or scene '{split}'",
            f"one of {', '.join(splits)} or a scene name such as {present[0] if present else 'scene-0061'}",
            f"qdbev-deploy data info {self.dataroot}",
        )

    def scenes(self, split: str | Sequence[str] | None = None, *, key_frames_only: bool = True) -> list[Scene]:
        """Scenes of an official split (`mini_val`, `train`, ...), of a scene name or of several; None: all of them.

        `key_frames_only` False also gives the sweeps between key frames: the 12 Hz stream of the cameras.
        """
        chosen = set(self.split_scenes(split))
        return [
            Scene(record["name"], record["token"], tuple(self._frames(record, key_frames_only)))
            for record in self.nusc.scene
            if record["name"] in chosen
        ]

    # ------------------------------------------------------------------------------------------------------------------
    # Frames

    def _frames(self, scene: Record, key_frames_only: bool) -> Iterator[Frame]:
        moments = self._key_moments(scene) if key_frames_only else self._all_moments(scene)
        motion = self._motion(scene)
        last_us = -1
        index = 0
        for token, sample_token, is_key_frame, cameras, lidar in moments:
            frame = self._frame(token, sample_token, scene["name"], index, is_key_frame, cameras, lidar, motion)
            if frame.ego.timestamp_us <= last_us:  # two camera sweeps closest to one LiDAR sweep: time must move on
                continue
            last_us = frame.ego.timestamp_us
            index += 1
            yield frame

    def _key_moments(self, scene: Record) -> Iterator[tuple[str, str, bool, list[Record], Record | None]]:
        token = scene["first_sample_token"]
        while token:
            sample = self.nusc.get("sample", token)
            missing = [name for name in CAMERAS if name not in sample["data"]]
            if missing:
                raise QdbevError(
                    f"sample {token} of {scene['name']} has no {', '.join(missing)} record",
                    "all six cameras for every key frame",
                    f"qdbev-deploy data info {self.dataroot}",
                )
            cameras = [self.nusc.get("sample_data", sample["data"][name]) for name in CAMERAS]
            lidar = self.nusc.get("sample_data", sample["data"][LIDAR]) if LIDAR in sample["data"] else None
            yield token, token, True, cameras, lidar
            token = sample["next"]

    def _all_moments(self, scene: Record) -> Iterator[tuple[str, str, bool, list[Record], Record | None]]:
        keys = {cameras[0]["token"]: (token, cameras, lidar)
                for token, _, _, cameras, lidar in self._key_moments(scene)}  # fmt: skip
        _, first_cameras, first_lidar = next(iter(keys.values()))
        front_us = first_cameras[0]["timestamp"]
        # Cameras fire one after the other as the LiDAR turns: a sweep's images lie around CAM_FRONT's time as a key
        # frame's do.
        offsets = [record["timestamp"] - front_us for record in first_cameras]
        lidar_offset = first_lidar["timestamp"] - front_us if first_lidar else 0
        channels = self._scene_data(scene)
        times = {
            name: np.array([r["timestamp"] for r in records], dtype=np.int64) for name, records in channels.items()
        }

        def nearest(channel: str, timestamp: int) -> Record | None:
            if not len(times.get(channel, ())):
                return None
            index = int(np.argmin(np.abs(times[channel] - timestamp)))
            near = abs(int(times[channel][index]) - timestamp) <= _SWEEP_TOLERANCE_US
            return channels[channel][index] if near else None

        for front in channels[CAMERAS[0]]:
            if front["token"] in keys:
                token, cameras, lidar = keys[front["token"]]
                yield token, token, True, cameras, lidar
                continue
            found = [nearest(name, front["timestamp"] + offset) for name, offset in zip(CAMERAS, offsets, strict=True)]
            cameras = [record for record in found if record is not None]
            if len(cameras) < len(CAMERAS):
                _log.info("%s: a sweep at %d us lacks a camera and is left out", scene["name"], front["timestamp"])
                continue
            lidar = nearest(LIDAR, front["timestamp"] + lidar_offset)
            yield front["token"], front["sample_token"], False, cameras, lidar

    def _scene_data(self, scene: Record) -> dict[str, list[Record]]:
        """All sample_data of a scene by channel, in the order of time."""
        if self._data_of_scene is None:
            scene_of_sample = {record["token"]: record["scene_token"] for record in self.nusc.sample}
            self._data_of_scene = {record["token"]: {} for record in self.nusc.scene}
            wanted = {*CAMERAS, LIDAR}
            for record in self.nusc.sample_data:
                if record["channel"] in wanted:
                    by_channel = self._data_of_scene[scene_of_sample[record["sample_token"]]]
                    by_channel.setdefault(record["channel"], []).append(record)
            for by_channel in self._data_of_scene.values():
                for records in by_channel.values():
                    records.sort(key=lambda record: record["timestamp"])
        return self._data_of_scene[scene["token"]]

    def _frame(
        self, token: str, sample_token: str, scene: str, index: int, is_key_frame: bool,
        cameras: list[Record], lidar: Record | None, motion: EgoMotion,
    ) -> Frame:  # fmt: skip
        reference = lidar or cameras[0]
        pose = self.nusc.get("ego_pose", reference["ego_pose_token"])
        ego2global = transform(pose["translation"], pose["rotation"])
        lidar2ego = self._lidar2ego(lidar)
        lidar2global = ego2global @ lidar2ego
        lidar2img = np.stack([self._global2img(record) @ lidar2global for record in cameras])
        acceleration, rate, velocity = motion.at(reference["timestamp"])
        ego = EgoState(
            timestamp_us=int(reference["timestamp"]),
            translation=_triple(pose["translation"]),
            rotation=tuple(float(part) for part in pose["rotation"]),  # type: ignore[arg-type]
            acceleration=_triple(acceleration),
            rotation_rate=_triple(rate),
            velocity=_triple(velocity),
        )
        paths = tuple(self.dataroot / record["filename"] for record in cameras)
        return Frame(token, scene, index, is_key_frame, ego, paths, lidar2img, lidar2ego, ego2global, sample_token)

    def _lidar2ego(self, lidar: Record | None) -> Matrix:
        if lidar is None:
            sensors = {record["token"] for record in self.nusc.sensor if record["channel"] == LIDAR}
            record = next((r for r in self.nusc.calibrated_sensor if r["sensor_token"] in sensors), None)
            if record is None:
                raise QdbevError(
                    f"no calibration of {LIDAR} in {self.dataroot / self.version}",
                    f"a {LIDAR} sensor: boxes live in its frame",
                    f"qdbev-deploy data info {self.dataroot}",
                )
        else:
            record = self.nusc.get("calibrated_sensor", lidar["calibrated_sensor_token"])
        return transform(record["translation"], record["rotation"])

    def _global2img(self, camera: Record) -> Matrix:
        calibration = self.nusc.get("calibrated_sensor", camera["calibrated_sensor_token"])
        pose = self.nusc.get("ego_pose", camera["ego_pose_token"])
        intrinsic = np.eye(4)
        intrinsic[:3, :3] = calibration["camera_intrinsic"]
        global2ego = inverse(transform(pose["translation"], pose["rotation"]))
        return intrinsic @ inverse(transform(calibration["translation"], calibration["rotation"])) @ global2ego

    def _motion(self, scene: Record) -> EgoMotion:
        name = scene["name"]
        if name not in self._motions:
            motion = motion_from_can_bus(self.dataroot, name) if self._use_can_bus else None
            if motion is None:
                _log.info("%s: ego motion derived from poses", name)
                self._tell_of_can_bus(name)
                channels = self._scene_data(scene)
                records = channels.get(LIDAR) or channels[CAMERAS[0]]
                poses = [self.nusc.get("ego_pose", record["ego_pose_token"]) for record in records]
                times, keep = np.unique([record["timestamp"] for record in records], return_index=True)
                translation = np.array([pose["translation"] for pose in poses])[keep]
                rotation = np.array([pose["rotation"] for pose in poses])[keep]
                motion = motion_from_poses(times.astype(np.int64), translation, rotation)
            self._motions[name] = motion
        return self._motions[name]

    def _tell_of_can_bus(self, scene: str) -> None:
        """Once for a data root: nuScenes itself lacks some scenes, and no more is to be said of each."""
        if self._told_of_can_bus or not self._use_can_bus:
            return
        self._told_of_can_bus = True
        lacking = self._scenes_without_can_bus() or [scene]
        _log.warning(
            "%s has no CAN bus messages for %d of %d scenes (%s): can_bus is derived from their poses",
            self.dataroot, len(lacking), len(self.scene_names), listed(lacking, 3),
        )  # fmt: skip

    # ------------------------------------------------------------------------------------------------------------------
    # Annotations

    def ground_truth(self, frame: Frame) -> GroundTruth:
        """Annotations of a key frame, of the ten detection classes; all others have no place in the metric."""
        from nuscenes.eval.detection.utils import category_to_detection_name

        if not frame.is_key_frame:
            raise QdbevError(
                f"frame {frame.token} of {frame.scene} is a sweep",
                "a key frame: nuScenes annotates no other",
                "interpolate between the key frames around it",
            )
        global2lidar = inverse(frame.lidar2global)
        centers, sizes, yaws, velocities = [], [], [], []
        labels, attributes, points, instances, visibility = [], [], [], [], []
        for token in self.nusc.get("sample", frame.token)["anns"]:
            record = self.nusc.get("sample_annotation", token)
            name = category_to_detection_name(record["category_name"])
            if name is None:
                continue
            centers.append(global2lidar[:3, :3] @ record["translation"] + global2lidar[:3, 3])
            direction = global2lidar[:3, :3] @ quaternion_to_matrix(record["rotation"])[:, 0]
            yaws.append(np.arctan2(direction[1], direction[0]))
            velocities.append((global2lidar[:3, :3] @ self._velocity(token))[:2])
            sizes.append(record["size"])
            labels.append(CLASSES.index(name))
            attributes.append(
                self.nusc.get("attribute", record["attribute_tokens"][0])["name"] if record["attribute_tokens"] else ""
            )
            points.append(record["num_lidar_pts"] + record["num_radar_pts"])
            instances.append(record["instance_token"])
            visibility.append(int(record["visibility_token"] or 0))
        boxes = Boxes(
            center=np.array(centers, dtype=np.float32).reshape(-1, 3),
            size=np.array(sizes, dtype=np.float32).reshape(-1, 3),
            yaw=np.array(yaws, dtype=np.float32),
            velocity=np.array(velocities, dtype=np.float32).reshape(-1, 2),
            score=np.ones(len(labels), dtype=np.float32),
            label=np.array(labels, dtype=np.int64),
        )
        return GroundTruth(
            boxes,
            tuple(attributes),
            np.array(points, dtype=np.int64),
            tuple(instances),
            np.array(visibility, dtype=np.int64),
        )

    def _velocity(self, annotation_token: str) -> npt.NDArray[np.float64]:
        velocity = np.array(self.nusc.box_velocity(annotation_token), dtype=np.float64)
        # The evaluator compares x and y in the global frame; a vertical part would leak into them through the tilt of
        # the LiDAR, so it stays out.
        velocity[2] = 0.0
        return velocity


def _triple(values: Any) -> tuple[float, float, float]:
    x, y, z = (float(value) for value in values)
    return x, y, z
