"""The reader on a synthetic data set: order, projections, ego motion, annotations, splits, refusals."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from qdbev_deploy.contract import CAMERAS, CLASSES
from qdbev_deploy.data.geometry import quaternion_to_matrix
from qdbev_deploy.data.nuscenes import NuScenesSequences
from qdbev_deploy.errors import ExitCode, QdbevError
from qdbev_deploy.streaming import can_bus_vector

pytest.importorskip("nuscenes")


@pytest.fixture(scope="module")
def sequences(synthetic_dataroot: Path) -> NuScenesSequences:
    return NuScenesSequences(synthetic_dataroot)


@pytest.fixture
def tables_only(synthetic_dataroot: Path, tmp_path: Path) -> Path:
    """A copy without images, to break."""
    root = tmp_path / "data"
    for name in ("v1.0-mini", "maps", "can_bus"):
        shutil.copytree(synthetic_dataroot / name, root / name)
    return root


def test_key_frames_in_order(sequences: NuScenesSequences) -> None:
    scenes = sequences.scenes()
    assert [scene.name for scene in scenes] == ["scene-0061", "scene-0103"]
    for scene in scenes:
        assert [frame.index for frame in scene.frames] == [0, 1, 2, 3]
        times = [frame.ego.timestamp_us for frame in scene.frames]
        assert np.diff(times).tolist() == [500_000] * 3
        for frame in scene.frames:
            assert frame.is_key_frame
            assert frame.scene == scene.name
            assert frame.sample_token == frame.token
            sample = sequences.nusc.get("sample", frame.token)
            assert sample["timestamp"] == frame.ego.timestamp_us
            assert [path.parent.name for path in frame.image_paths] == list(CAMERAS)
            assert all(path.is_file() for path in frame.image_paths)


def test_sweeps_make_a_12_hz_stream(sequences: NuScenesSequences) -> None:
    (scene,) = sequences.scenes("scene-0103", key_frames_only=False)
    frames = scene.frames
    assert len(frames) == 19
    assert [frame.index for frame in frames] == list(range(19))
    assert [frame.is_key_frame for frame in frames] == [index % 6 == 0 for index in range(19)]
    steps = np.diff([frame.ego.timestamp_us for frame in frames])
    assert np.abs(steps - 1e6 / 12).max() <= 1
    key_frames = sequences.scenes("scene-0103")[0].frames
    assert [frame.token for frame in frames if frame.is_key_frame] == [frame.token for frame in key_frames]
    for frame in frames:
        # All six images belong to one turn of the LiDAR: the names carry each camera's own time.
        times = [int(path.stem.rsplit("__", 1)[1]) for path in frame.image_paths]
        assert max(abs(time - frame.ego.timestamp_us) for time in times) < 45_000
    sweep = frames[2]
    assert sequences.nusc.get("sample_data", sweep.token)["channel"] == "CAM_FRONT"
    assert sweep.sample_token == key_frames[1].token
    with pytest.raises(QdbevError, match="is a sweep"):
        sequences.ground_truth(sweep)


def test_projection_agrees_with_the_devkit(sequences: NuScenesSequences) -> None:
    """Centres of boxes in the LiDAR frame, through lidar2img, against the devkit's own chain into each camera."""
    from nuscenes.utils.geometry_utils import BoxVisibility, view_points

    compared = 0
    for frame in (scene.frames[1] for scene in sequences.scenes()):
        truth = sequences.ground_truth(frame)
        by_instance = dict(zip(truth.instance_tokens, truth.boxes.center.astype(np.float64), strict=True))
        sample = sequences.nusc.get("sample", frame.token)
        for name, matrix in zip(CAMERAS, frame.lidar2img, strict=True):
            _, boxes, intrinsic = sequences.nusc.get_sample_data(sample["data"][name], BoxVisibility.NONE)
            for box in boxes:
                instance = sequences.nusc.get("sample_annotation", box.token)["instance_token"]
                if instance not in by_instance or box.center[2] < 1.0:
                    continue
                u, v, depth, _ = matrix @ [*by_instance[instance], 1.0]
                expected = view_points(box.center[:, None], intrinsic, normalize=True)[:2, 0]
                np.testing.assert_allclose([u / depth, v / depth], expected, atol=0.05)
                np.testing.assert_allclose(depth, box.center[2], atol=1e-4)
                compared += 1
    assert compared > 50


def test_cameras_look_where_their_names_say(sequences: NuScenesSequences) -> None:
    """A point ten metres off in a camera's direction lands in that camera's image, and in front of no opposite one."""
    frame = sequences.scenes()[0].frames[0]
    degrees = {"CAM_FRONT": 0, "CAM_FRONT_RIGHT": -55, "CAM_FRONT_LEFT": 55, "CAM_BACK": 180, "CAM_BACK_LEFT": 110,
               "CAM_BACK_RIGHT": -110}  # fmt: skip
    for name, angle in degrees.items():
        # The LiDAR's y axis points forward, x to the right.
        point = [-10 * np.sin(np.radians(angle)), 10 * np.cos(np.radians(angle)), -1.0, 1.0]
        u, v, depth, _ = frame.lidar2img[CAMERAS.index(name)] @ point
        assert depth > 8
        assert abs(u / depth - 800) < 200
        assert 400 < v / depth < 700
        if name in ("CAM_FRONT", "CAM_BACK"):
            other = {"CAM_FRONT": "CAM_BACK", "CAM_BACK": "CAM_FRONT"}[name]
            assert (frame.lidar2img[CAMERAS.index(other)] @ point)[2] < 0


def test_ground_truth_agrees_with_the_devkit(sequences: NuScenesSequences) -> None:
    frame = sequences.scenes()[1].frames[2]
    truth = sequences.ground_truth(frame)
    assert set(truth.boxes.label.tolist()) <= set(range(10))
    assert len(truth.boxes) == len(truth.attributes) == len(truth.num_points) == len(truth.visibility) > 10
    assert set(truth.visibility.tolist()) <= {1, 2, 3, 4}
    sample = sequences.nusc.get("sample", frame.token)
    _, boxes, _ = sequences.nusc.get_sample_data(sample["data"]["LIDAR_TOP"])
    by_token = {sequences.nusc.get("sample_annotation", box.token)["instance_token"]: box for box in boxes}
    moving = 0
    for index, instance in enumerate(truth.instance_tokens):
        box = by_token[instance]
        np.testing.assert_allclose(truth.boxes.center[index], box.center, atol=1e-4)
        np.testing.assert_allclose(truth.boxes.size[index], box.wlh, rtol=1e-6)
        forward = box.orientation.rotation_matrix[:, 0]
        yaw = truth.boxes.yaw[index]
        np.testing.assert_allclose([np.cos(yaw), np.sin(yaw)], forward[:2] / np.hypot(*forward[:2]), atol=1e-5)
        # Back in the global frame the velocity is the devkit's.
        velocity = frame.lidar2global[:3, :3] @ [*truth.boxes.velocity[index], 0.0]
        expected = sequences.nusc.box_velocity(box.token)[:2]
        np.testing.assert_allclose(velocity[:2], expected, atol=0.01)
        speed = float(np.hypot(*expected))
        moving += speed > 2
        if truth.attributes[index] == "vehicle.parked":
            assert speed < 0.01
    assert moving >= 2
    assert "" in truth.attributes  # barriers and cones


def test_ego_motion_from_both_sources_agrees(synthetic_dataroot: Path) -> None:
    can = NuScenesSequences(synthetic_dataroot)
    derived = NuScenesSequences(synthetic_dataroot, can_bus=False)
    assert can.can_bus_source == "CAN bus expansion"
    assert derived.can_bus_source == "derived from poses"
    # With 12 Hz poses the derivatives come close to the CAN bus; a frame's neighbours are 83 ms away.
    frames = zip(
        can.scenes("scene-0103", key_frames_only=False)[0].frames[2:-2],
        derived.scenes("scene-0103", key_frames_only=False)[0].frames[2:-2],
        strict=True,
    )
    for one, other in frames:
        assert one.ego.translation == other.ego.translation
        np.testing.assert_allclose(one.ego.velocity, other.ego.velocity, atol=0.3)
        np.testing.assert_allclose(one.ego.rotation_rate, other.ego.rotation_rate, atol=0.06)
        np.testing.assert_allclose(one.ego.acceleration, other.ego.acceleration, atol=1.2)


def test_can_bus_vector_of_a_turn(sequences: NuScenesSequences) -> None:
    """Scene 2 turns: the yaw difference in the CAN bus input is the integral of its yaw rate."""
    frames = sequences.scenes("scene-0103", key_frames_only=False)[0].frames
    previous, total, integral = None, 0.0, 0.0
    for frame in frames:
        vector = can_bus_vector(frame.ego, previous)
        total += float(vector[17])
        if previous is not None:
            rates = previous.rotation_rate[2] + frame.ego.rotation_rate[2]
            integral += np.degrees(rates / 2) / 12
        else:
            assert not vector[:3].any()
        previous = frame.ego
    assert abs(total) > 5
    assert abs(total - integral) < 1.0


def test_lidar_frame_is_nuscenes(sequences: NuScenesSequences) -> None:
    frame = sequences.scenes()[0].frames[0]
    forward_in_ego = frame.lidar2ego[:3, :3] @ [0.0, 1.0, 0.0]
    np.testing.assert_allclose(forward_in_ego, [1.0, 0.0, 0.0], atol=0.03)
    np.testing.assert_allclose(frame.ego2global[:3, :3], quaternion_to_matrix(frame.ego.rotation), atol=1e-12)


def test_splits(sequences: NuScenesSequences, tables_only: Path) -> None:
    assert [scene.name for scene in sequences.scenes("mini_train")] == ["scene-0061"]
    assert [scene.name for scene in sequences.scenes("mini_val")] == ["scene-0103"]
    assert [scene.name for scene in sequences.scenes(["scene-0103"])] == ["scene-0103"]
    with pytest.raises(QdbevError, match=r"unknown split or scene 'val'.*mini_train, mini_val"):
        sequences.scenes("val")
    with pytest.raises(QdbevError, match="scene-9999 are not in"):
        sequences.scenes(["scene-0061", "scene-9999"])
    (tables_only / "v1.0-mini" / "splits.json").write_text('{"mine": ["scene-0061"], "gone": ["scene-0500"]}')
    custom = NuScenesSequences(tables_only)
    assert [scene.name for scene in custom.scenes("mine")] == ["scene-0061"]
    with pytest.raises(QdbevError, match=r"split 'gone' has no scene in .*a split of this data set: mini_train"):
        custom.scenes("gone")
    (tables_only / "v1.0-mini" / "splits.json").write_text("[1]")
    with pytest.raises(QdbevError, match=r"splits\.json is not a map"):
        custom.scenes("mine")


def test_a_scene_without_can_bus_is_noted(tables_only: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert NuScenesSequences(tables_only).scenes()
    assert not caplog.records
    (tables_only / "can_bus" / "scene-0061_pose.json").unlink()
    sequences = NuScenesSequences(tables_only)
    source = "CAN bus expansion, but derived from poses for 1 of 2 scenes, which it lacks"
    assert sequences.can_bus_source == source
    frame = sequences.scenes("scene-0061")[0].frames[1]
    assert np.hypot(*frame.ego.velocity[:2]) > 1
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "no CAN bus messages for 1 of 2 scenes (scene-0061): can_bus is derived" in caplog.text
    caplog.clear()
    shutil.rmtree(tables_only / "can_bus")
    without = NuScenesSequences(tables_only)
    assert without.can_bus_source == "derived from poses"
    without.scenes()
    without.scenes()
    assert len(caplog.records) == 1  # once for a data root, not for each scene
    assert "2 of 2 scenes" in caplog.text
    caplog.clear()
    NuScenesSequences(tables_only, can_bus=False).scenes()  # as it was asked for
    assert not caplog.records


def test_without_lidar_the_front_camera_gives_the_pose(tables_only: Path) -> None:
    path = tables_only / "v1.0-mini" / "sample_data.json"
    records = [record for record in json.loads(path.read_text()) if "LIDAR_TOP" not in record["filename"]]
    path.write_text(json.dumps(records))
    frame = NuScenesSequences(tables_only).scenes("scene-0103", key_frames_only=False)[0].frames[3]
    front = int(frame.image_paths[0].stem.rsplit("__", 1)[1])
    assert frame.ego.timestamp_us == front


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda v: (v / "sample_data.json").unlink(), r"sample_data\.json is missing"),
        (lambda v: (v / "scene.json").write_text(""), r"scene\.json is empty"),
        (lambda v: (v / "ego_pose.json").write_bytes((v / "ego_pose.json").read_bytes()[:5000]), "cut off after 5000"),
        (lambda v: (v / "log.json").write_text("<html>not found</html>"), r"log\.json does not begin as a JSON list"),
        (lambda v: next((v.parent / "maps").iterdir()).unlink(), r"map file .*\.png is missing"),
        (lambda v: (v / "instance.json").write_text("[]"), "do not fit together"),
    ],
    ids=["missing", "empty", "cut", "html", "map", "links"],
)
def test_broken_tables(tables_only: Path, damage: object, message: str) -> None:
    assert callable(damage)
    damage(tables_only / "v1.0-mini")
    with pytest.raises(QdbevError, match=message) as caught:
        NuScenesSequences(tables_only)
    assert caught.value.exit_code == ExitCode.BAD_INPUT


def test_which_version(tables_only: Path, tmp_path: Path) -> None:
    with pytest.raises(QdbevError, match=r"no tables of version 'v1\.0-trainval'"):
        NuScenesSequences(tables_only, "v1.0-trainval")
    shutil.copytree(tables_only / "v1.0-mini", tables_only / "v1.0-other")
    with pytest.raises(QdbevError, match=r"several versions: v1\.0-mini, v1\.0-other"):
        NuScenesSequences(tables_only)
    assert NuScenesSequences(tables_only, "v1.0-mini").version == "v1.0-mini"
    (tmp_path / "empty").mkdir()
    with pytest.raises(QdbevError, match="no folder with nuScenes tables"):
        NuScenesSequences(tmp_path / "empty")
    with pytest.raises(QdbevError, match="is not a folder"):
        NuScenesSequences(tmp_path / "nowhere")


def test_a_key_frame_without_a_camera(tables_only: Path) -> None:
    path = tables_only / "v1.0-mini" / "sample_data.json"
    records = [r for r in json.loads(path.read_text()) if not (r["is_key_frame"] and "CAM_BACK_LEFT" in r["filename"])]
    path.write_text(json.dumps(records))
    with pytest.raises(QdbevError, match="of scene-0061 has no CAM_BACK_LEFT record"):
        NuScenesSequences(tables_only).scenes("scene-0061")


def test_all_classes_are_there(sequences: NuScenesSequences) -> None:
    for scene in sequences.scenes():
        labels = {int(label) for frame in scene.frames for label in sequences.ground_truth(frame).boxes.label}
        assert labels == set(range(len(CLASSES)))
