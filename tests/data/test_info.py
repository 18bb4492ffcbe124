"""Diagnosis of data roots: whole ones, half-downloaded ones, broken ones."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from qdbev_deploy.data.info import inspect_dataroot
from qdbev_deploy.errors import QdbevError


@pytest.fixture
def dataroot(synthetic_dataroot: Path, tmp_path: Path) -> Path:
    """A copy to break; files are linked, so copying costs nothing."""
    return Path(
        shutil.copytree(synthetic_dataroot, tmp_path / "data", copy_function=lambda a, b: Path(b).hardlink_to(a))
    )


def found(dataroot: Path) -> list[str]:
    return [problem.found for problem in inspect_dataroot(dataroot).problems]


def test_whole(synthetic_dataroot: Path) -> None:
    info = inspect_dataroot(synthetic_dataroot)
    assert info.whole
    assert (info.version, info.scenes, info.key_frames, info.sweeps) == ("v1.0-mini", 2, 8, 15)
    assert info.splits == {"mini_train": 1, "mini_val": 1}
    assert info.can_bus_scenes == 2
    assert info.annotations > 50
    assert set(info.files.values()) == {23}
    can_bus = sum(path.stat().st_size for path in (synthetic_dataroot / "can_bus").iterdir())
    assert info.bytes == sum(p.stat().st_size for p in synthetic_dataroot.rglob("*") if p.is_file()) - can_bus
    json.dumps(info.to_dict())


def test_missing_and_empty_images_are_counted_and_named(dataroot: Path) -> None:
    front = sorted((dataroot / "samples" / "CAM_FRONT").iterdir())
    front[0].unlink()
    front[1].unlink()
    front[1].write_bytes(b"")
    shutil.rmtree(dataroot / "sweeps" / "CAM_BACK")
    info = inspect_dataroot(dataroot)
    assert info.missing_files == {"CAM_BACK": 15, "CAM_FRONT": 2}
    back, front_problem = info.problems
    assert "15 of 23 CAM_BACK files are missing or empty: sweeps/CAM_BACK/" in back.found
    assert back.next_step == "unpack the archives that hold sweeps/CAM_BACK"
    assert front[0].name in front_problem.found
    assert f"{front[1].name} (empty)" in front_problem.found
    assert "samples/CAM_FRONT" in front_problem.next_step


def test_broken_tables_are_all_listed(dataroot: Path) -> None:
    tables = dataroot / "v1.0-mini"
    (tables / "log.json").unlink()
    text = (tables / "ego_pose.json").read_text()
    (tables / "ego_pose.json").unlink()
    (tables / "ego_pose.json").write_text(text[: len(text) // 2])
    (tables / "category.json").unlink()
    (tables / "category.json").write_text('[{"token": ]')
    problems = found(dataroot)
    assert any("log.json is missing" in problem for problem in problems)
    assert any("ego_pose.json is cut off after" in problem for problem in problems)
    assert any("category.json is not valid JSON" in problem for problem in problems)


def test_links_between_tables(dataroot: Path) -> None:
    path = dataroot / "v1.0-mini" / "sample.json"
    records = json.loads(path.read_text())
    path.unlink()
    path.write_text(json.dumps(records[1:]))
    problems = found(dataroot)
    assert "1 of 2 records of scene.json have a first_sample_token unknown to sample.json" in problems
    assert any("records of sample_annotation.json have a sample_token unknown" in problem for problem in problems)


def test_maps_and_can_bus(dataroot: Path) -> None:
    next((dataroot / "maps").iterdir()).unlink()
    (dataroot / "can_bus" / "scene-0061_pose.json").unlink()
    broken = dataroot / "can_bus" / "scene-0103_pose.json"
    broken.unlink()
    broken.write_text("{}")
    info = inspect_dataroot(dataroot)
    assert info.can_bus_scenes == 0
    # A scene without CAN bus is no fault: nuScenes lacks some, and the motion is derived from poses.
    assert len(info.problems) == 2
    assert "map file" in info.problems[0].found
    assert "scene-0103_pose.json" in info.problems[1].found


def test_no_data_root(tmp_path: Path) -> None:
    with pytest.raises(QdbevError, match="is not a folder"):
        inspect_dataroot(tmp_path / "nowhere")
    with pytest.raises(QdbevError, match="no folder with nuScenes tables"):
        inspect_dataroot(tmp_path)
