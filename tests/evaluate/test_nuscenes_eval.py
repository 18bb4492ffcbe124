"""The official evaluator on worlds whose scores follow from its definition."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from qdbev_deploy.contract import CLASSES
from qdbev_deploy.errors import ExitCode, QdbevError
from qdbev_deploy.evaluate.nuscenes_eval import choose_split, in_order_of_tables, official_scores
from qdbev_deploy.evaluate.scores import Scores, class_table
from qdbev_deploy.evaluate.submission import attribute_of, boxes_to_records, records_to_boxes, write_submission


@pytest.fixture(scope="module")
def world(tiny_world: Callable[..., Any], thing: type) -> Any:
    """Two of each class, all at least 4.5 m from each other, within 30 m of the ego; at rest."""
    places = [(6.0 * column - 12, 6.0 * row - 9) for row in range(4) for column in range(5)]
    return tiny_world(
        [
            thing(CLASSES[i % 10], x, y, yaw=0.2 * i, attribute=attribute_of(CLASSES[i % 10], 0.0))
            for i, (x, y) in enumerate(places)
        ]
    )


@pytest.fixture
def score(world: Any, tmp_path: Path) -> Callable[..., Scores]:
    """Scores of the perfect results of the key frames after `change(record, frame)`."""

    def run(change: Callable[[dict[str, Any], Any], dict[str, Any]] = lambda record, frame: record) -> Scores:
        path = tmp_path / "results.json"
        perfect = world.perfect_results()
        write_submission(
            path,
            {f.token: [change(record, f) for record in perfect[f.token]] for f in world.only_key_frames().frames},
        )
        return official_scores(world.nusc, path, "mini_val")

    return run


def shifted(by: float) -> Callable[[dict[str, Any], Any], dict[str, Any]]:
    def change(record: dict[str, Any], frame: Any) -> dict[str, Any]:
        x, y, z = record["translation"]
        return record | {"translation": [x + by, y, z]}

    return change


def test_ground_truth_is_perfect(score: Callable[..., Scores]):
    scores = score()
    assert scores.map == pytest.approx(1.0)
    assert scores.nds == pytest.approx(1.0)
    assert scores.errors == pytest.approx(dict.fromkeys(("mATE", "mASE", "mAOE", "mAVE", "mAAE"), 0.0), abs=1e-6)
    assert set(scores.classes) == set(CLASSES)


def test_ground_truth_through_the_lidar_frame_is_still_perfect(score: Callable[..., Scores]):
    """Centre, velocity, heading and attribute conventions, there and back."""

    def through(record: dict[str, Any], frame: Any) -> dict[str, Any]:
        return boxes_to_records(records_to_boxes([record], frame), frame)[0]

    scores = score(through)
    assert scores.map == pytest.approx(1.0)
    assert scores.nds == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize(
    ("metres", "thresholds_met"),
    # A match must be nearer than the threshold: at exactly 1 m it is none at 1.0. (These coordinates are whole numbers,
    # so that the shift is exact.)
    [(0.49, 4), (0.99, 3), (1.0, 2), (1.01, 2), (1.5, 2)],
)
def test_boxes_shifted_by_a_distance_score_what_the_definition_says(
    score: Callable[..., Scores], metres: float, thresholds_met: int
):
    scores = score(shifted(metres))
    assert scores.map == pytest.approx(thresholds_met / 4)
    # Errors are those of matches within 2 m. NDS = (5 mAP + sum over the errors of max(0, 1 - error)) / 10.
    assert scores.errors["mATE"] == pytest.approx(metres)
    assert scores.nds == pytest.approx((5 * thresholds_met / 4 + max(0.0, 1 - metres) + 4) / 10)
    assert scores.classes["bus"].ap_at == {at: pytest.approx(float(at > metres)) for at in (0.5, 1.0, 2.0, 4.0)}


def test_boxes_farther_than_every_threshold_score_nothing(score: Callable[..., Scores]):
    scores = score(shifted(1000.0))
    assert (scores.map, scores.nds) == (0.0, 0.0)


def test_each_error_is_seen_where_it_is_made(score: Callable[..., Scores]):
    turned = score(lambda record, frame: record | {"rotation": [math.cos(0.1), 0, 0, math.sin(0.1)]})
    assert turned.errors["mAOE"] > 0.1
    assert turned.map == pytest.approx(1.0)
    faster = score(lambda record, frame: record | {"velocity": [0.3, 0.4]})
    assert faster.errors["mAVE"] == pytest.approx(0.5)
    larger = score(lambda record, frame: record | {"size": [2.0, 4.0, 3.0]})
    assert larger.errors["mASE"] == pytest.approx(0.5)
    parked = score(lambda record, frame: record | {"attribute_name": record["attribute_name"] and "vehicle.moving"})
    assert parked.errors["mAAE"] == pytest.approx(1.0)


def test_what_does_not_exist_is_nan_in_python_null_in_json_and_a_dash_in_the_table(score: Callable[..., Scores]):
    scores = score()
    assert math.isnan(scores.classes["traffic_cone"].errors["AVE"])
    document = json.loads(json.dumps(scores.to_dict(), allow_nan=False))
    assert document["classes"]["traffic_cone"]["errors"]["AVE"] is None
    assert document["nds"] == scores.nds

    from rich.console import Console

    console = Console(width=100, record=True, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123
    console.print(class_table(scores, "title"))
    text = console.export_text()
    (cone,) = [line for line in text.splitlines() if "traffic_cone" in line]
    assert cone.split().count("-") == 3
    assert "NDS 1.0000" in text


def test_the_evaluator_says_nothing(score: Callable[..., Scores], capfd: pytest.CaptureFixture[str]):
    score()
    assert capfd.readouterr() == ("", "")


class TestTokens:
    def write(self, world: Any, tmp_path: Path, **changes: Any) -> Path:
        keys = {frame.token for frame in world.only_key_frames().frames}
        results = {token: records for token, records in world.perfect_results().items() if token in keys}
        path = tmp_path / "results.json"
        write_submission(path, {**results, **changes})
        return path

    def test_an_unknown_token_is_named(self, world: Any, tmp_path: Path):
        with pytest.raises(QdbevError, match="the token nowhere is unknown"):
            official_scores(world.nusc, self.write(world, tmp_path, nowhere=[]), "mini_val")

    def test_a_sweep_is_explained(self, world: Any, tmp_path: Path):
        path = self.write(world, tmp_path)
        document = json.loads(path.read_text())
        document["results"]["lidar 1"] = []
        path.write_text(json.dumps(document))
        with pytest.raises(QdbevError, match=r"lidar 1 is a frame between key frames.*--streaming"):
            official_scores(world.nusc, path, "mini_val")

    def test_a_split_without_scenes_is_refused(self, world: Any, tmp_path: Path):
        with pytest.raises(QdbevError, match="no scene of the split 'mini_train'"):
            official_scores(world.nusc, self.write(world, tmp_path), "mini_train")


def test_splits(tmp_path: Path):
    assert choose_split("v1.0-mini", tmp_path) == "mini_val"
    assert choose_split("v1.0-trainval", tmp_path) == "val"
    assert choose_split("v1.0-mini", tmp_path, "mini_train") == "mini_train"
    with pytest.raises(QdbevError, match=r"'val' with nuScenes version 'v1\.0-mini'.*mini_train, mini_val") as caught:
        choose_split("v1.0-mini", tmp_path, "val")
    assert caught.value.exit_code == ExitCode.BAD_INPUT
    with pytest.raises(QdbevError, match=r"v1\.0-test"):
        choose_split("v1.0-test", tmp_path)


class TestCustomSplits:
    def test_they_are_chosen_by_name(self, tmp_path: Path):
        (tmp_path / "splits.json").write_text('{"mine": ["scene-0103"]}')
        assert choose_split("v1.0-mini", tmp_path, "mine") == "mine"
        assert choose_split("v1.0-mini", tmp_path) == "mini_val"
        assert choose_split("v1.0-fleet", tmp_path, "mine") == "mine"
        with pytest.raises(QdbevError, match=r"no --split, and the nuScenes version 'v1\.0-fleet'.*one of mine"):
            choose_split("v1.0-fleet", tmp_path)

    def test_an_official_name_for_other_scenes_is_refused(self, tmp_path: Path):
        (tmp_path / "splits.json").write_text('{"mini_val": ["scene-0103"]}')
        for split in (None, "mini_val"):
            with pytest.raises(QdbevError, match="gives the official split 'mini_val' other scenes"):
                choose_split("v1.0-mini", tmp_path, split)

    def test_equal_scores_are_matched_in_the_order_of_the_sample_table(self, world: Any):
        frames = world.only_key_frames().frames
        shuffled = {frame.token: [] for frame in reversed(frames)}
        ordered = in_order_of_tables(world.nusc, [world.only_key_frames()], shuffled)
        assert list(ordered) == [frame.token for frame in frames]
