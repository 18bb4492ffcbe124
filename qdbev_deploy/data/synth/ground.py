"""The ground as a picture from above: terrain, pavements, asphalt, markings. Also the map mask of the devkit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from qdbev_deploy.data.synth.catalogue import Colour
from qdbev_deploy.data.synth.world import LANE_M, STRIP_M, WALK_M, World

Array = npt.NDArray[np.float64]
Image = npt.NDArray[np.uint8]

_REACH_M = 85.0  # painted around the ego car's path; beyond lies plain terrain
_MOST_PIXELS = 4096
LEVELS = 4
MASK_M_PER_PIXEL = 0.1  # fixed by the devkit

_TERRAINS: tuple[Colour, ...] = ((104, 116, 76), (140, 132, 112), (92, 108, 70), (126, 124, 120))
_ASPHALT: Colour = (92, 93, 96)
_WALK: Colour = (150, 147, 142)
_KERB: Colour = (176, 174, 168)
_MARK: Colour = (222, 222, 216)
_YELLOW: Colour = (206, 170, 60)


@dataclass(frozen=True)
class Ground:
    """Lit ground textures, each level half as fine as the one before."""

    origin: Array  # [2] global position of the first pixel's corner
    metres: float  # a pixel's size on level 0
    levels: tuple[Image, ...]  # RGB, row along y, column along x
    terrain: Colour  # lit, for all that lies outside


class _Plan:
    """Draws in metres on a raster."""

    def __init__(self, image: Image, origin: Array, metres: float) -> None:
        self.image, self._origin, self._metres = image, origin, metres

    def _pixels(self, points: Array) -> npt.NDArray[np.int32]:
        # Three fractional bits: markings are a pixel or two wide.
        return (((points - self._origin) / self._metres - 0.5) * 8).round().astype(np.int32)

    def line(self, points: Array, width_m: float, colour: Sequence[float]) -> None:
        thickness = max(1, round(width_m / self._metres))
        cv2.polylines(self.image, [self._pixels(points)], False, colour, thickness, cv2.LINE_AA, 3)

    def polygon(self, points: Array, colour: Colour) -> None:
        cv2.fillPoly(self.image, [self._pixels(points)], colour, cv2.LINE_AA, 3)


def _crossing_line(point: Array, heading: float, left: float = 0.0, reach: float = 150.0) -> Array:
    direction = np.array([np.cos(heading), np.sin(heading)])
    normal = np.array([-direction[1], direction[0]])
    line: Array = point + normal * left + np.array([-reach, reach])[:, None] * direction
    return line


def _road_surface(plan: _Plan, world: World, colour: Sequence[float], extra_m: float) -> None:
    """The carriageway with `extra_m` at either side, crossing streets included."""
    s = np.arange(*world.road.s_range, 1.0)
    middle, _ = world.road.point(s, (world.left_edge + world.right_edge) / 2)
    plan.line(middle, world.left_edge - world.right_edge + 2 * extra_m, colour)
    for point, heading in world.crossings:
        plan.line(_crossing_line(point, heading), 2 * (LANE_M + 0.6 + extra_m), colour)


def _markings(plan: _Plan, world: World) -> None:
    low, high = world.road.s_range
    road = world.road
    s = np.arange(low, high, 1.0)
    left_lanes, right_lanes = world.lanes
    # One broad line: the raster is too coarse to keep two narrow ones apart.
    plan.line(road.point(s, 0.5 * LANE_M)[0], 0.3, _YELLOW)
    dashed = [0.5 * LANE_M + LANE_M * lane for lane in range(1, left_lanes)]
    dashed += [-0.5 * LANE_M] if right_lanes else []
    for left in dashed:
        for start in np.arange(low, high, 9.0):
            plan.line(road.point(np.array([start, start + 3.0]), left)[0], 0.2, _MARK)
    for left in (world.left_edge - STRIP_M, world.right_edge + STRIP_M):
        plan.line(road.point(s, left)[0], 0.2, _MARK)
    for point, heading in world.crossings:
        # The crossing street's own surface covers the road's lines where they meet, as real junctions do.
        plan.line(_crossing_line(point, heading, reach=11.0), 2 * LANE_M, _ASPHALT)
        for start in np.arange(11.0, 140.0, 6.0):
            for sign in (-1, 1):
                direction = np.array([np.cos(heading), np.sin(heading)]) * sign
                plan.line(point + np.array([start, start + 2.5])[:, None] * direction, 0.2, _MARK)
    _zebras(plan, world)


def _zebras(plan: _Plan, world: World) -> None:
    """A pedestrian crossing before each junction, and some between."""
    low, high = world.road.s_range
    rng = np.random.default_rng([world.texture_seed, 1])
    for s in [*rng.uniform(low, high, 3), 18.0]:
        for left in np.arange(world.right_edge + 0.3, world.left_edge - 0.3, 1.0):
            stripe, _ = world.road.point(
                np.array([s, s + 3.0, s + 3.0, s]), np.array([left, left, left + 0.5, left + 0.5])
            )
            plan.polygon(stripe, _MARK)


def extent(world: World) -> tuple[Array, Array]:
    """Lower and upper corner of the painted area, metres, global."""
    return world.ego.xy.min(axis=0) - _REACH_M, world.ego.xy.max(axis=0) + _REACH_M


def paint_ground(world: World) -> Ground:
    """The scene's ground, lit by its weather."""
    low, high = extent(world)
    metres = max(0.1, float((high - low).max()) / _MOST_PIXELS)
    width, height = (int(size) for size in np.ceil((high - low) / metres))
    rng = np.random.default_rng([world.texture_seed, 0])
    terrain = _TERRAINS[int(rng.integers(len(_TERRAINS)))]
    image = np.full((height, width, 3), terrain, dtype=np.uint8)
    plan = _Plan(image, low, metres)
    _patches(plan, low, high, terrain, rng)
    _road_surface(plan, world, _WALK, WALK_M)
    _road_surface(plan, world, _KERB, 0.25)
    _road_surface(plan, world, _ASPHALT, 0.0)
    _wear(plan, world, rng)
    _markings(plan, world)
    light = min(1.15, world.weather.ambient + 0.75 * world.weather.sun)
    image = cv2.convertScaleAbs(image, alpha=light).astype(np.uint8, copy=False)
    levels = [image]
    for _ in range(LEVELS - 1):
        levels.append(
            cv2.resize(levels[-1], None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)
        )
    r, g, b = (min(255, int(part * light)) for part in terrain)
    return Ground(low, metres, tuple(levels), (r, g, b))


def _patches(plan: _Plan, low: Array, high: Array, colour: Colour, rng: np.random.Generator) -> None:
    """Patches of another tint on the terrain, so that it has something to see motion by."""
    for _ in range(160):
        centre, radius = rng.uniform(low, high), rng.uniform(2.0, 9.0)
        angle = np.linspace(0, 2 * np.pi, 9)[:-1]
        points = centre + (radius * rng.uniform(0.6, 1.0, 8))[:, None] * np.stack(
            [np.cos(angle), np.sin(angle)], axis=1
        )
        factor = rng.uniform(0.86, 1.12)
        r, g, b = (int(min(255, part * factor)) for part in colour)
        plan.polygon(points, (r, g, b))


def _wear(plan: _Plan, world: World, rng: np.random.Generator) -> None:
    """Repairs and joints in the asphalt."""
    low, high = world.road.s_range
    for _ in range(70):
        s, length = rng.uniform(low, high), rng.uniform(2.0, 8.0)
        left, width = rng.uniform(world.right_edge, world.left_edge - 1.5), rng.uniform(0.8, 2.0)
        corners = np.array([s, s + length, s + length, s]), np.array([left, left, left + width, left + width])
        factor = rng.uniform(0.8, 1.1)
        plan.polygon(world.road.point(*corners)[0], (int(92 * factor), int(93 * factor), int(96 * factor)))


def map_mask(world: World) -> Image:
    """Where one can drive, as the devkit's masks show it: 255 on the road, y upwards, 0.1 m a pixel."""
    _, high = extent(world)
    width, height = (int(size) for size in np.ceil(high / MASK_M_PER_PIXEL))
    image = np.zeros((height, width), dtype=np.uint8)
    plan = _Plan(image, np.zeros(2), MASK_M_PER_PIXEL)
    _road_surface(plan, world, (255,), 0.0)
    image[image < 255] = 0  # smoothed edges are not on the road
    return np.ascontiguousarray(image[::-1])
