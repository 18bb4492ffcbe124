"""Tables that are valid JSON and no nuScenes: `data info` and the reader name table, record and field."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from qdbev_deploy.data.info import inspect_dataroot
from qdbev_deploy.data.nuscenes import NuScenesSequences
from qdbev_deploy.data.tables import TABLES, read_table, records_problem
from qdbev_deploy.errors import ExitCode, QdbevError

pytest.importorskip("nuscenes")

MISSING = object()


@pytest.fixture
def tables_only(synthetic_dataroot: Path, tmp_path: Path) -> Path:
    root = tmp_path / "data"
    for name in ("v1.0-mini", "maps", "can_bus"):
        shutil.copytree(synthetic_dataroot / name, root / name)
    return root


def refused_by_both(root: Path, message: str) -> None:
    assert any(message in problem.found for problem in inspect_dataroot(root).problems)
    with pytest.raises(QdbevError) as caught:
        NuScenesSequences(root)
    assert message in caught.value.found
    assert caught.value.exit_code == ExitCode.BAD_INPUT


@pytest.mark.parametrize(
    ("table", "text", "message"),
    [
        ("scene", "[1,2,3]", "scene.json has no object as record 0, but 1"),
        ("scene", "[]", "scene.json has no records"),
        ("map", "[{]", "map.json is not valid JSON"),
        ("map", "[{}]", "map.json has no field 'token' in record 0"),
        ("sample", "[{]", "sample.json is not valid JSON"),
        ("ego_pose", "[[]]", "ego_pose.json has no object as record 0, but []"),
        ("category", "[null]", "category.json has no object as record 0, but None"),
        ("attribute", "[" * 20_000 + "]" * 20_000, "attribute.json is not valid JSON"),
    ],
)  # fmt: skip
def test_texts(tables_only: Path, table: str, text: str, message: str) -> None:
    (tables_only / "v1.0-mini" / f"{table}.json").write_text(text)
    refused_by_both(tables_only, message)


@pytest.mark.parametrize(
    ("table", "field", "value", "message"),
    [
        ("sample_data", "filename", MISSING, "no field 'filename' in record 1"),
        ("sample_data", "filename", 5, "has 5 as 'filename' in record 1, not a text that is not empty"),
        ("sample_data", "is_key_frame", "yes", "has 'yes' as 'is_key_frame' in record 1, not true or false"),
        ("sample_data", "timestamp", float("nan"), "has nan as 'timestamp' in record 1"),
        ("sensor", "channel", MISSING, "no field 'channel' in record 1"),
        ("map", "filename", MISSING, "no field 'filename' in record 1"),
        ("map", "log_tokens", "x", "has 'x' as 'log_tokens' in record 1, not a list of tokens"),
        ("calibrated_sensor", "camera_intrinsic", [[1, 2, 3]], "not 3 x 3 numbers"),
        ("sample_annotation", "size", [1.0, 2.0], "has [1.0, 2.0] as 'size' in record 1, not three numbers above 0"),
        ("sample_annotation", "size", [1.0, 2.0, 0.0], "as 'size' in record 1"),
        ("sample_annotation", "visibility_token", "x", "has 'x' as 'visibility_token' in record 1"),
        ("sample_annotation", "num_lidar_pts", None, "has None as 'num_lidar_pts' in record 1, not a whole number"),
        ("ego_pose", "rotation", [0, 0, 0, 0], "has [0, 0, 0, 0] as 'rotation' in record 1, not a quaternion"),
        ("ego_pose", "translation", [10**400, 0, 0], "as 'translation' in record 1, not three numbers"),
        ("instance", "first_annotation_token", MISSING, "no field 'first_annotation_token' in record 1"),
        ("scene", "name", None, "has None as 'name' in record 1"),
        ("log", "token", MISSING, "no field 'token' in record 1"),
    ],
)  # fmt: skip
def test_fields(tables_only: Path, table: str, field: str, value: object, message: str) -> None:
    path = tables_only / "v1.0-mini" / f"{table}.json"
    records: list[dict[str, Any]] = json.loads(path.read_text())
    if value is MISSING:
        del records[1][field]
    else:
        records[1][field] = value
    path.write_text(json.dumps(records))
    refused_by_both(tables_only, f"{table}.json has" if value is not MISSING else f"{table}.json has {message}")
    refused_by_both(tables_only, message)


@pytest.mark.parametrize(
    ("table", "field", "message"),
    [
        ("scene", "first_sample_token", "have a first_sample_token unknown to sample.json"),
        ("sample", "next", "have a prev or next that does not lead back"),
        ("sample_annotation", "sample_token", "have a sample_token unknown to sample.json"),
        ("calibrated_sensor", "sensor_token", "have a sensor_token unknown to sensor.json"),
    ],
)
def test_links_are_checked_when_a_data_root_is_opened(tables_only: Path, table: str, field: str, message: str) -> None:
    path = tables_only / "v1.0-mini" / f"{table}.json"
    records = json.loads(path.read_text())
    records[0][field] = "nowhere"
    path.write_text(json.dumps(records))
    refused_by_both(tables_only, f"records of {table}.json {message} (the first: record 0)")


def test_a_camera_without_calibration(tables_only: Path) -> None:
    path = tables_only / "v1.0-mini" / "calibrated_sensor.json"
    records = json.loads(path.read_text())
    records[2]["camera_intrinsic"] = []
    path.write_text(json.dumps(records))
    refused_by_both(tables_only, "calibrated_sensor.json are cameras without camera_intrinsic (the first: record 2)")


def test_a_table_that_may_not_be_read(tables_only: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Path.open

    def refuse(self: Path, *args: Any, **kwargs: Any) -> Any:
        if self.name == "sample.json":
            raise PermissionError(13, "Permission denied")
        return real(self, *args, **kwargs)

    monkeypatch.setattr(Path, "open", refuse)
    refused_by_both(tables_only, "sample.json cannot be read (Permission denied)")


def test_a_data_root_that_may_not_be_listed(tables_only: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path) -> Any:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(QdbevError, match=r"cannot be listed \(Permission denied\)"):
        inspect_dataroot(tables_only)


def test_whole_tables_and_those_of_a_split_without_annotations(synthetic_dataroot: Path) -> None:
    for name in TABLES:
        records, problem = read_table(synthetic_dataroot / "v1.0-mini" / f"{name}.json")
        assert problem is None
        assert records
    assert records_problem("sample_annotation", []) is None
    assert records_problem("instance", []) is None
