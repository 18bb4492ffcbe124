"""Synthetic pictures and LiDAR sweeps: objects are where their boxes are, and hide one another."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

cv2 = pytest.importorskip("cv2")

from qdbev_deploy.data.synth.camera import take_picture  # noqa: E402
from qdbev_deploy.data.synth.catalogue import KINDS, WEATHERS  # noqa: E402
from qdbev_deploy.data.synth.ground import map_mask, paint_ground  # noqa: E402
from qdbev_deploy.data.synth.lidar import scan  # noqa: E402
from qdbev_deploy.data.synth.motion import standing  # noqa: E402
from qdbev_deploy.data.synth.things import ego_pose, things_at  # noqa: E402
from qdbev_deploy.data.synth.world import Actor, World, make_world  # noqa: E402

KIND = {kind.name: kind for kind in KINDS}


def actor_at(world: World, name: str, forward: float, left: float, yaw: float = 0.0) -> Actor:
    """An object that stands so far in front of the car, at time 0."""
    pose = ego_pose(world, 0.0)
    xy = (pose @ [forward, left, 0.0, 1.0])[:2]
    heading = np.arctan2(pose[1, 0], pose[0, 0]) + yaw
    kind = KIND[name]
    return Actor(kind, kind.size, kind.colours[0], standing(world.ego.time_s, xy, heading), False)


def empty_world(weather: str = "overcast") -> World:
    world = make_world(5, 2, seed=0)  # the car waits
    return replace(world, actors=[], clutter=[], weather=WEATHERS[weather])


def box_corners(world: World, actor: Actor) -> np.ndarray:
    x, y, yaw = actor.track.at(0.0)
    width, length, height = actor.size
    corners = np.array(
        [(a, b, c) for a in (-length / 2, length / 2) for b in (-width / 2, width / 2) for c in (0, height)]
    )
    turn = np.array([[np.cos(yaw), -np.sin(yaw), 0], [np.sin(yaw), np.cos(yaw), 0], [0, 0, 1]])
    return corners @ turn.T + (x, y, 0)


def outline(world: World, camera_index: int, actor: Actor) -> np.ndarray:
    """The convex outline of the box in the image, from the camera's matrices alone."""
    camera = world.rig.cameras[camera_index]
    global2cam = np.linalg.inv(ego_pose(world, 0.0) @ camera.cam2ego)
    points = np.column_stack([box_corners(world, actor), np.ones(8)]) @ global2cam.T
    pixels = points[:, :3] @ camera.intrinsic.T
    return cv2.convexHull((pixels[:, :2] / pixels[:, 2:]).astype(np.float32))


@pytest.mark.parametrize("name", sorted(KIND))
@pytest.mark.parametrize(("forward", "left", "yaw"), [(14.0, 1.5, 0.7), (35.0, -4.0, -2.0)])
def test_an_object_fills_its_box_and_nothing_else(name: str, forward: float, left: float, yaw: float) -> None:
    world = empty_world()
    ground = paint_ground(world)
    actor = actor_at(world, name, forward, left, yaw)
    camera = world.rig.cameras[0]
    without = take_picture(world, ground, camera, 0.0, False).image
    with_it = take_picture(replace(world, actors=[actor]), ground, camera, 0.0, False).image
    changed = np.abs(with_it.astype(int) - without).max(axis=2) > 12
    inside = np.zeros(changed.shape, dtype=np.uint8)
    cv2.fillConvexPoly(inside, outline(world, 0, actor).round().astype(np.int32), 1)
    # The lens' blur and the shadow on the ground reach a little further.
    margin = cv2.dilate(inside, np.ones((5, 5), np.uint8))
    shadow = int(max(4, 0.35 / forward * camera.intrinsic[0, 0]))
    margin |= cv2.dilate(inside, np.ones((shadow, 2 * shadow), np.uint8))
    assert not (changed & (margin == 0)).any()
    thin = name in ("bicycle", "motorcycle", "pedestrian", "worker", "construction_vehicle", "traffic_cone")
    share = (changed & (inside == 1)).sum() / inside.sum()
    assert share > (0.2 if thin else 0.6), f"{share:.2f} of the box's outline is filled"
    # It stands on the ground: the lowest changed row is where the box's lowest corner is.
    rows = np.nonzero(changed.any(axis=1))[0]
    lowest = outline(world, 0, actor)[:, 0, 1].max()
    assert abs(rows.max() - lowest) <= max(4, 0.2 / forward * camera.intrinsic[0, 0])


def test_every_camera_shows_what_stands_before_it() -> None:
    world = empty_world()
    ground = paint_ground(world)
    for index, degrees in enumerate((0, -55, 55, 180, 108, -110)):
        angle = np.radians(degrees)
        actor = actor_at(world, "car", 15 * np.cos(angle), 15 * np.sin(angle))
        full = replace(world, actors=[actor])
        visible = [
            take_picture(full, ground, camera, 0.0, True).visible.get(0, (0, 0))[0] for camera in world.rig.cameras
        ]
        assert int(np.argmax(visible)) == index


def test_the_nearer_hides_the_farther() -> None:
    world = empty_world()
    bus, car = actor_at(world, "bus", 14.0, 0.0, np.pi / 2), actor_at(world, "car", 30.0, 0.0)
    clear = actor_at(world, "car", 30.0, 17.0)
    picture = take_picture(
        replace(world, actors=[car, clear, bus]), paint_ground(world), world.rig.cameras[0], 0.0, True
    )
    share = {number: seen / whole for number, (seen, whole) in picture.visible.items()}
    assert share[0] < 0.05
    assert share[1] > 0.95
    assert share[2] > 0.95


def test_an_object_right_beside_the_camera_does_not_cover_the_image() -> None:
    """Faces that reach behind the camera must be cut, or they come back mirrored."""
    world = empty_world()
    beside = actor_at(world, "trailer", 1.0, -2.6)
    full = replace(world, actors=[beside])
    for index, expected in ((0, (0.2, 0.35)), (1, (0.5, 1.0)), (2, (0.0, 0.0))):
        ground = paint_ground(world)
        without = take_picture(world, ground, world.rig.cameras[index], 0.0, False).image
        with_it = take_picture(full, ground, world.rig.cameras[index], 0.0, False).image
        changed = np.abs(with_it.astype(int) - without).max(axis=2) > 12
        if index == 0:  # its front end is 5 m ahead of the camera and 1.2 m to the right: 14 degrees
            assert not changed[:, :1050].any()
        share = float(changed.mean())
        assert expected[0] <= share <= expected[1], f"camera {index}: {share:.2f}"


def test_weather_changes_light_and_contrast() -> None:
    pictures = {}
    for name in WEATHERS:
        world = replace(make_world(5, 2, seed=0), weather=WEATHERS[name])
        pictures[name] = take_picture(world, paint_ground(world), world.rig.cameras[3], 0.0, False).image
    light = {name: picture.mean() for name, picture in pictures.items()}
    contrast = {name: picture[480:].std() for name, picture in pictures.items()}
    assert light["night"] < 0.35 * light["day"]
    assert light["rain"] < light["day"]
    assert contrast["rain"] < contrast["overcast"] < contrast["day"]


def test_headlights_at_night_light_the_road_ahead() -> None:
    world = empty_world("night")
    front = take_picture(world, paint_ground(world), world.rig.cameras[0], 0.0, False).image
    back = take_picture(world, paint_ground(world), world.rig.cameras[3], 0.0, False).image
    assert front[650:, 600:1000].mean() > 1.8 * back[650:, 600:1000].mean()


def test_lidar_hits_surfaces_and_counts_fall_with_distance() -> None:
    world = empty_world()
    lidar2global = ego_pose(world, 0.0) @ world.rig.lidar2ego
    counts = []
    for distance in (8.0, 16.0, 32.0, 60.0):
        actor = actor_at(world, "car", distance, 3.0)
        sweep = scan(things_at(replace(world, actors=[actor]), 0.0), lidar2global)
        counts.append(sweep.counts[0])
        points = sweep.points[sweep.points[:, 3] > 8.0][:, :3] @ lidar2global[:3, :3].T + lidar2global[:3, 3]
        low, high = box_corners(world, actor).min(axis=0), box_corners(world, actor).max(axis=0)
        of_car = points[(points > low - 0.01).all(axis=1) & (points < high + 0.01).all(axis=1)]
        assert len(of_car) >= sweep.counts[0]
    assert counts == sorted(counts, reverse=True)
    assert counts[0] > 10 * counts[3] > 0
    hidden = replace(world, actors=[actor_at(world, "car", 40.0, 0.0), actor_at(world, "bus", 12.0, 0.0, np.pi / 2)])
    assert 0 not in scan(things_at(hidden, 0.0), lidar2global).counts


def test_map_mask_covers_the_drive() -> None:
    world = make_world(1, 10, seed=0)
    mask = map_mask(world)
    assert set(np.unique(mask)) == {0, 255}
    for time_s in np.arange(0, 4.6, 0.5):
        x, y, _ = world.ego.at(time_s)
        # The devkit's rule: rows count from the top, a tenth of a metre each.
        assert mask[int(mask.shape[0] - y / 0.1), int(x / 0.1)] == 255
