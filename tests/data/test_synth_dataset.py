"""Synthetic data sets as the unmodified devkit sees them, and the promise of the same bytes for the same seed."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("nuscenes")

from nuscenes.eval.common.config import config_factory
from nuscenes.eval.detection.data_classes import DetectionMetrics
from nuscenes.eval.detection.evaluate import DetectionEval
from nuscenes.eval.detection.utils import category_to_detection_name
from nuscenes.nuscenes import NuScenes
from nuscenes.utils.data_classes import LidarPointCloud
from nuscenes.utils.geometry_utils import points_in_box
from nuscenes.utils.splits import create_splits_scenes
from PIL import Image

from qdbev_deploy.contract import CAMERAS
from qdbev_deploy.data.synth.records import shots_of, visibility_token
from qdbev_deploy.data.synth.write import scene_names, synthesise
from qdbev_deploy.errors import QdbevError


@pytest.fixture(scope="module")
def devkit(synthetic_dataroot: Path) -> NuScenes:
    return NuScenes("v1.0-mini", str(synthetic_dataroot), verbose=True)


def digests(root: Path) -> dict[str, str]:
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def test_tables_are_linked(devkit: NuScenes, synthetic_dataroot: Path) -> None:
    assert [len(devkit.category), len(devkit.attribute), len(devkit.visibility)] == [23, 8, 4]
    assert len(devkit.sample) == 8
    assert len(devkit.sample_data) == (4 + 19) * 7
    for table in ("sample", "sample_data", "sample_annotation"):
        for record in getattr(devkit, table):
            for here, there in (("next", "prev"), ("prev", "next")):
                if record[here]:
                    assert devkit.get(table, record[here])[there] == record["token"]
    for record in devkit.sample_data:
        path = synthetic_dataroot / record["filename"]
        assert path.stat().st_size > 0
        assert path.parts[-3] == ("samples" if record["is_key_frame"] else "sweeps")
    for sample in devkit.sample:
        assert set(sample["data"]) == {*CAMERAS, "LIDAR_TOP"}
        lidar = devkit.get("sample_data", sample["data"]["LIDAR_TOP"])
        assert lidar["timestamp"] == sample["timestamp"]
    for instance in devkit.instance:
        chain, token = [], instance["first_annotation_token"]
        while token:
            chain.append(token)
            token = devkit.get("sample_annotation", token)["next"]
        assert chain[-1] == instance["last_annotation_token"]
        assert len(chain) == instance["nbr_annotations"]
    names = {path.name for path in synthetic_dataroot.iterdir()}
    assert names == {"samples", "sweeps", "maps", "can_bus", "v1.0-mini", "synth.json"}
    assert sum(path.is_file() for path in synthetic_dataroot.glob("s*/*/*")) == len(devkit.sample_data)


def test_images(devkit: NuScenes) -> None:
    for token in devkit.sample[0]["data"].values():
        record = devkit.get("sample_data", token)
        if record["fileformat"] == "jpg":
            with Image.open(devkit.get_sample_data_path(token)) as image:
                assert image.size == (1600, 900) == (record["width"], record["height"])
                assert np.asarray(image).std() > 10


def test_lidar_counts_are_the_points_in_the_boxes(devkit: NuScenes) -> None:
    counted = 0
    for sample in devkit.sample[:2]:
        path, boxes, _ = devkit.get_sample_data(sample["data"]["LIDAR_TOP"])
        cloud = LidarPointCloud.from_file(path)
        assert 500 < cloud.nbr_points() < 20_000
        for box in boxes:
            record = devkit.get("sample_annotation", box.token)
            inside = int(points_in_box(box, cloud.points[:3]).sum())
            # A few returns from the ground may fall into a box, too.
            assert record["num_lidar_pts"] <= inside <= record["num_lidar_pts"] + 3 + 0.05 * inside
            counted += record["num_lidar_pts"]
    assert counted > 1000


def test_visibility_is_graded(devkit: NuScenes) -> None:
    assert [visibility_token(share) for share in (0.0, 0.39, 0.4, 0.6, 0.79, 0.8, 1.0)] == list("1123344"[:7])
    levels = [record["visibility_token"] for record in devkit.sample_annotation]
    assert {"1", "4"} <= set(levels)
    # What the cameras see whole is seldom without LiDAR points.
    seen = [record["num_lidar_pts"] for record in devkit.sample_annotation if record["visibility_token"] == "4"]
    assert np.mean(np.array(seen) > 0) > 0.8


def score_of_ground_truth(nusc: NuScenes, split: str, folder: Path) -> DetectionMetrics:
    """What the official evaluator says of annotations handed in as detections."""
    scenes = set(create_splits_scenes()[split])
    results: dict[str, list[dict[str, object]]] = {}
    for sample in nusc.sample:
        if nusc.get("scene", sample["scene_token"])["name"] not in scenes:
            continue
        boxes = results.setdefault(sample["token"], [])
        for token in sample["anns"]:
            record = nusc.get("sample_annotation", token)
            name = category_to_detection_name(record["category_name"])
            if name is None or not record["num_lidar_pts"]:
                continue
            attributes = [nusc.get("attribute", attribute)["name"] for attribute in record["attribute_tokens"]]
            boxes.append(
                {"sample_token": sample["token"], "translation": record["translation"], "size": record["size"],
                 "rotation": record["rotation"], "velocity": nusc.box_velocity(token)[:2].tolist(),
                 "detection_name": name, "detection_score": 1.0, "attribute_name": attributes[0] if attributes else ""}
            )  # fmt: skip
    meta = dict.fromkeys(("use_camera", "use_lidar", "use_radar", "use_map", "use_external"), False)
    path = folder / "results.json"
    path.write_text(json.dumps({"meta": meta, "results": results}))
    config = config_factory("detection_cvpr_2019")
    metrics, _ = DetectionEval(nusc, config, str(path), split, str(folder), verbose=False).evaluate()
    return metrics


def test_the_evaluator_gives_ground_truth_full_marks(devkit: NuScenes, tmp_path: Path) -> None:
    metrics = score_of_ground_truth(devkit, "mini_val", tmp_path)
    assert math.isclose(metrics.mean_ap, 1.0)
    assert metrics.nd_score > 0.999


@pytest.mark.parametrize("frames", [2, 3, 4])
def test_full_marks_for_the_shortest_sets_of_the_default_seed(tmp_path: Path, frames: int) -> None:
    """A class with a single annotation would have no velocity, and the evaluator counts that as the worst one."""
    root = tmp_path / "data"
    synthesise(root, scenes=2, frames=frames, sweeps="none", workers=2)
    nusc = NuScenes("v1.0-mini", str(root), verbose=False)
    for split in ("mini_train", "mini_val"):
        metrics = score_of_ground_truth(nusc, split, tmp_path)
        assert math.isclose(metrics.mean_ap, 1.0)
        assert metrics.nd_score > 0.999


def test_same_bytes_whatever_the_number_of_workers(tmp_path: Path) -> None:
    for name, workers, seed in (("one", 1, 1), ("two", 2, 1), ("other", 2, 2)):
        summary = synthesise(tmp_path / name, scenes=2, frames=2, seed=seed, sweeps="none", workers=workers)
        assert summary.images == 24
    one = digests(tmp_path / "one")
    assert one == digests(tmp_path / "two")
    assert summary.bytes == sum(path.stat().st_size for path in (tmp_path / "other").rglob("*") if path.is_file())
    other = digests(tmp_path / "other")
    assert len(other) == len(one)
    assert not {digest for name, digest in one.items() if name.endswith(".jpg")} & set(other.values())


def test_scene_names_come_from_the_official_splits() -> None:
    names, is_val = scene_names("v1.0-mini", 10)
    assert [name for name, val in zip(names, is_val, strict=True) if val] == ["scene-0103", "scene-0916"]
    assert len(set(names)) == 10
    names, is_val = scene_names("v1.0-trainval", 20)
    assert len(set(names)) == 20
    assert sum(is_val) == 4
    assert is_val[1]
    assert len(set(scene_names("v1.0-trainval", 850)[0])) == 850
    with pytest.raises(QdbevError, match=r"11 scenes of v1\.0-mini.*1 to 10"):
        scene_names("v1.0-mini", 11)
    with pytest.raises(QdbevError, match=r"0 scenes of v1\.0-mini.*1 to 10.*pass --scenes 1 or more$"):
        scene_names("v1.0-mini", 0)


@pytest.mark.parametrize("version", ["v1.0-test", "../../mini", "v1.0/mini", "mini", ""])
def test_a_version_is_one_of_two_names(tmp_path: Path, version: str) -> None:
    with pytest.raises(QdbevError, match=r"version '.*Needed: v1\.0-mini or v1\.0-trainval"):
        synthesise(tmp_path / "a" / "data", scenes=1, frames=2, version=version)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"), [({"seed": -1}, "seed -1"), ({"workers": -1}, "-1 processes"), ({"workers": 0}, "0 proc")]
)
def test_numbers_below_what_makes_sense(tmp_path: Path, arguments: dict[str, int], message: str) -> None:
    with pytest.raises(QdbevError, match=message):
        synthesise(tmp_path / "data", scenes=1, frames=2, **arguments)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def test_shots() -> None:
    shots = shots_of(3, sweeps=True)
    assert len(shots) == 13
    assert [shot.key for shot in shots] == [0, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2]
    assert [shot.lidar_us for shot in shots if shot.is_key] == [0, 500_000, 1_000_000]
    assert [shot.lidar_us for shot in shots_of(3, sweeps=False)] == [0, 500_000, 1_000_000]


@pytest.mark.parametrize("frames", [1, 81])
def test_too_few_or_too_many_frames(tmp_path: Path, frames: int) -> None:
    with pytest.raises(QdbevError, match=f"{frames} key frames a scene"):
        synthesise(tmp_path / "data", scenes=1, frames=frames)
    assert not list(tmp_path.iterdir())


def test_overwriting_spares_what_is_no_data_set(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.tex").write_text("years of work")
    with pytest.raises(QdbevError, match="exists already"):
        synthesise(tmp_path / "home", scenes=1, frames=2)
    with pytest.raises(QdbevError, match=r"was not written by qdbev-deploy data synth: it has no synth\.json"):
        synthesise(tmp_path / "home", scenes=1, frames=2, overwrite=True)
    assert (tmp_path / "home" / "thesis.tex").read_text() == "years of work"


@pytest.mark.parametrize("marker", [None, "{}", "[1]", '{"tool": "another"}', "{"])
def test_overwriting_spares_the_real_nuscenes(synthetic_dataroot: Path, tmp_path: Path, marker: str | None) -> None:
    """A data root that looks in all like ours, but does not say that it is."""
    root = tmp_path / "nuscenes"
    shutil.copytree(synthetic_dataroot / "v1.0-mini", root / "v1.0-mini")
    for folder in ("samples/CAM_FRONT", "sweeps/CAM_FRONT", "maps"):
        (root / folder).mkdir(parents=True)
    if marker is not None:
        (root / "synth.json").write_text(marker)
    with pytest.raises(QdbevError, match="was not written by"):
        synthesise(root, scenes=1, frames=2, overwrite=True)
    assert (root / "v1.0-mini" / "scene.json").is_file()


def add_file(name: str) -> Callable[[Path], object]:
    def add(root: Path) -> None:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("mine")

    return add


@pytest.mark.parametrize(
    ("add", "named"),
    [
        (add_file("thesis.tex"), "thesis.tex"),
        (add_file("results/scores.json"), "results"),
        (add_file("samples/CAM_FRONT/n008-2018-08-01__CAM_FRONT__1533151603512404.jpg"), "n008-2018"),
        (add_file("v1.0-mini/splits.json"), "splits.json"),
        (add_file("v1.0-trainval/mine/sample.json"), "mine"),
        (add_file("maps/expansion/basemap.png"), "expansion"),
        (lambda root: (root / "sweeps" / "CAM_NEW").symlink_to(root.parent), "CAM_NEW"),
    ],
    ids=["file", "folder", "image", "splits", "folder-in-tables", "maps", "link"],
)
def test_overwriting_spares_what_lies_among_it(
    synthetic_dataroot: Path, tmp_path: Path, add: Callable[[Path], object], named: str
) -> None:
    root = tmp_path / "data"
    shutil.copytree(synthetic_dataroot, root, copy_function=lambda a, b: Path(b).hardlink_to(a))
    add(root)
    before = sorted(root.rglob("*"))
    with pytest.raises(QdbevError, match=rf"{named}\S* is no part of the synthetic data set"):
        synthesise(root, scenes=1, frames=2, overwrite=True)
    assert sorted(root.rglob("*")) == before


def test_overwriting_looks_again_when_it_has_drawn(tmp_path: Path) -> None:
    root = tmp_path / "data"
    synthesise(root, scenes=1, frames=2, sweeps="none", workers=1)

    def put_something_there(done: int, total: int) -> None:
        (root / "thesis.tex").write_text("years of work")

    with pytest.raises(QdbevError, match=r"thesis\.tex is no part"):
        synthesise(root, scenes=1, frames=2, workers=1, overwrite=True, progress=put_something_there)
    assert (root / "thesis.tex").is_file()
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_an_empty_folder_and_an_older_set_are_overwritten(tmp_path: Path) -> None:
    root = tmp_path / "data"
    root.mkdir()
    synthesise(root, scenes=1, frames=2, sweeps="all", workers=1, overwrite=True)
    assert json.loads((root / "synth.json").read_text())["seed"] == 0
    summary = synthesise(root, scenes=1, frames=2, sweeps="none", seed=5, workers=1, overwrite=True)
    assert summary.images == 12
    assert json.loads((root / "synth.json").read_text())["seed"] == 5


def test_a_failure_while_drawing_leaves_nothing(tmp_path: Path) -> None:
    def fail(done: int, total: int) -> None:
        raise RuntimeError(f"{done} of {total}")

    with pytest.raises(RuntimeError, match="of 24"):
        synthesise(tmp_path / "data", scenes=2, frames=2, sweeps="none", workers=2, progress=fail)
    assert not list(tmp_path.iterdir())
