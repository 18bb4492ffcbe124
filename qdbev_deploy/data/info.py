"""What is in a data root, and what is missing from it: tables, links between records, images, maps, CAN bus."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from qdbev_deploy.contract import CAMERAS
from qdbev_deploy.data.ego import motion_from_can_bus, motion_source
from qdbev_deploy.data.jpeg import jpeg_problem
from qdbev_deploy.data.links import link_problems
from qdbev_deploy.data.splits import splits_of
from qdbev_deploy.data.tables import Record, Tables, find_version, read_tables, versions_in
from qdbev_deploy.errors import QdbevError

_LIDAR = "LIDAR_TOP"
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
    broken_files: dict[str, int] = field(default_factory=dict)  # channel -> images that are cut off or of another size
    can_bus_scenes: int = 0
    ego_motion: str = ""  # where acceleration, rotation rate and velocity come from
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
    tables, broken = read_tables(root / chosen)
    unpack = f"unpack the metadata archive of {chosen} again"
    info.problems += [Problem(f"table {root / chosen / name}.json {text}", unpack) for name, text in broken.items()]
    info.bytes += sum((root / chosen / f"{name}.json").stat().st_size for name in tables)
    info.scenes, info.key_frames = len(tables.get("scene", [])), len(tables.get("sample", []))
    info.annotations = len(tables.get("sample_annotation", []))
    one_archive = f"take all tables from one archive of {chosen}"
    info.problems += [Problem(text, one_archive) for text in link_problems(tables)]
    _check_sensor_data(root, tables, info)
    _check_maps(root, tables, info)
    names = [record["name"] for record in tables.get("scene", [])]
    _count_splits(root / chosen, names, info)
    _check_can_bus(root, names, info)
    return info


def _check_sensor_data(root: Path, tables: Tables, info: DatasetInfo) -> None:
    if not {"sample_data", "calibrated_sensor", "sensor"} <= tables.keys():
        return
    channel_of_sensor = {record["token"]: record["channel"] for record in tables["sensor"]}
    channels = {r["token"]: channel_of_sensor.get(r["sensor_token"], "?") for r in tables["calibrated_sensor"]}
    by_channel: dict[str, list[Record]] = {}
    for record in tables["sample_data"]:
        by_channel.setdefault(channels.get(record["calibrated_sensor_token"], "?"), []).append(record)
    info.sweeps = sum(not record["is_key_frame"] for record in by_channel.get(CAMERAS[0], []))
    for channel in (*CAMERAS, _LIDAR):
        having = {record["sample_token"] for record in by_channel.get(channel, []) if record["is_key_frame"]}
        lacking = [record["token"] for record in tables.get("sample", []) if record["token"] not in having]
        if lacking:
            found = f"{len(lacking)} of {info.key_frames} key frames have no {channel} record"
            next_step = f"unpack the metadata archive of {info.version} again"
            info.problems.append(Problem(f"{found} in sample_data.json: {_some(lacking)}", next_step))
    listings: dict[str, dict[str, int]] = {}
    for channel, records in sorted(by_channel.items()):
        _check_files(root, channel, records, listings, info)


def _check_files(
    root: Path, channel: str, records: list[Record], listings: dict[str, dict[str, int]], info: DatasetInfo
) -> None:
    """The files of one channel."""
    there = 0
    gone: list[str] = []
    broken: list[str] = []
    for record in records:
        file = record["filename"]
        folder, _, name = file.rpartition("/")
        if folder not in listings:
            listings[folder] = _listing(root / folder)
        size = listings[folder].get(name, 0)
        if not size:
            gone.append(file + (" (empty)" if name in listings[folder] else ""))
            continue
        there += 1
        info.bytes += size
        if name.lower().endswith((".jpg", ".jpeg")):
            problem = jpeg_problem(root / file, record["width"], record["height"])
            if problem is not None:
                broken.append(f"{file} ({problem})")
    if there:
        info.files[channel] = there
    for names, counts, what in (
        (gone, info.missing_files, "missing or empty"),
        (broken, info.broken_files, "cut off or not what the tables say"),
    ):
        if names:
            counts[channel] = len(names)
            folders = sorted({name.split("/")[0] for name in names})
            found = f"{len(names)} of {len(records)} {channel} files are {what}: {_some(names)}"
            archives = " and ".join(f"{folder}/{channel}" for folder in folders)
            info.problems.append(Problem(found, f"unpack the archives that hold {archives}"))


def _some(names: list[str]) -> str:
    return ", ".join(names[:_EXAMPLES]) + (", ..." if len(names) > _EXAMPLES else "")


def _check_maps(root: Path, tables: Tables, info: DatasetInfo) -> None:
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
    try:
        with os.scandir(folder) as entries:
            return {entry.name: entry.stat().st_size for entry in entries if entry.is_file()}
    except OSError:  # not there, or not for us to read: then its files are not there either
        return {}


def _count_splits(folder: Path, names: list[str], info: DatasetInfo) -> None:
    try:
        splits = splits_of(info.version, folder)
    except ModuleNotFoundError:  # `data info` serves a machine without the devkit, too
        return
    except QdbevError as error:
        info.problems.append(Problem(error.found, error.next_step))
        return
    counts = {split: len(set(names) & set(scenes)) for split, scenes in splits.items()}
    info.splits = {split: count for split, count in counts.items() if count}


def _check_can_bus(root: Path, names: list[str], info: DatasetInfo) -> None:
    for name in names:
        try:
            info.can_bus_scenes += motion_from_can_bus(root, name) is not None
        except QdbevError as error:
            info.problems.append(Problem(error.found, error.next_step))
    info.ego_motion = motion_source(len(names) - info.can_bus_scenes, len(names))
