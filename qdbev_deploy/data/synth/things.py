"""Everything that stands in a world at a moment, with its pose."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from qdbev_deploy.data.geometry import transform, yaw_quaternion
from qdbev_deploy.data.synth.models import Model, build_model
from qdbev_deploy.data.synth.world import World

Array = npt.NDArray[np.float64]

# How far away things are still drawn.
_FAR_M = {"building": 150.0, "tree": 90.0, "pole": 70.0, "sign": 60.0}
ACTOR_FAR_M = 95.0


@dataclass(frozen=True)
class Thing:
    """An object at one moment."""

    model: Model
    size: tuple[float, float, float]
    object2global: Array
    far_m: float
    actor: int  # index into world.actors, -1 for clutter
    solid: bool  # hides what is behind it


def ego_pose(world: World, time_s: float) -> Array:
    x, y, yaw = world.ego.at(time_s)
    return transform((x, y, 0.0), yaw_quaternion(yaw))


def _upright(x: float, y: float, yaw: float) -> Array:
    """The pose of what stands on the ground."""
    cos, sin = math.cos(yaw), math.sin(yaw)
    return np.array(((cos, -sin, 0.0, x), (sin, cos, 0.0, y), (0.0, 0.0, 1.0, 0.0), (0.0, 0.0, 0.0, 1.0)))


def things_at(world: World, time_s: float) -> list[Thing]:
    """Everything that stands on the ground at that time."""
    things = []
    for index, actor in enumerate(world.actors):
        x, y, yaw = actor.track.at(time_s)
        model = build_model(actor.kind.name, actor.size, actor.colour, actor.moves)
        things.append(Thing(model, actor.size, _upright(x, y, yaw), ACTOR_FAR_M, index, True))
    for item in world.clutter:
        model = build_model(item.model, item.size, item.colour, False)
        pose = _upright(item.x, item.y, item.yaw)
        things.append(Thing(model, item.size, pose, _FAR_M[item.model], -1, item.model == "building"))
    return things


def thing_corners(thing: Thing) -> Array:
    """The eight corners [8, 3], global, of the box that holds the model: a tree's crown is wider than its size."""
    width, length, height = thing.size
    x, y, z = length / 2, width / 2, height
    if thing.model.balls:
        x = y = max(ball.radius for ball in thing.model.balls) * 1.6
    corners = np.array([(a, b, c) for a in (-x, x) for b in (-y, y) for c in (0.0, z)])
    placed: Array = corners @ thing.object2global[:3, :3].T + thing.object2global[:3, 3]
    return placed
