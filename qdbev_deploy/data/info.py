"""What is in a data root, and what is missing from it: tables, links between records, images, maps, CAN bus."""

from __future__ import annotations

import json
import os
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from qdbev_deploy.contract import CAMERAS
from qdbev_deploy.data.splits import splits_of
from qdbev_deploy.data.tables import TABLES, find_version, table_problem, versions_in
from qdbev_deploy.errors import QdbevError

Record = dict[str, Any]

# table, field, table that the field's token is looked up in
_LINKS = (
    ("scene", "log_token", "log"),
    ("scene", "first_sample_token", "sample"),
    ("scene", "last_sample_token", "sample"),
    ("sample", "scene_token", "scene"),
    ("sample_data", "sample_token", "sample"),
    ("sample_data", "ego_pose_token", "ego_pose"),
    ("sample_data", "calibrated_sensor_token", "calibrated_sensor"),
    ("calibrated_sensor", "sensor_token", "sensor"),
    ("sample_annotation", "sample_token", "sample"),
    ("sample_annotation", "instance_token", "instance"),
    ("instance", "category_token", "category"),
)
_EXAMPLES = 3


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong, and the way out."""

    found: str
    next_step: str


@dataclass
class DatasetInfo:
    """The state of one version in a data root."""

    dataroot: str
    version: str
    versions: list[str]
    scenes: int = 0
    key_frames: int = 0
    sweeps: int = 0  # CAM_FRONT images between key frames
    annotations: int = 0
    splits: dict[str, int] = field(default_factory=dict)  # official split -> scenes of it that are here
    files: dict[str, int] = field(default_factory=dict)  # channel -> files that are there
    missing_files: dict[str, int] = field(default_factory=dict)  # channel -> files that are missing or empty
    can_bus_scenes: int = 0
    bytes: int = 0
    problems: list[Problem] = field(default_factory=list)

    @property
    def whole(self) -> bool:
        return not self.problems

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "whole": self.whole}


def inspect_dataroot(dataroot: str | os.PathLike[str], version: str | None = None) -> DatasetInfo:
    """Look through a data root. What is wrong stands in `problems`; only a folder without any tables is an error."""
    root = Path(dataroot)
    chosen = find_version(root, version)
    info = DatasetInfo(str(root), chosen, versions_in(root))
    tables = _read_tables(root / chosen, info)
    info.scenes, info.key_frames = len(tables.get("scene", [])), len(tables.get("sample", []))
    info.annotations = len(tables.get("sample_annotation", []))
    _check_links(tables, info)
    _check_files(root, tables, info)
    names = [record.get("name", "") for record in tables.get("scene", [])]
    info.splits = _splits(chosen, root / chosen, names)
    _check_can_bus(root, names, info)
    return info


def _read_tables(folder: Path, info: DatasetInfo) -> dict[str, list[Record]]:
    tables: dict[str, list[Record]] = {}
    unpack = f"unpack the metadata archive of {info.version} again"
    for name in TABLES:
        path = folder / f"{name}.json"
        problem = table_problem(path)
        if problem is None:
            try:
                tables[name] = json.loads(path.read_text(encoding="utf-8"))
                info.bytes += path.stat().st_size
            except ValueError as error:
                problem = f"is not valid JSON: {error}"
        if problem is not None:
            info.problems.append(Problem(f"table {path} {problem}", unpack))
    return tables


def _check_links(tables: dict[str, list[Record]], info: DatasetInfo) -> None:
    tokens = {name: {record.get("token") for record in records} for name, records in tables.items()}
    for table, key, target in _LINKS:
        if table in tables and target in tokens:
            dangling = sum(record.get(key) not in tokens[target] for record in tables[table])
            if dangling:
                found = (
                    f"{dangling} of {len(tables[table])} records of {table}.json have a {key} unknown to {target}.json"
                )
                info.problems.append(Problem(found, f"take all tables from one archive of {info.version}"))


def _check_files(root: Path, tables: dict[str, list[Record]], info: DatasetInfo) -> None:
    if not {"sample_data", "calibrated_sensor", "sensor"} <= tables.keys():
        return
    channel_of_sensor = {record["token"]: record["channel"] for record in tables["sensor"]}
    channels = {r["token"]: channel_of_sensor.get(r["sensor_token"], "?") for r in tables["calibrated_sensor"]}
    listings: dict[str, dict[str, int]] = {}
    there: Counter[str] = Counter()
    gone: dict[str, list[str]] = {}
    for record in tables["sample_data"]:
        channel = channels.get(record["calibrated_sensor_token"], "?")
        if channel == CAMERAS[0] and not record["is_key_frame"]:
            info.sweeps += 1
        folder, _, name = record["filename"].rpartition("/")
        if folder not in listings:
            listings[folder] = _listing(root / folder)
        size = listings[folder].get(name, 0)
        if size:
            there[channel] += 1
            info.bytes += size
        else:
            gone.setdefault(channel, []).append(record["filename"] + (" (empty)" if name in listings[folder] else ""))
    info.files = dict(sorted(there.items()))
    info.missing_files = {channel: len(names) for channel, names in sorted(gone.items())}
    for channel, names in sorted(gone.items()):
        total = len(names) + there[channel]
        folders = sorted({name.split("/")[0] for name in names})
        info.problems.append(
            Problem(
                f"{len(names)} of {total} {channel} files are missing or empty: {', '.join(names[:_EXAMPLES])}"
                + (", ..." if len(names) > _EXAMPLES else ""),
                f"unpack the archives that hold {' and '.join(f'{folder}/{channel}' for folder in folders)}",
            )
        )
    for record in tables.get("map", []):
        path = root / record["filename"]
        if path.is_file():
            info.bytes += path.stat().st_size
        else:
            info.problems.append(
                Problem(f"map file {path} is missing, without which the devkit opens nothing", "unpack the map archive")
            )


def _listing(folder: Path) -> dict[str, int]:
    """Names and sizes of a folder's files; one pass is far cheaper than asking for each of a million names."""
    if not folder.is_dir():
        return {}
    with os.scandir(folder) as entries:
        return {entry.name: entry.stat().st_size for entry in entries if entry.is_file()}


def _splits(version: str, folder: Path, names: list[str]) -> dict[str, int]:
    try:
        splits = splits_of(version, folder)
    except ModuleNotFoundError:  # `data info` serves a machine without the devkit, too
        return {}
    counts = {split: len(set(names) & set(scenes)) for split, scenes in splits.items()}
    return {split: count for split, count in counts.items() if count}


def _check_can_bus(root: Path, names: list[str], info: DatasetInfo) -> None:
    from qdbev_deploy.data.ego import motion_from_can_bus

    for name in names:
        try:
            info.can_bus_scenes += motion_from_can_bus(root, name) is not None
        except QdbevError as error:
            info.problems.append(Problem(error.found, error.next_step))
