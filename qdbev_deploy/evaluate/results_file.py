"""Reading a results file that someone else wrote: every way in which it can be wrong has a name."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from qdbev_deploy.contract import CLASSES
from qdbev_deploy.errors import QdbevError
from qdbev_deploy.evaluate.submission import ATTRIBUTES, MAX_BOXES_PER_SAMPLE, Results

_VECTORS = {"translation": 3, "size": 3, "rotation": 4, "velocity": 2}
_FIELDS = ("sample_token", *_VECTORS, "detection_name", "detection_score", "attribute_name")
_FORMAT = "a nuScenes detection submission: {meta: {...}, results: {sample token: [boxes]}}"
_REWRITE = "write the results again, for example with: qdbev-deploy evaluate MODEL --dataroot DIR --out OUT"


def _parse(path: Path) -> Any:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise QdbevError(f"there is no file {path}", "a results file", "check the path") from None
    except (OSError, UnicodeDecodeError) as error:
        raise QdbevError(f"{path} cannot be read: {error}", "a readable JSON text file", "check the path") from None

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        value = dict(pairs)
        if len(value) != len(pairs):
            keys = [key for key, _ in pairs]
            twice = next(key for key in keys if keys.count(key) > 1)
            raise QdbevError(
                f"{path}: the key '{twice}' stands twice in one object", "each sample token once", _REWRITE
            )
        return value

    try:
        return json.loads(text, object_pairs_hook=unique)
    except json.JSONDecodeError as error:
        whole = len(text.rstrip())
        what = "ends in the middle (truncated)" if error.pos >= whole or "Unterminated" in error.msg else "is not JSON"
        raise QdbevError(
            f"{path} {what}: {error.msg} at line {error.lineno}, column {error.colno}", "a complete JSON file", _REWRITE
        ) from None
    except ValueError as error:  # Python reads no integer of more than 4300 digits
        reason = str(error).partition(";")[0]
        raise QdbevError(f"{path} holds a number that cannot be read: {reason}", _FORMAT, _REWRITE) from None
    except RecursionError:
        raise QdbevError(f"{path} is nested too deeply", _FORMAT, _REWRITE) from None


# Far beyond anything real; comparing refuses NaN, infinity, and integers that no float holds.
_LARGEST = 1e12
# The evaluator normalises quaternions, so their length is free; but a shorter one is rounding noise, and the square of
# a very short one is zero.
_SHORTEST_QUATERNION = 1e-6


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _box_fault(record: Any, token: str) -> tuple[str, str] | None:
    """What is wrong with one box and what would be right, or None."""
    if not isinstance(record, dict):
        return f"is a {type(record).__name__}", "an object"
    missing = [name for name in _FIELDS if name not in record]
    if missing:
        return f"lacks {', '.join(missing)}", "the fields " + ", ".join(_FIELDS)
    if record["sample_token"] != token:
        return f"says sample_token '{record['sample_token']}'", "the token it is listed under"
    for name, length in _VECTORS.items():
        vector = record[name]
        if not isinstance(vector, list) or len(vector) != length:
            found = f"{len(vector)} numbers" if isinstance(vector, list) else f"a {type(vector).__name__}"
            return f"has {found} in {name}", f"{length} numbers in {name}"
        if not all(map(_is_number, vector)):
            return f"has {name} {vector}", f"{length} numbers in {name}"
        if not all(-_LARGEST < value < _LARGEST for value in vector):
            return f"has {name} {vector}", "finite numbers of a sensible size (no NaN, no infinity)"
    if min(record["size"]) <= 0:
        return f"has size {record['size']}", "width, length and height above zero"
    if math.hypot(*record["rotation"]) < _SHORTEST_QUATERNION:
        return f"has the rotation {record['rotation']}", "a unit quaternion w, x, y, z"
    score = record["detection_score"]
    if not _is_number(score) or not 0 <= score < _LARGEST:
        return f"has detection_score {score!r}", "a finite number, 0 or more"
    if record["detection_name"] not in CLASSES:
        return f"has the unknown class {record['detection_name']!r}", "one of " + ", ".join(CLASSES)
    if record["attribute_name"] != "" and record["attribute_name"] not in ATTRIBUTES:
        return f"has the unknown attribute {record['attribute_name']!r}", "'' or one of " + ", ".join(ATTRIBUTES)
    return None


def _looks_right(records: list[Any], token: str) -> bool:
    """A quick look at all boxes of a sample at once; where it fails, `_box_fault` finds the reason."""
    try:
        for name, length in _VECTORS.items():
            values = np.array([record[name] for record in records])
            if values.shape != (len(records), length) or values.dtype.kind not in "if":
                return False
            if not (np.abs(values) < _LARGEST).all():
                return False
        return all(
            record["sample_token"] == token
            and min(record["size"]) > 0
            and math.hypot(*record["rotation"]) >= _SHORTEST_QUATERNION
            and type(record["detection_score"]) in (int, float)
            and 0 <= record["detection_score"] < _LARGEST
            and record["detection_name"] in CLASSES
            and (record["attribute_name"] == "" or record["attribute_name"] in ATTRIBUTES)
            for record in records
        )
    except (TypeError, KeyError, ValueError, IndexError):
        return False


def _check_sample(path: Path, token: str, records: Any) -> None:
    if not isinstance(records, list):
        raise QdbevError(
            f"{path}: sample {token} holds a {type(records).__name__}", "a list of boxes for each sample", _REWRITE
        )
    if len(records) > MAX_BOXES_PER_SAMPLE:
        raise QdbevError(
            f"{path}: sample {token} holds {len(records)} boxes",
            f"at most {MAX_BOXES_PER_SAMPLE} boxes a sample",
            f"keep the {MAX_BOXES_PER_SAMPLE} with the highest scores of each sample",
        )
    if records and not _looks_right(records, token):
        for index, record in enumerate(records):
            fault = _box_fault(record, token)
            if fault:
                raise QdbevError(f"{path}: box {index} of sample {token} {fault[0]}", fault[1], _REWRITE)


def read_results(path: str | os.PathLike[str]) -> Results:
    """The boxes of a submission, each checked. Whether the tokens are those of a split is `check_tokens`' matter."""
    path = Path(path)
    document = _parse(path)
    for key in ("meta", "results"):
        if not isinstance(document, dict) or not isinstance(document.get(key), dict):
            raise QdbevError(f"{path} has no object '{key}'", _FORMAT, _REWRITE)
    results: Results = document["results"]
    for token, records in results.items():
        _check_sample(path, token, records)
    if not any(results.values()):
        raise QdbevError(f"{path} holds no boxes at all", "at least one box: nothing can be scored", _REWRITE)
    return results


def check_tokens(
    path: str | os.PathLike[str], results: Mapping[str, Any], expected: Collection[str], what: str,
    elsewhere: Mapping[str, str] | None = None,
) -> None:  # fmt: skip
    """Refuse results whose tokens are not exactly `expected` (called `what`).

    `elsewhere` says of other tokens of the data root what they are, for the message.
    """
    wanted = set(expected)
    for token in results:
        if token not in wanted:
            is_ = (elsewhere or {}).get(token)
            raise QdbevError(
                f"{path}: the token {token} is " + (is_ or "unknown in this data root"),
                f"the tokens of {what}, and no others",
                "check --dataroot, --version and --split, or write results for that split",
            )
    missing = [token for token in expected if token not in results]
    if missing:
        raise QdbevError(
            f"{path}: {len(missing)} of {len(wanted)} tokens of {what} are missing, the first is {missing[0]}",
            "an entry for each of them, [] where nothing was detected",
            "write results for the whole split, or name the right one with --split",
        )
