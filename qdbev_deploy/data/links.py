"""Whether the tables of a data set fit together: every token leads somewhere, chains close, cameras are calibrated."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from qdbev_deploy.contract import CAMERAS
from qdbev_deploy.data.tables import Record, Tables

# table, field with a token or a list of them, table that it is looked up in
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
    ("sample_annotation", "visibility_token", "visibility"),
    ("sample_annotation", "attribute_tokens", "attribute"),
    ("instance", "category_token", "category"),
    ("instance", "first_annotation_token", "sample_annotation"),
    ("instance", "last_annotation_token", "sample_annotation"),
    ("map", "log_tokens", "log"),
)
_MAY_BE_EMPTY = ("visibility_token",)
CHAINS = ("sample", "sample_annotation", "sample_data")
# table, its field with the chain's first link and with the last, the chain's table, the way back
_ENDS = (
    ("scene", "first_sample_token", "last_sample_token", "sample", "scene_token"),
    ("instance", "first_annotation_token", "last_annotation_token", "sample_annotation", "instance_token"),
)


def link_problems(tables: Tables, chains: Collection[str] = CHAINS) -> list[str]:
    """What does not fit, among the tables that are there; their records have the fields that they must have.

    `chains`: the tables whose `prev` and `next` are followed.
    """
    tokens = {name: {record["token"] for record in records} for name, records in tables.items()}
    problems = [
        f"{len(records) - len(tokens[name])} tokens of {name}.json stand in it twice"
        for name, records in tables.items()
        if len(records) != len(tokens[name])
    ]
    for table, field, target in _LINKS:
        if table in tables and target in tables:
            known = tokens[target] | ({""} if field in _MAY_BE_EMPTY else set())
            many = field.endswith("_tokens")
            bad = [
                index
                for index, record in enumerate(tables[table])
                if (not known.issuperset(record[field]) if many else record[field] not in known)
            ]
            problems += _said(table, bad, tables[table], f"have a {field} unknown to {target}.json")
    for table in chains:
        if table in tables:
            problems += _said(table, _torn(tables[table]), tables[table], "have a prev or next that does not lead back")
    for table, first, last, chain, back in _ENDS:
        if table in tables and chain in tables:
            links = {record["token"]: record for record in tables[chain]}
            bad = [
                index
                for index, record in enumerate(tables[table])
                if not _closes(record["token"], links.get(record[first]), links.get(record[last]), back)
            ]
            problems += _said(table, bad, tables[table], f"do not begin and end a chain of {chain}.json")
    if "log" in tables and "map" in tables:
        mapped = {token for record in tables["map"] for token in record["log_tokens"]}
        bad = [index for index, record in enumerate(tables["log"]) if record["token"] not in mapped]
        problems += _said("log", bad, tables["log"], "have no map in map.json")
    if "sensor" in tables and "calibrated_sensor" in tables:
        cameras = {record["token"] for record in tables["sensor"] if record["channel"] in CAMERAS}
        bad = [
            index
            for index, record in enumerate(tables["calibrated_sensor"])
            if record["sensor_token"] in cameras and not record["camera_intrinsic"]
        ]
        problems += _said("calibrated_sensor", bad, tables["calibrated_sensor"], "are cameras without camera_intrinsic")
    return problems


def _said(table: str, bad: list[int], records: list[Record], what: str) -> Iterable[str]:
    if bad:
        yield f"{len(bad)} of {len(records)} records of {table}.json {what} (the first: record {bad[0]})"


def _torn(records: list[Record]) -> list[int]:
    """Records whose neighbour does not name them as its own."""
    after = {record["token"]: record["next"] for record in records}
    before = {record["token"]: record["prev"] for record in records}
    return [
        index
        for index, record in enumerate(records)
        if (record["next"] and before.get(record["next"]) != record["token"])
        or (record["prev"] and after.get(record["prev"]) != record["token"])
    ]


def _closes(owner: str, first: Record | None, last: Record | None, back: str) -> bool:
    if first is None or last is None:
        return True  # the link itself is told already
    return not first["prev"] and not last["next"] and first[back] == owner == last[back]
