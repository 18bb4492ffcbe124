"""A 32-beam LiDAR: rays against boxes and the ground, so that point counts follow distance, size and occlusion."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from qdbev_deploy.data.geometry import inverse
from qdbev_deploy.data.synth.things import Thing

Array = npt.NDArray[np.float64]

BEAMS = 32
_ELEVATIONS = np.radians(np.linspace(-30.67, 10.67, BEAMS))
_COLUMNS = 600
RANGE_M = 70.0
# The surface that the laser meets lies inside the annotated box, as it does on real, rounded objects.
_SURFACE = 0.94
# Files keep every return from an object and one in so many from ground and walls: they would be most of the size.
_BACKGROUND_STEP = 17


@dataclass(frozen=True)
class Sweep:
    """Returns of one turn, and how many of them each actor gave."""

    points: npt.NDArray[np.float32]  # [n, 5] x, y, z, intensity, ring; LiDAR frame
    counts: dict[int, int]


def scan(things: list[Thing], lidar2global: Array, every: int = 1) -> Sweep:
    """One turn of the LiDAR; `every` keeps only one column in so many, for sweeps that need not be dense."""
    azimuth = np.arange(0, _COLUMNS, every) * (2 * np.pi / _COLUMNS)
    flat = np.cos(_ELEVATIONS)[:, None]
    rays = np.stack(
        [
            flat * np.cos(azimuth),
            flat * np.sin(azimuth),
            np.broadcast_to(np.sin(_ELEVATIONS)[:, None], (BEAMS, len(azimuth))),
        ],
        axis=-1,
    )
    directions = rays @ lidar2global[:3, :3].T  # [beams, columns, 3], global
    origin = lidar2global[:3, 3]
    with np.errstate(divide="ignore"):
        distance = np.where(directions[..., 2] < -1e-9, -origin[2] / directions[..., 2], np.inf)
    owner = np.full(distance.shape, -1, dtype=np.int32)
    heading = np.arctan2(directions[0, :, 1], directions[0, :, 0])
    for thing in things:
        _intersect(thing, origin, directions, heading, distance, owner)
    hit = distance <= RANGE_M
    ring, column = np.nonzero(hit)
    whose, far = owner[hit], distance[hit]
    counts = {
        int(actor): int(count) for actor, count in zip(*np.unique(whose[whose >= 0], return_counts=True), strict=True)
    }
    keep = (whose >= 0) | (np.arange(len(whose)) % _BACKGROUND_STEP == 0)
    xyz = rays[ring, column] * far[:, None]
    intensity = np.where(whose >= 0, 40.0, 8.0) * np.exp(-far / 60.0)
    points = np.column_stack([xyz, intensity, ring])[keep].astype(np.float32)
    return Sweep(points, counts)


def _intersect(
    thing: Thing, origin: Array, directions: Array, heading: Array, distance: Array, owner: npt.NDArray[np.int32]
) -> None:
    """Shorten the rays that meet the object's box."""
    if not thing.solid:
        return
    width, length, height = thing.size
    offset = thing.object2global[:2, 3] - origin[:2]
    away, reach = float(np.hypot(*offset)), float(np.hypot(width, length)) / 2
    if away - reach > RANGE_M:
        return
    spread = np.pi if away <= reach else float(np.arcsin(reach / away))
    turn = (heading - np.arctan2(offset[1], offset[0]) + np.pi) % (2 * np.pi) - np.pi
    columns = np.nonzero(np.abs(turn) <= spread)[0]
    if not len(columns):
        return
    global2object = inverse(thing.object2global)
    start = global2object[:3, :3] @ origin + global2object[:3, 3]
    ray = directions[:, columns] @ global2object[:3, :3].T
    high = np.array([length / 2, width / 2, height]) * (_SURFACE, _SURFACE, 0.98)
    low = np.array([-high[0], -high[1], 0.02 * height])
    with np.errstate(divide="ignore", invalid="ignore"):
        first, second = (low - start) / ray, (high - start) / ray
    enter = np.minimum(first, second).max(axis=-1)
    leave = np.maximum(first, second).min(axis=-1)
    nearer = (enter <= leave) & (enter > 0) & (enter < distance[:, columns])
    rows, local = np.nonzero(nearer)
    distance[rows, columns[local]] = enter[nearer]
    owner[rows, columns[local]] = thing.actor
