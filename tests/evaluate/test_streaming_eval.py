"""Streaming scores on worlds small enough to reckon by hand."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from qdbev_deploy.evaluate.annotations import SceneAnnotations
from qdbev_deploy.evaluate.nuscenes_eval import official_scores
from qdbev_deploy.evaluate.schedule import Latency
from qdbev_deploy.evaluate.streaming_eval import StreamReport, evaluate_stream
from qdbev_deploy.evaluate.submission import write_submission

ERRORS = ("mATE", "mASE", "mAOE", "mAVE", "mAAE")


def stream(world: Any, latency_ms: float, results: Any = None, scene: Any = None) -> StreamReport:
    results = world.perfect_results() if results is None else results
    return evaluate_stream(world.nusc, [scene or world.scene], results, Latency.constant(latency_ms))


def flawed(world: Any, *, seed: int = 7) -> dict[str, list[dict[str, Any]]]:
    """Results with every kind of flaw: misses, clutter, wrong places, sizes, headings, speeds; and tied scores."""
    dice = random.Random(seed)
    results = {}
    for frame in world.scene.frames:
        records = []
        for thing in world.things:
            if dice.random() < 0.2:
                continue
            record = world.record(thing, frame)
            record["translation"] = [value + dice.gauss(0, 0.7) for value in record["translation"]]
            record["size"] = [value * dice.uniform(0.7, 1.3) for value in record["size"]]
            record["velocity"] = [value + dice.gauss(0, 0.5) for value in record["velocity"]]
            yaw = dice.uniform(0, 3)
            record["rotation"] = [math.cos(yaw / 2), 0.0, 0.0, math.sin(yaw / 2)]
            record["detection_score"] = dice.choice([0.3, 0.5, 0.9])
            records.append(record)
            if dice.random() < 0.3:
                records.append(record | {"translation": [record["translation"][0] + 9.0, 3.0, 1.0]})
        results[frame.token] = records
    return results


@pytest.fixture(scope="module")
def static(tiny_world: Callable[..., Any], thing: type) -> Any:
    things = [thing(x=10.0 + 4 * i, y=3.0 * i, yaw=0.3 * i) for i in range(4)]
    things += [thing("pedestrian", x=-5.0 - i, y=4.0, attribute="pedestrian.standing") for i in range(3)]
    return tiny_world([*things, thing("barrier", x=6.0, y=-6.0, attribute="")])


@pytest.fixture(scope="module")
def moving(tiny_world: Callable[..., Any], thing: type) -> Any:
    things = [thing(x=5.0 + 6 * i, y=2.0 * i, velocity=(2.0 * i, -i), attribute="vehicle.moving") for i in range(4)]
    things += [thing("pedestrian", x=-8.0, y=i, velocity=(0.0, 1.0), attribute="pedestrian.moving") for i in range(3)]
    # These come into the 40 m that count for bicycles as the two approach each other.
    things += [
        thing("bicycle", x=46.0, y=5.0 * i, velocity=(-6.0, 0.0), attribute="cycle.with_rider") for i in range(3)
    ]
    return tiny_world(things, ego_velocity=(8.0, 0.0))


def test_no_latency_equals_the_offline_score_exactly(moving: Any):
    report = stream(moving, 0.0, flawed(moving))
    assert 0.05 < report.offline.map < 0.9, "results too good or too bad to tell anything"
    assert report.streaming == report.offline
    assert report.streaming_at_key_frames == report.offline_at_key_frames
    assert (report.dropped, report.warm_up, report.unannotated, report.scored) == (0, 0, 0, 19)
    assert report.age_ms_mean == 0


@pytest.mark.parametrize("order", ["of time", "shuffled"])
def test_no_latency_at_key_frames_equals_the_official_evaluator_exactly(moving: Any, tmp_path: Path, order: str):
    results = flawed(moving)
    if order == "shuffled":
        tokens = list(results)
        random.Random(1).shuffle(tokens)
        results = {token: results[token] for token in tokens}
    keys = {frame.token for frame in moving.scene.frames if frame.is_key_frame}
    path = tmp_path / "results.json"
    write_submission(path, {token: records for token, records in results.items() if token in keys})
    official = official_scores(moving.nusc, path, "mini_val")
    assert json.dumps(stream(moving, 0.0, results).streaming_at_key_frames.to_dict()) == json.dumps(official.to_dict())
    of_key_frames = stream(moving, 0.0, results, moving.only_key_frames())
    assert json.dumps(of_key_frames.streaming.to_dict()) == json.dumps(official.to_dict())
    assert of_key_frames.rate_hz == pytest.approx(1e6 / 480_000)


def test_one_frame_late_on_a_static_scene_with_a_static_ego_costs_nothing(static: Any):
    same_every_frame = flawed(static)["key 0"]
    results = {
        frame.token: [record | {"sample_token": frame.token} for record in same_every_frame]
        for frame in static.scene.frames
    }
    report = stream(static, 80.0, results)
    assert 0.05 < report.offline.map < 0.9
    assert report.streaming == report.offline
    assert (report.dropped, report.warm_up, report.scored) == (0, 1, 18)
    assert report.age_ms_mean == report.age_ms_max == 80.0


def test_one_frame_late_behind_a_moving_car_costs_what_the_distance_says(tiny_world: Callable[..., Any], thing: type):
    """10 m/s for 80 ms is 0.8 m: no match at 0.5 m, all at 1, 2 and 4 m, so AP 0.75; ATE 0.8 m; all else is right."""
    world = tiny_world([thing(velocity=(10.0, 0.0), x=-10.0, attribute="vehicle.moving")])
    report = stream(world, 80.0)
    car = report.streaming.classes["car"]
    assert report.offline.classes["car"].ap == pytest.approx(1.0)
    assert car.ap_at == pytest.approx({0.5: 0.0, 1.0: 1.0, 2.0: 1.0, 4.0: 1.0})
    assert car.errors == pytest.approx({"ATE": 0.8, "ASE": 0.0, "AOE": 0.0, "AVE": 0.0, "AAE": 0.0}, abs=1e-6)
    assert report.streaming.map == pytest.approx(0.075)  # nine of ten classes do not occur


def test_the_moving_ego_makes_no_difference_to_what_stays_in_the_global_frame(
    tiny_world: Callable[..., Any], thing: type
):
    world = tiny_world([thing(x=12.0), thing(x=16.0)], ego_velocity=(10.0, 0.0))
    report = stream(world, 80.0)
    assert report.streaming.classes["car"].ap == pytest.approx(1.0)


def test_worked_example_with_drops(tiny_world: Callable[..., Any], thing: type):
    """200 ms at 12.5 Hz over seven frames (test_schedule has the schedule): moments 3 and 4 show frame 0, 5 and 6 show
    frame 2. At 5 m/s (0.4 m a period) the errors are 1.2, 1.6, 1.2 and 1.6 m."""
    world = tiny_world([thing(velocity=(5.0, 0.0), attribute="vehicle.moving")], keys=2)
    report = stream(world, 200.0)
    assert (report.frames, report.dropped, report.warm_up, report.scored) == (7, 3, 3, 4)
    assert report.age_ms_mean == pytest.approx((240 + 320 + 240 + 320) / 4)
    assert report.age_ms_max == 320
    car = report.streaming.classes["car"]
    assert car.ap_at == pytest.approx({0.5: 0.0, 1.0: 0.0, 2.0: 1.0, 4.0: 1.0})
    # With equal scores the evaluator reads the running mean of the error at its first entry, and among equal scores the
    # last box of the file comes first: moment 6.
    assert car.errors["ATE"] == pytest.approx(1.6)


def test_a_processor_with_nothing_to_show_after_a_second_is_scored_with_nothing(static: Any):
    report = stream(static, 60_000.0)
    assert report.warm_up == 13  # 0 to 960 ms
    assert report.scored == 6
    assert report.streaming.map == 0.0
    assert report.streaming.errors == dict.fromkeys(ERRORS, 1.0)
    assert report.streaming.nds == 0.0
    assert report.offline.classes["car"].ap == pytest.approx(1.0)


def test_staler_is_worse(moving: Any):
    maps = [stream(moving, latency).streaming.map for latency in (0.0, 80.0, 160.0, 320.0)]
    assert maps == sorted(maps, reverse=True)
    assert maps[0] > maps[-1] + 0.1


def test_frames_after_the_last_key_frame_have_no_ground_truth(static: Any):
    from qdbev_deploy.data.nuscenes import Scene

    first_key, *others = static.scene.frames
    cut = Scene("scene-0103", "scene", tuple(f for f in (first_key, *others) if f.token != "key 3"))
    report = stream(static, 0.0, scene=cut)
    assert (report.frames, report.unannotated, report.scored) == (18, 5, 13)


class TestInterpolation:
    def annotations(self, world: Any, index: int) -> Any:
        return SceneAnnotations(world.nusc, world.scene).at(world.scene.frames[index])

    def test_between_key_frames_all_is_a_mixture(self, tiny_world: Callable[..., Any], thing: type):
        # From 350 to 10 degrees: the short way leads over zero. yaw_rate is per second, a key interval 0.48 s.
        turn = math.radians(20)
        world = tiny_world([thing(x=10, velocity=(5.0, -2.0), yaw=-turn / 2, yaw_rate=turn / 0.48)], keys=2)
        (at_third,) = self.annotations(world, 2)
        assert at_third.translation == pytest.approx((10 + 0.16 * 5, -0.16 * 2, 1.0))
        yaw = 2 * math.atan2(at_third.rotation[3], at_third.rotation[0])
        assert math.degrees(yaw) == pytest.approx(-10 + 20 / 3, abs=1e-6)
        assert at_third.velocity == pytest.approx((5.0, -2.0))
        assert at_third.size == (2.0, 4.0, 1.5)

    def test_key_frames_keep_their_own(self, moving: Any):
        objects = self.annotations(moving, 6)
        records = [moving.nusc.get("sample_annotation", token) for token in moving.nusc.get("sample", "key 1")["anns"]]
        assert [list(a.translation) for a in objects] == [record["translation"] for record in records]

    def test_only_instances_known_at_both_ends_are_there_between(self, tiny_world: Callable[..., Any], thing: type):
        world = tiny_world([thing(x=5), thing(x=15, last_key=0), thing(x=25, first_key=1)], keys=2)
        assert [a.instance_token for a in self.annotations(world, 0)] == ["thing 0", "thing 1"]
        assert [a.instance_token for a in self.annotations(world, 3)] == ["thing 0"]
        assert [a.instance_token for a in self.annotations(world, 6)] == ["thing 0", "thing 2"]

    def test_velocity_that_is_unknown_at_one_end_is_unknown_between(self, tiny_world: Callable[..., Any], thing: type):
        world = tiny_world([thing(first_key=1, last_key=1)], keys=3)
        (alone,) = self.annotations(world, 6)
        assert all(math.isnan(value) for value in alone.velocity)

    def test_objects_without_points_at_one_end_do_not_count_between(self, static: Any):
        from dataclasses import replace

        from qdbev_deploy.evaluate.annotations import interpolate

        (seen, *_) = self.annotations(static, 0)
        assert interpolate(seen, replace(seen, num_points=0), 0.2).num_points == 0

    def test_attribute_is_that_of_the_nearer_end(self, static: Any):
        from dataclasses import replace

        from qdbev_deploy.evaluate.annotations import interpolate

        (parked, *_) = self.annotations(static, 0)
        moving = replace(parked, attribute_name="vehicle.moving")
        assert interpolate(parked, moving, 0.5).attribute_name == "vehicle.parked"
        assert interpolate(parked, moving, 0.51).attribute_name == "vehicle.moving"


def test_bicycles_in_a_rack_do_not_count_between_key_frames_either(tiny_world: Callable[..., Any], thing: type):
    rack = thing("bicycle_rack", x=10.0, attribute="")
    bicycle = thing("bicycle", x=10.0, attribute="cycle.without_rider")
    world = tiny_world([rack, bicycle, thing(x=20.0)])
    results = {frame.token: [world.record(thing(x=20.0), frame), world.record(bicycle, frame)]
               for frame in world.scene.frames}  # fmt: skip
    report = stream(world, 0.0, results)
    assert report.offline.classes["bicycle"].ap == 0.0, "no ground truth is left of that class"
    assert report.offline.classes["car"].ap == pytest.approx(1.0)
