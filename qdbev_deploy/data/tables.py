"""The folders and tables of a nuScenes data root: which version it holds, and whether its tables are whole."""

from __future__ import annotations

import json
from pathlib import Path

from qdbev_deploy.errors import QdbevError

# What the devkit opens, each as VERSION/NAME.json.
TABLES = (
    "attribute", "calibrated_sensor", "category", "ego_pose", "instance", "log", "map",
    "sample", "sample_annotation", "sample_data", "scene", "sensor", "visibility",
)  # fmt: skip

SYNTH_HINT = "qdbev-deploy data synth --out DIR"


def versions_in(dataroot: Path) -> list[str]:
    """Names of the folders of a data root that hold tables."""
    return sorted(
        folder.name
        for folder in dataroot.iterdir()
        if folder.is_dir() and any((folder / f"{name}.json").is_file() for name in ("scene", "sample", "sample_data"))
    )


def find_version(dataroot: Path, version: str | None) -> str:
    """The version to read: the one asked for, or the only one there is."""
    if not dataroot.is_dir():
        raise QdbevError(
            f"{dataroot} is not a folder",
            "a nuScenes data root: the folder that holds samples/, sweeps/, maps/ and v1.0-*/",
            f"pass another --dataroot, or make a synthetic one: {SYNTH_HINT}",
        )
    found = versions_in(dataroot)
    if version is not None:
        if version in found:
            return version
        raise QdbevError(
            f"{dataroot} has no tables of version '{version}'",
            f"a version that is there: {', '.join(found) or 'none is'}",
            f"pass --version {found[0]}" if found else f"unpack the metadata archive there, or {SYNTH_HINT}",
        )
    if not found:
        raise QdbevError(
            f"{dataroot} has no folder with nuScenes tables",
            "a folder such as v1.0-mini with scene.json, sample.json and the others",
            f"unpack the metadata archive there, or make a synthetic set: {SYNTH_HINT}",
        )
    if len(found) > 1:
        raise QdbevError(
            f"{dataroot} holds several versions: {', '.join(found)}", "one choice", f"pass --version {found[0]}"
        )
    return found[0]


def table_problem(path: Path) -> str | None:
    """What is wrong with a table's file, judged by its two ends: enough to see a download that stopped."""
    if not path.is_file():
        return "is missing"
    with path.open("rb") as file:
        head = file.read(64).lstrip()
        size = file.seek(0, 2)
        file.seek(max(size - 64, 0))
        tail = file.read().rstrip()
    if not head:
        return "is empty"
    if not head.startswith(b"["):
        return "does not begin as a JSON list"
    if not tail.endswith(b"]"):
        return f"is cut off after {size} bytes"
    return None


def check_tables(dataroot: Path, version: str) -> None:
    """Refuse a version with a table or a map file that is missing or cut off."""
    folder = dataroot / version
    problems = [
        f"{name}.json {problem}" for name in TABLES if (problem := table_problem(folder / f"{name}.json")) is not None
    ]
    if problems:
        raise QdbevError(
            f"{folder}: {'; '.join(problems)}",
            f"all {len(TABLES)} tables of nuScenes, whole",
            f"unpack the metadata archive of {version} again; qdbev-deploy data info {dataroot} lists what is missing",
        )
    missing = [name for name in map_files(folder) if not (dataroot / name).is_file()]
    if missing:
        raise QdbevError(
            f"map file {dataroot / missing[0]} is missing" + (f" and {len(missing) - 1} more" if missing[1:] else ""),
            "the map masks that map.json names: the devkit opens no data set without them",
            "unpack the map archive of nuScenes into the data root",
        )


def map_files(folder: Path) -> list[str]:
    """Files that the map table names, relative to the data root."""
    return [record["filename"] for record in json.loads((folder / "map.json").read_text(encoding="utf-8"))]
