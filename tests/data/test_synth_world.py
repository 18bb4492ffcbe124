"""Synthetic worlds: they move as promised, nothing runs into anything, and the same seed gives the same world."""

from __future__ import annotations

import numpy as np
import pytest

from qdbev_deploy.contract import CLASSES

cv2 = pytest.importorskip("cv2")

from qdbev_deploy.data.synth import motion  # noqa: E402
from qdbev_deploy.data.synth import scene as scene_module  # noqa: E402
from qdbev_deploy.data.synth.catalogue import CATEGORIES, KINDS  # noqa: E402
from qdbev_deploy.data.synth.scene import RANGE_M, find_attempt, scored_classes  # noqa: E402
from qdbev_deploy.data.synth.world import World, make_world  # noqa: E402
from qdbev_deploy.errors import QdbevError  # noqa: E402


def rectangle(x: float, y: float, yaw: float, width: float, length: float) -> tuple[object, ...]:
    return ((x, y), (length, width), float(np.degrees(yaw)))


def test_nothing_touches_anything() -> None:
    """OpenCV's intersection of turned rectangles, every quarter of a second: an independent judge of the placing."""
    for scene in (1, 2):
        world = make_world(scene, 5, seed=0)
        assert len(world.actors) > 30
        for time_s in np.arange(0.0, 2.01, 0.25):
            ego_x, ego_y, ego_yaw = world.ego.at(time_s)
            boxes = [rectangle(ego_x + 1.3 * np.cos(ego_yaw), ego_y + 1.3 * np.sin(ego_yaw), ego_yaw, 1.85, 4.6)]
            for actor in world.actors:
                boxes.append(rectangle(*actor.track.at(time_s), actor.size[0], actor.size[1]))
            for item in world.clutter:
                if item.model == "building":
                    boxes.append(rectangle(item.x, item.y, item.yaw, item.size[0], item.size[1]))
            centres = np.array([box[0] for box in boxes])
            for i in range(len(boxes)):
                near = np.nonzero(np.hypot(*(centres[i + 1 :] - centres[i]).T) < 30)[0] + i + 1
                for j in near:
                    kind, _ = cv2.rotatedRectangleIntersection(boxes[i], boxes[j])
                    assert kind == cv2.INTERSECT_NONE, f"scene {scene}, {time_s} s: {i} and {j}"


@pytest.mark.parametrize("number", range(len(motion.SCENARIOS)))
def test_ego_drives_its_scenario(number: int) -> None:
    scenario = motion.SCENARIOS[number]
    track = motion.ego_track(scenario, 9.5, np.random.default_rng(number))
    rate = np.degrees(np.gradient(track.yaw, motion.STEP_S))
    speed = np.hypot(*np.gradient(track.xy, motion.STEP_S, axis=0).T)
    assert np.abs(rate).max() <= 30.001
    assert speed.max() < 12
    if scenario == "turn left":
        assert rate.max() > 25
        assert track.yaw[-1] - track.yaw[0] > 1.0
    if scenario == "turn right":
        assert rate.min() < -25
    if scenario == "straight":
        assert np.abs(rate).max() < 1
        assert speed.min() > 6
    if scenario in ("stopping", "waiting"):
        assert speed.min() < 0.01
    if scenario == "starting":
        assert speed[0] < 0.01
        assert speed.max() > 6


def test_objects_move_in_every_way() -> None:
    speeds, rates, stopped = [], [], 0
    for scene in range(6):
        for actor in make_world(scene, 20, seed=0).actors:
            time_s = np.arange(0, 9.5, 0.25)
            speed = np.array([np.hypot(*actor.track.velocity(t)) for t in time_s])
            speeds.append(speed.max())
            rates.append(np.degrees(np.abs(np.diff([actor.track.at(t)[2] for t in time_s])).max() / 0.25))
            stopped += bool(speed.max() > 2 and speed.min() < 0.1)
    assert sum(speed < 0.01 for speed in speeds) > 100
    assert sum(speed > 4 for speed in speeds) > 30
    assert stopped > 5  # brakes to a stop, or starts from one
    assert sum(12 < rate < 31 for rate in rates) > 5


def test_same_seed_same_world() -> None:
    one, other, third = (make_world(3, 6, seed) for seed in (5, 5, 6))

    def state(world: World) -> list[float]:
        return [value for actor in world.actors for value in (*actor.track.at(1.0), *actor.size)]

    assert state(one) == state(other)
    assert state(one) != state(third)
    assert [item.x for item in one.clutter] == [item.x for item in other.clutter]


def test_all_classes_can_be_scored() -> None:
    attempt = find_attempt(2, 4, seed=1)
    assert scored_classes(make_world(2, 4, 1, attempt), 4) == set(CLASSES)


def test_one_key_frame_gives_no_velocity() -> None:
    """What is annotated once can be found and not be scored: cones and barriers, that stand still, can."""
    world = make_world(2, 4, 1, find_attempt(2, 4, seed=1))
    assert scored_classes(world, 1) <= {"traffic_cone", "barrier"}


def test_a_seed_without_such_a_world_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scene_module, "scored_classes", lambda world, key_frames: {"car"})
    monkeypatch.setattr(scene_module, "_ATTEMPTS", 2)
    with pytest.raises(QdbevError, match=r"scene 1 of seed 3 in 2 attempts.*pass another --seed"):
        find_attempt(1, 2, seed=3)


def test_ranges_are_the_evaluators() -> None:
    config = pytest.importorskip("nuscenes.eval.common.config")
    assert config.config_factory("detection_cvpr_2019").class_range == RANGE_M


def test_catalogue_speaks_nuscenes() -> None:
    utils = pytest.importorskip("nuscenes.eval.detection.utils")
    names = {utils.category_to_detection_name(kind.category) for kind in KINDS}
    assert names - {None} == set(CLASSES)
    assert len(CATEGORIES) == 23
    for kind in KINDS:
        name = utils.category_to_detection_name(kind.category)
        if name == kind.name:
            assert bool(kind.attributes) == bool(utils.detection_name_to_rel_attributes(name))


def test_attributes_follow_motion() -> None:
    found = set()
    for scene in range(4):
        world = make_world(scene, 20, seed=0)
        for actor in world.actors:
            for time_s in (0.0, 4.0, 8.0):
                attribute = actor.attribute(time_s)
                speed = np.hypot(*actor.track.velocity(time_s))
                found.add(attribute)
                if attribute.endswith(".moving"):
                    assert speed > 0.2
                if attribute in ("vehicle.parked", "cycle.without_rider"):
                    assert speed < 1e-6
    assert found == {"", "vehicle.moving", "vehicle.stopped", "vehicle.parked", "cycle.with_rider",
                     "cycle.without_rider", "pedestrian.moving", "pedestrian.standing"}  # fmt: skip
