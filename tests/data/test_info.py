"""Diagnosis of data roots: whole ones, half-downloaded ones, broken ones."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

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
    assert info.ego_motion == "CAN bus expansion"
    assert info.annotations > 50
    assert set(info.files.values()) == {23}
    others = [*(synthetic_dataroot / "can_bus").iterdir(), synthetic_dataroot / "synth.json"]
    rest = sum(path.stat().st_size for path in others)
    assert info.bytes == sum(p.stat().st_size for p in synthetic_dataroot.rglob("*") if p.is_file()) - rest
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
    link = "1 of 2 records of scene.json have a first_sample_token unknown to sample.json (the first: record 0)"
    assert link in problems
    assert any("records of sample_annotation.json have a sample_token unknown" in problem for problem in problems)


def test_maps_and_can_bus(dataroot: Path) -> None:
    next((dataroot / "maps").iterdir()).unlink()
    (dataroot / "can_bus" / "scene-0061_pose.json").unlink()
    broken = dataroot / "can_bus" / "scene-0103_pose.json"
    broken.unlink()
    broken.write_text("{}")
    info = inspect_dataroot(dataroot)
    assert info.can_bus_scenes == 0
    assert info.ego_motion == "derived from poses"
    # A scene without CAN bus is no fault: nuScenes lacks some, and the motion is derived from poses.
    assert len(info.problems) == 2
    assert "map file" in info.problems[0].found
    assert "scene-0103_pose.json" in info.problems[1].found


def test_no_data_root(tmp_path: Path) -> None:
    with pytest.raises(QdbevError, match="is not a folder"):
        inspect_dataroot(tmp_path / "nowhere")
    with pytest.raises(QdbevError, match="no folder with nuScenes tables"):
        inspect_dataroot(tmp_path)


Change = Callable[[list[Any]], object]


def rewrite(dataroot: Path, table: str, change: Change) -> None:
    path = dataroot / "v1.0-mini" / f"{table}.json"
    records = json.loads(path.read_text())
    changed = change(records)
    path.unlink()
    path.write_text(json.dumps(records if changed is None else changed))


def key_frame_of(channel: str) -> Callable[[dict[str, Any]], bool]:
    return lambda record: record["is_key_frame"] and f"/{channel}/" in record["filename"]


@pytest.mark.parametrize(
    ("table", "change", "message"),
    [
        ("sample", lambda r: r[1].update(next=r[0]["token"]), "records of sample.json have a prev or next"),
        ("sample", lambda r: r[0].update(next="x"), "2 of 8 records of sample.json have a prev or next"),
        ("sample_data", lambda r: r[9].update(prev="x"), "sample_data.json have a prev or next that does not lead"),
        ("sample_annotation", lambda r: r[0].update(prev="x"), "of sample_annotation.json have a prev or next"),
        ("sample_annotation", lambda r: r[7].update(attribute_tokens=["x"]), "attribute_tokens unknown to attribute"),
        ("sample_annotation", lambda r: r[7].update(visibility_token="x"), "has 'x' as 'visibility_token' in record 7"),
        ("visibility", lambda r: r[:3], "have a visibility_token unknown to visibility.json"),
        ("instance", lambda r: r[2].update(first_annotation_token="x"), "first_annotation_token unknown to sample_ann"),
        ("instance", lambda r: r[2].update(last_annotation_token="x"), "last_annotation_token unknown to sample_ann"),
        ("instance", lambda r: r[2].update(last_annotation_token=r[3]["last_annotation_token"]),
         "1 of {n} records of instance.json do not begin and end a chain of sample_annotation.json"),
        ("scene", lambda r: r[0].update(last_sample_token=r[0]["first_sample_token"]), "end a chain of sample.json"),
        ("map", lambda r: r[0].update(log_tokens=["x"]), "map.json have a log_tokens unknown to log.json"),
        ("map", lambda r: r[:1], "1 of 2 records of log.json have no map in map.json (the first: record 1)"),
        ("category", lambda r: [*r, r[0]], "1 tokens of category.json stand in it twice"),
        ("calibrated_sensor", lambda r: r[0].update(camera_intrinsic=[]), "are cameras without camera_intrinsic"),
        ("sample_data", lambda r: [x for x in r if not key_frame_of("CAM_FRONT")(x)],
         "8 of 8 key frames have no CAM_FRONT record in sample_data.json: "),
        ("sample_data", lambda r: r.remove(next(x for x in r if key_frame_of("LIDAR_TOP")(x))),
         "1 of 8 key frames have no LIDAR_TOP record in sample_data.json: "),
    ],
)  # fmt: skip
def test_what_does_not_fit_together(dataroot: Path, table: str, change: Change, message: str) -> None:
    count = len(json.loads((dataroot / "v1.0-mini" / "instance.json").read_text()))
    rewrite(dataroot, table, change)
    assert any(message.replace("{n}", str(count)) in problem for problem in found(dataroot)), found(dataroot)


def test_empty_tables_are_no_data_set(dataroot: Path) -> None:
    for path in (dataroot / "v1.0-mini").iterdir():
        path.unlink()
        path.write_text("[]")
    problems = found(dataroot)
    assert any("scene.json has no records" in problem for problem in problems)
    assert any("sample_data.json has no records" in problem for problem in problems)


def test_images_are_cut_off_or_of_another_size(dataroot: Path) -> None:
    files = sorted((dataroot / "samples" / "CAM_BACK").iterdir())
    data = files[0].read_bytes()
    for path, content in ((files[0], data[:5000]), (files[1], b"<html>" + data), (files[3], data + b"\0" * 16)):
        path.unlink()
        path.write_bytes(content)
    name = f"samples/CAM_BACK/{files[2].name}"
    rewrite(dataroot, "sample_data", lambda r: next(x for x in r if x["filename"] == name).update(width=800))
    info = inspect_dataroot(dataroot)
    assert info.broken_files == {"CAM_BACK": 3}
    assert info.missing_files == {}
    (problem,) = info.problems
    assert f"{files[0].name} (cut off after 5000 bytes)" in problem.found
    assert f"{files[1].name} (no JPEG)" in problem.found
    assert f"{name} (1600x900 pixels, by the table 800x900)" in problem.found


def test_splits_that_are_no_splits_are_a_problem_like_others(dataroot: Path) -> None:
    (dataroot / "v1.0-mini" / "splits.json").write_text("[1]")
    info = inspect_dataroot(dataroot)
    assert ["splits.json is not a map" in problem.found for problem in info.problems] == [True]
