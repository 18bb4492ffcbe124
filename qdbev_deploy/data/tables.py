"""The folders and tables of a nuScenes data root: which version it holds, and whether its tables are whole."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, NamedTuple

from qdbev_deploy.errors import QdbevError

Record = dict[str, Any]
Tables = dict[str, list[Record]]


class _Kind(NamedTuple):
    """What a field holds: in words, and as a test."""

    says: str
    holds: Callable[[Any], bool]


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < 1e17  # NaN and infinity are no numbers here


def _are_numbers(value: Any, count: int) -> bool:
    return type(value) is list and len(value) == count and all(map(_is_number, value))


_TEXT = _Kind("a text", lambda value: type(value) is str)
_TOKEN = _Kind("a text that is not empty", lambda value: type(value) is str and value != "")
_TOKENS = _Kind("a list of tokens", lambda value: type(value) is list and all(type(token) is str for token in value))
_FLAG = _Kind("true or false", lambda value: type(value) is bool)
_COUNT = _Kind("a whole number", lambda value: type(value) is int and 0 <= value < 10**9)
_TIME = _Kind("a time in microseconds", _is_number)
_PLACE = _Kind("three numbers", lambda value: _are_numbers(value, 3))
_SIZE = _Kind("three numbers above 0", lambda value: _are_numbers(value, 3) and min(value) > 0)
_ROTATION = _Kind("a quaternion, four numbers", lambda value: _are_numbers(value, 4) and any(value))
_INTRINSIC = _Kind(
    "3 x 3 numbers, or empty where the sensor is no camera",
    lambda value: value == [] or (type(value) is list and len(value) == 3 and all(_are_numbers(v, 3) for v in value)),
)
_VISIBILITY = _Kind('"1" to "4", or empty', lambda value: value in ("", "1", "2", "3", "4"))

# What the devkit, its evaluator and the reader open, each as VERSION/NAME.json, with the fields that they use.
FIELDS: dict[str, dict[str, _Kind]] = {
    "attribute": {"token": _TOKEN, "name": _TOKEN},
    "calibrated_sensor": {"token": _TOKEN, "sensor_token": _TOKEN, "translation": _PLACE, "rotation": _ROTATION,
                          "camera_intrinsic": _INTRINSIC},
    "category": {"token": _TOKEN, "name": _TOKEN},
    "ego_pose": {"token": _TOKEN, "translation": _PLACE, "rotation": _ROTATION},
    "instance": {"token": _TOKEN, "category_token": _TOKEN, "first_annotation_token": _TOKEN,
                 "last_annotation_token": _TOKEN},
    "log": {"token": _TOKEN},
    "map": {"token": _TOKEN, "log_tokens": _TOKENS, "filename": _TOKEN},
    "sample": {"token": _TOKEN, "timestamp": _TIME, "scene_token": _TOKEN, "prev": _TEXT, "next": _TEXT},
    "sample_annotation": {"token": _TOKEN, "sample_token": _TOKEN, "instance_token": _TOKEN,
                          "visibility_token": _VISIBILITY, "attribute_tokens": _TOKENS, "translation": _PLACE,
                          "size": _SIZE, "rotation": _ROTATION, "prev": _TEXT, "next": _TEXT,
                          "num_lidar_pts": _COUNT, "num_radar_pts": _COUNT},
    "sample_data": {"token": _TOKEN, "sample_token": _TOKEN, "ego_pose_token": _TOKEN,
                    "calibrated_sensor_token": _TOKEN, "timestamp": _TIME, "is_key_frame": _FLAG, "width": _COUNT,
                    "height": _COUNT, "filename": _TOKEN, "prev": _TEXT, "next": _TEXT},
    "scene": {"token": _TOKEN, "log_token": _TOKEN, "name": _TOKEN, "first_sample_token": _TOKEN,
              "last_sample_token": _TOKEN},
    "sensor": {"token": _TOKEN, "channel": _TOKEN},
    "visibility": {"token": _TOKEN},
}  # fmt: skip
TABLES = tuple(FIELDS)
# A test split comes without annotations; without one of these there is nothing to read.
_NEVER_EMPTY = ("calibrated_sensor", "ego_pose", "log", "map", "sample", "sample_data", "scene", "sensor")

SYNTH_HINT = "qdbev-deploy data synth --out DIR"
SYNTH_VERSIONS = ("v1.0-mini", "v1.0-trainval")  # those whose splits the devkit's evaluator knows


def versions_in(dataroot: Path) -> list[str]:
    """Names of the folders of a data root that hold tables."""
    try:
        return sorted(
            folder.name
            for folder in dataroot.iterdir()
            if folder.is_dir()
            and any((folder / f"{name}.json").is_file() for name in ("scene", "sample", "sample_data"))
        )
    except OSError as error:
        raise QdbevError(
            f"{dataroot} cannot be listed ({error.strerror})",
            "a folder that this user may read",
            f"ls -ld {dataroot}",
        ) from error


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


def read_table(path: Path) -> tuple[list[Record], str | None]:
    """A table's records, and what is wrong with it: with the file, or with the first record that is not as it must be.

    Where something is wrong, the records are none.
    """
    problem = _file_problem(path)
    if problem is None:
        try:
            records = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            problem = f"cannot be read ({error.strerror})"
        except (ValueError, RecursionError) as error:
            problem = f"is not valid JSON: {error}"
        else:
            problem = records_problem(path.stem, records)
    return ([], problem) if problem else (records, None)


def _file_problem(path: Path) -> str | None:
    """What is wrong with a table's file, judged by its two ends: enough to see a download that stopped."""
    try:
        if not path.is_file():
            return "is missing"
        with path.open("rb") as file:
            head = file.read(64).lstrip()
            size = file.seek(0, 2)
            file.seek(max(size - 64, 0))
            tail = file.read().rstrip()
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    if not head:
        return "is empty"
    if not head.startswith(b"["):
        return "does not begin as a JSON list"
    if not tail.endswith(b"]"):
        return f"is cut off after {size} bytes"
    return None


def records_problem(table: str, records: Any) -> str | None:
    """The first record that lacks a field or holds something else in it, in words; None where all are as they must be.

    nuScenes has millions of records, so this goes through them a field at a time.
    """
    if type(records) is not list:
        return "is not a list"
    if not records and table in _NEVER_EMPTY:
        return "has no records"
    stranger = next((index for index, record in enumerate(records) if not isinstance(record, dict)), None)
    if stranger is not None:
        return f"has no object as record {stranger}, but {_shown(records[stranger])}"
    for field, (says, holds) in FIELDS[table].items():
        for index, record in enumerate(records):
            if field not in record:
                return f"has no field '{field}' in record {index}"
            if not holds(record[field]):
                return f"has {_shown(record[field])} as '{field}' in record {index}, not {says}"
    return None


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def read_tables(folder: Path, names: Collection[str] = TABLES) -> tuple[Tables, dict[str, str]]:
    """The tables that are whole, and for the others what is wrong with them."""
    tables: Tables = {}
    problems: dict[str, str] = {}
    for name in names:
        records, problem = read_table(folder / f"{name}.json")
        if problem is None:
            tables[name] = records
        else:
            problems[name] = problem
    return tables, problems


def refuse_tables(folder: Path, problems: dict[str, str]) -> None:
    """Raise what is wrong with tables of a version, if anything is."""
    if problems:
        raise QdbevError(
            f"{folder}: {'; '.join(f'{name}.json {problem}' for name, problem in problems.items())}",
            f"all {len(TABLES)} tables of nuScenes, whole",
            f"unpack the metadata archive of {folder.name} again; qdbev-deploy data info {folder.parent} lists all",
        )


def check_files(dataroot: Path, version: str) -> None:
    """Refuse a version with a table or a map file that is missing or cut off: what costs nothing to see at once."""
    folder = dataroot / version
    problems = {name: problem for name in TABLES if (problem := _file_problem(folder / f"{name}.json")) is not None}
    refuse_tables(folder, problems)
    tables, problems = read_tables(folder, ["map"])
    refuse_tables(folder, problems)
    missing = [record["filename"] for record in tables["map"] if not (dataroot / record["filename"]).is_file()]
    if missing:
        raise QdbevError(
            f"map file {dataroot / missing[0]} is missing" + (f" and {len(missing) - 1} more" if missing[1:] else ""),
            "the map masks that map.json names: the devkit opens no data set without them",
            "unpack the map archive of nuScenes into the data root",
        )
