"""Every way in which a results file can be wrong is named."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from qdbev_deploy.errors import ExitCode, QdbevError
from qdbev_deploy.evaluate.results_file import check_tokens, read_results


def box(**changes: Any) -> dict[str, Any]:
    return {
        "sample_token": "a", "translation": [1.0, 2.0, 3], "size": [2, 4.0, 1.5], "rotation": [1.0, 0, 0, 0],
        "velocity": [0.0, 0.0], "detection_name": "car", "detection_score": 0.5, "attribute_name": "vehicle.parked",
    } | changes  # fmt: skip


def without(name: str) -> dict[str, Any]:
    return {key: value for key, value in box().items() if key != name}


@pytest.fixture
def file(tmp_path: Path) -> Callable[[Any], Path]:
    def write(document: Any) -> Path:
        path = tmp_path / "results.json"
        path.write_text(document if isinstance(document, str) else json.dumps(document))
        return path

    return write


def test_a_right_file_is_read_as_it_is(file: Callable[[Any], Path]):
    results = {"a": [box(), box(detection_score=1, attribute_name="", more="is ignored")], "b": []}
    assert read_results(file({"meta": {}, "results": results})) == results


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (box(translation=[1.0, float("nan"), 3.0]), r"translation \[1.0, nan, 3.0\].*no NaN"),
        (box(velocity=[float("inf"), 0.0]), "velocity"),
        (box(velocity=[10**400, 0.0]), "velocity"),
        (box(size=[2.0, 4.0]), "has 2 numbers in size"),
        (box(translation=[1.0, 2.0, 3.0, 4.0]), "has 4 numbers in translation"),
        (box(rotation=3.0), "has a float in rotation"),
        (box(rotation=[1, 0, 0, "0"]), "rotation"),
        (box(rotation=[0.0, 0, 0, 0]), "unit quaternion"),
        (box(rotation=[1e-200, 0, 0, 0]), r"rotation \[1e-200, 0, 0, 0\].*unit quaternion"),
        (box(size=[2.0, 0.0, 1.5]), "above zero"),
        (box(detection_score=float("nan")), "detection_score nan"),
        (box(detection_score=10**400), "detection_score 1000"),
        (box(detection_score=-0.1), "detection_score -0.1"),
        (box(detection_score=True), "detection_score True"),
        (box(detection_score="high"), "detection_score 'high'"),
        (box(detection_name="tank"), "unknown class 'tank'.*construction_vehicle"),
        (box(attribute_name="vehicle.flying"), "unknown attribute 'vehicle.flying'"),
        (box(sample_token="b"), "says sample_token 'b'"),
        (without("velocity"), "lacks velocity"),
        ([1, 2, 3], "is a list"),
        (None, "is a NoneType"),
    ],
)
def test_a_wrong_box_is_named_with_its_sample_and_its_fault(file: Callable[[Any], Path], wrong: Any, said: str):
    with pytest.raises(QdbevError, match=f"box 2 of sample a .*{said}") as caught:
        read_results(file({"meta": {}, "results": {"a": [box(), box(), wrong, box()]}}))
    assert caught.value.exit_code == ExitCode.BAD_INPUT


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ({"results": {"a": [box()]}}, "no object 'meta'"),
        ({"meta": {}}, "no object 'results'"),
        ({"meta": {}, "results": [box()]}, "no object 'results'"),
        ([], "no object 'meta'"),
        ({"meta": {}, "results": {"a": box()}}, "sample a holds a dict"),
        ({"meta": {}, "results": {"a": [], "b": []}}, "no boxes at all"),
        ({"meta": {}, "results": {"a": [box()] * 501}}, "501 boxes.*at most 500"),
        ('{"meta": {}, "results": {"a": [{"sample_token": "a", "transl', "truncated"),
        (json.dumps({"meta": {}, "results": {"a": [box()]}})[:-1], "truncated"),
        ("", "truncated"),
        ("not json", "is not JSON"),
        ('{"meta": {}, "results": {"a": [], "b": [], "a": []}}', "'a' stands twice"),
        ("[" * 100_000, "nested too deeply"),
        ('{"meta": {}, "results": {"a": [' + "9" * 5000 + "]}}", "holds a number that cannot be read.*4300"),
    ],
)
def test_a_wrong_file_is_named(file: Callable[[Any], Path], document: Any, said: str):
    with pytest.raises(QdbevError, match=said) as caught:
        read_results(file(document))
    assert "results.json" in caught.value.found
    assert caught.value.exit_code == ExitCode.BAD_INPUT


def test_quaternions_that_the_evaluator_normalises_are_allowed(file: Callable[[Any], Path]):
    results = {"a": [box(rotation=[0.7, 0, 0, 0.7]), box(rotation=[0.001, 0, 0, 0])]}
    assert read_results(file({"meta": {}, "results": results})) == results


def test_500_boxes_are_allowed(file: Callable[[Any], Path]):
    assert len(read_results(file({"meta": {}, "results": {"a": [box()] * 500}}))["a"]) == 500


def test_missing_and_unreadable_files(tmp_path: Path):
    with pytest.raises(QdbevError, match="there is no file"):
        read_results(tmp_path / "none.json")
    with pytest.raises(QdbevError, match="cannot be read"):
        read_results(tmp_path)
    binary = tmp_path / "binary.json"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(QdbevError, match="cannot be read"):
        read_results(binary)


class TestTokens:
    def test_exactly_those_of_the_split_are_right(self):
        check_tokens("r.json", {"a": [], "b": []}, ["b", "a"], "mini_val")

    def test_an_unknown_token_is_named(self):
        with pytest.raises(QdbevError, match="token c is unknown in this data root"):
            check_tokens("r.json", {"a": [], "b": [], "c": []}, ["a", "b"], "mini_val")

    def test_a_token_from_elsewhere_is_explained(self):
        with pytest.raises(QdbevError, match="token c is of another split"):
            check_tokens("r.json", {"a": [], "c": []}, ["a"], "mini_val", {"c": "of another split"})

    def test_missing_tokens_are_counted_and_the_first_is_named(self):
        with pytest.raises(QdbevError, match="2 of 3 tokens of mini_val are missing, the first is b"):
            check_tokens("r.json", {"a": []}, ["a", "b", "c"], "mini_val")
