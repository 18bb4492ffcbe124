"""Worlds that a split of one short scene can be scored on: all ten classes are in range and touched by the LiDAR."""

from __future__ import annotations

import numpy as np

from qdbev_deploy.contract import CLASSES
from qdbev_deploy.data.synth.lidar import scan
from qdbev_deploy.data.synth.things import ego_pose, things_at
from qdbev_deploy.data.synth.world import World, make_world

# The evaluator's ranges; a class that no frame holds within them scores zero whatever is detected.
_RANGE_M = {"pedestrian": 40.0, "motorcycle": 40.0, "bicycle": 40.0, "traffic_cone": 30.0, "barrier": 30.0}
_ATTEMPTS = 200


def classes_in_range(world: World, time_s: float) -> set[str]:
    """Detection classes of which the evaluator would count an object at that time."""
    ego2global = ego_pose(world, time_s)
    counts = scan(things_at(world, time_s), ego2global @ world.rig.lidar2ego).counts
    found = set()
    for number in counts:
        actor = world.actors[number]
        x, y, _ = actor.track.at(time_s)
        # A little inside, so that rounding in the tables does not decide.
        if np.hypot(*(ego2global[:2, 3] - (x, y))) < _RANGE_M.get(actor.kind.name, 50.0) - 0.5:
            found.add(actor.kind.name)
    return found & set(CLASSES)


def find_attempt(scene: int, key_frames: int, seed: int) -> int:
    """The first attempt of `make_world` that gives such a world."""
    for attempt in range(_ATTEMPTS):
        world = make_world(scene, key_frames, seed, attempt)
        found = classes_in_range(world, 0.0)
        if len(found) == len(CLASSES) or len(found | classes_in_range(world, 0.5)) == len(CLASSES):
            return attempt
    raise AssertionError(f"no complete world for scene {scene} of seed {seed} in {_ATTEMPTS} attempts")
