"""One scene's world: the road, what moves on it, what stands beside it. Nothing in it touches anything else."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from qdbev_deploy.data.synth import motion
from qdbev_deploy.data.synth.catalogue import KINDS, WEATHERS, Colour, Kind, Weather
from qdbev_deploy.data.synth.motion import Road, Track
from qdbev_deploy.data.synth.rig import Rig, make_rig

Array = npt.NDArray[np.float64]

LANE_M = 3.6
STRIP_M = 2.5  # where cars park
WALK_M = 3.4
EGO_SIZE = (1.85, 4.6)  # width, length; the ego frame's origin is the rear axle
_EGO_AHEAD_M = 1.3  # of the rear axle: middle of the car
_WEATHER_OF_SCENE = ("overcast", "day", "rain", "night", "day", "overcast", "night", "day", "rain", "day")


@dataclass(frozen=True)
class Actor:
    """An annotated object."""

    kind: Kind
    size: tuple[float, float, float]  # width, length, height
    colour: Colour
    track: Track
    moves: bool

    def attribute(self, time_s: float) -> str:
        speed = float(np.hypot(*self.track.velocity(time_s))) if self.moves else 0.0
        if self.kind.attributes == "vehicle":
            return "vehicle.parked" if not self.moves else "vehicle.moving" if speed > 0.3 else "vehicle.stopped"
        if self.kind.attributes == "cycle":
            return "cycle.with_rider" if self.moves else "cycle.without_rider"
        if self.kind.attributes == "pedestrian":
            return "pedestrian.moving" if speed > 0.2 else "pedestrian.standing"
        return ""


@dataclass(frozen=True)
class Clutter:
    """Something that stands there and is not annotated: a building, a tree, a pole."""

    model: str
    size: tuple[float, float, float]
    colour: Colour
    x: float
    y: float
    yaw: float


@dataclass
class World:
    """Everything a scene's pictures, LiDAR sweeps and tables are made from."""

    weather: Weather
    scenario: str
    rig: Rig
    ego: Track
    road: Road
    left_edge: float  # of the asphalt, metres to the left of the ego lane's middle; the right edge is negative
    right_edge: float
    lanes: tuple[int, int]  # oncoming lanes at the left, lanes of our direction at the right of the ego's
    crossings: list[tuple[Array, float]]  # streets that cross: a point and a heading
    texture_seed: int
    actors: list[Actor] = field(default_factory=list)
    clutter: list[Clutter] = field(default_factory=list)


class _Occupied:
    """Footprints over time of what has been placed so far."""

    def __init__(self, time_s: Array) -> None:
        self.time_s = time_s
        count = len(time_s)
        self._xy, self._yaw, self._half = np.empty((0, count, 2)), np.empty((0, count)), np.empty((0, 2))

    def _sample(self, track: Track) -> tuple[Array, Array]:
        xy = np.stack([np.interp(self.time_s, track.time_s, track.xy[:, axis]) for axis in (0, 1)], axis=1)
        return xy, np.interp(self.time_s, track.time_s, track.yaw)

    def add(self, track: Track, size: tuple[float, ...]) -> None:
        xy, yaw = self._sample(track)
        self._xy = np.concatenate([self._xy, xy[None]])
        self._yaw = np.concatenate([self._yaw, yaw[None]])
        self._half = np.concatenate([self._half, [[size[1] / 2, size[0] / 2]]])

    def hit(self, track: Track, size: tuple[float, ...], margin: float) -> bool:
        """Whether a footprint comes closer than `margin` to another at any time: the separating axis test."""
        xy, yaw = self._sample(track)
        half = np.array([size[1] / 2, size[0] / 2]) + margin
        offset = self._xy - xy[None]
        axes = [(yaw[None], half[None, :], self._yaw, self._half), (self._yaw, self._half, yaw[None], half[None, :])]
        apart = np.zeros(offset.shape[:2], dtype=bool)
        for angle, own, other_angle, other in axes:
            turn = other_angle - angle
            cos, sin = np.abs(np.cos(turn)), np.abs(np.sin(turn))
            along = offset[..., 0] * np.cos(angle) + offset[..., 1] * np.sin(angle)
            across = -offset[..., 0] * np.sin(angle) + offset[..., 1] * np.cos(angle)
            apart |= np.abs(along) > own[:, :1] + other[:, :1] * cos + other[:, 1:] * sin
            apart |= np.abs(across) > own[:, 1:] + other[:, :1] * sin + other[:, 1:] * cos
        return not bool(apart.all())


def make_world(scene: int, key_frames: int, seed: int, attempt: int = 0) -> World:
    """A world for scene number `scene` of a data set; the same for the same arguments."""
    rng = np.random.default_rng([seed, scene, attempt])
    duration_s = (key_frames - 1) * 0.5
    scenario = motion.SCENARIOS[scene % len(motion.SCENARIOS)]
    ego = motion.ego_track(scenario, duration_s, rng)
    road = Road(ego)
    # The map's pixels begin at the global origin, so everything lies at positive coordinates.
    low = ego.xy.min(axis=0)
    offset = np.array([rng.uniform(120, 220), rng.uniform(300, 420)]) - low
    ego = ego.shifted(offset)
    road.moved(offset)
    lanes = (int(rng.integers(1, 3)), int(rng.integers(0, 2)))
    world = World(
        weather=WEATHERS[_WEATHER_OF_SCENE[scene % len(_WEATHER_OF_SCENE)]],
        scenario=scenario,
        rig=make_rig(rng),
        ego=ego,
        road=road,
        left_edge=LANE_M * (0.5 + lanes[0]) + STRIP_M,
        right_edge=-LANE_M * (0.5 + lanes[1]) - STRIP_M,
        lanes=lanes,
        crossings=_crossings(road, scenario, rng),
        texture_seed=int(rng.integers(2**31)),
    )
    _populate(world, rng, duration_s)
    return world


def _crossings(road: Road, scenario: str, rng: np.random.Generator) -> list[tuple[Array, float]]:
    if scenario.startswith("turn"):  # the road we leave goes on, and the one we join came from somewhere
        return [road.start, road.end]
    s = rng.uniform(28.0, 60.0)
    xy, yaw = road.point(np.array([s]))
    return [(xy[0], float(yaw[0]) + np.pi / 2 + rng.normal(0, 0.08))]


def _populate(world: World, rng: np.random.Generator, duration_s: float) -> None:
    occupied = _Occupied(np.arange(-1.0, duration_s + 1.01, 0.25))
    middle = world.ego.xy + _EGO_AHEAD_M * np.stack([np.cos(world.ego.yaw), np.sin(world.ego.yaw)], axis=1)
    occupied.add(Track(world.ego.time_s, middle, world.ego.yaw), EGO_SIZE)
    # One of each kind comes first and close by: a split of one short scene still has all ten classes in range.
    rounds = [(kind, True) for kind in KINDS if kind.count[0] > 0]
    rounds += [(kind, False) for kind in KINDS for _ in range(int(rng.integers(kind.count[0], kind.count[1] + 1)) - 1)]
    for kind, near in rounds:
        for _ in range(60):
            actor = _propose(world, kind, near, rng)
            margin = 0.6 if kind.attributes == "vehicle" else 0.25
            if not occupied.hit(actor.track, actor.size, margin):
                occupied.add(actor.track, actor.size)
                world.actors.append(actor)
                break
    _surround(world, occupied, rng)


def _propose(world: World, kind: Kind, near: bool, rng: np.random.Generator) -> Actor:
    road, time_s = world.road, world.ego.time_s[::20]
    scale = np.exp(rng.normal(0, kind.spread, 3)) * np.exp(rng.normal(0, kind.spread))
    size = tuple(round(float(mean * factor), 3) for mean, factor in zip(kind.size, scale, strict=True))
    colour = kind.colours[int(rng.integers(len(kind.colours)))]
    moves = bool(rng.random() > kind.static_share)
    low, high = road.s_range
    ego_end = float(road.ego_s[1][-1])
    reach = (5.0, 26.0) if near else (max(low, -55.0), min(high, ego_end + 75.0))
    s0 = rng.uniform(*reach)
    distance = motion.speed_profile(time_s, rng.uniform(*kind.speed), rng) if moves else np.zeros_like(time_s)
    right_side = bool(rng.random() < 0.5)
    name = kind.name
    if name in ("pedestrian", "worker"):
        track = _walk(world, time_s, s0, distance, right_side, moves, rng)
    elif name in ("barrier", "traffic_cone", "construction_vehicle") and not moves:
        # The edge of the road, where work is done; a barrier's broad side faces across the road or along it.
        edge = (world.right_edge + STRIP_M) if right_side else (world.left_edge - STRIP_M)
        inward = -0.3 if name != "construction_vehicle" else 0.5 * size[0] + 0.2
        left = edge - inward if right_side else edge + inward
        xy, yaw = road.point(np.array([s0]), left)
        turn = rng.choice([0.0, np.pi / 2, np.pi]) if name == "barrier" else rng.uniform(-0.4, 0.4)
        track = motion.standing(time_s, xy[0], float(yaw[0] + turn + rng.normal(0, 0.05)))
    elif name in ("motorcycle", "bicycle", "trolley") and not moves:
        left = world.right_edge - 0.8 if right_side else world.left_edge + 0.8
        xy, yaw = road.point(np.array([s0]), left)
        track = motion.standing(time_s, xy[0], float(yaw[0] + rng.uniform(-np.pi, np.pi)))
    elif not moves:  # parked at the kerb
        inset = STRIP_M / 2 + max(0.0, (size[0] - 2.2) / 2)
        left = world.right_edge + inset if right_side else world.left_edge - inset
        xy, yaw = road.point(np.array([s0]), left)
        facing = 0.0 if right_side else np.pi
        track = motion.standing(time_s, xy[0], float(yaw[0] + facing + rng.normal(0, 0.03)))
    else:
        track = _drive(world, size[1], name in ("bicycle", "motorcycle"), near, time_s, s0, distance, rng)
    return Actor(kind, (size[0], size[1], size[2]), colour, track, moves)


def _walk(
    world: World, time_s: Array, s0: float, distance: Array, right_side: bool, moves: bool, rng: np.random.Generator
) -> Track:
    across = rng.uniform(0.5, WALK_M - 0.5)
    left = world.right_edge - across if right_side else world.left_edge + across
    if not moves:
        xy, _ = world.road.point(np.array([s0]), left)
        return motion.standing(time_s, xy[0], rng.uniform(-np.pi, np.pi))
    if rng.random() < 0.25:  # crossing the road
        left = rng.uniform(world.right_edge, world.left_edge)
        xy, yaw = world.road.point(np.array([s0]), left)
        heading = float(yaw[0]) + (np.pi / 2 if right_side else -np.pi / 2) + rng.normal(0, 0.15)
        return motion.straight(time_s, xy[0], heading, distance)
    forward = bool(rng.random() < 0.5)
    return motion.along_road(world.road, time_s, s0 + distance * (1 if forward else -1), left, forward)


def _drive(
    world: World,
    length: float,
    cycle: bool,
    near: bool,
    time_s: Array,
    s0: float,
    distance: Array,
    rng: np.random.Generator,
) -> Track:
    """A track in traffic; what has to stay near keeps to the road."""
    left_lanes, right_lanes = world.lanes
    if cycle:
        edge = world.right_edge + STRIP_M + 0.5
        return motion.along_road(world.road, time_s, s0 + distance, edge, True)
    choice = rng.uniform(0.45 if near else 0.0, 1.0)
    if choice < 0.2:  # follows the ego car, or leads it
        gap = (rng.uniform(5, 40) + (EGO_SIZE[1] + length) / 2) * (1 if rng.random() < 0.6 else -1)
        ego_s = np.interp(time_s, *world.road.ego_s)
        return motion.along_road(world.road, time_s, ego_s + _EGO_AHEAD_M + gap, 0.0, True)
    if choice < 0.35 and world.crossings:  # on the street that crosses
        point, heading = world.crossings[int(rng.integers(len(world.crossings)))]
        side = 1 if rng.random() < 0.5 else -1
        angle = heading + (0 if side > 0 else np.pi)
        right = np.array([np.sin(angle), -np.cos(angle)])
        direction = np.array([np.cos(angle), np.sin(angle)])
        start = point + right * LANE_M / 2 + direction * rng.uniform(-50, 30)
        return motion.straight(time_s, start, angle, distance)
    if choice < 0.45:  # turns steadily, somewhere beside the road
        left = rng.uniform(8, 22) * rng.choice([-1.0, 1.0])
        xy, yaw = world.road.point(np.array([s0]), left)
        speed = rng.uniform(3.0, 6.0)
        return motion.circling(
            time_s, xy[0], float(yaw[0]), speed, np.radians(rng.uniform(12, 30)) * rng.choice([-1, 1])
        )
    if choice < 0.65 and right_lanes:
        return motion.along_road(world.road, time_s, s0 + distance, -LANE_M, True)
    lane = LANE_M * int(rng.integers(1, left_lanes + 1))
    return motion.along_road(world.road, time_s, s0 - distance, lane, False)


# ----------------------------------------------------------------------------------------------------------------------
# Clutter

_WALLS: tuple[Colour, ...] = ((176, 150, 128), (150, 152, 158), (196, 190, 176), (140, 100, 84), (120, 128, 140))


def _surround(world: World, occupied: _Occupied, rng: np.random.Generator) -> None:
    low, high = world.road.s_range
    centreline, _ = world.road.point(np.arange(low, high, 3.0))
    for side in (-1, 1):
        edge = -world.right_edge if side < 0 else world.left_edge
        for house in _houses(world, side, edge, rng):
            _try(world, occupied, house, centreline, edge + WALK_M + 1.0)
        for item in _street_furniture(world, side, edge, rng):
            _try(world, occupied, item, centreline, edge)


def _houses(world: World, side: int, edge: float, rng: np.random.Generator) -> Iterator[Clutter]:
    """A row of houses along one side of the road, with gaps."""
    s, high = world.road.s_range
    while s < high:
        length, depth = rng.uniform(9, 24), rng.uniform(8, 14)
        if rng.random() < 0.8:
            left = side * (edge + WALK_M + rng.uniform(2.0, 9.0) + depth / 2)
            xy, yaw = world.road.point(np.array([s + length / 2]), left)
            colour = _WALLS[int(rng.integers(len(_WALLS)))]
            size = (depth, length, rng.uniform(5, 20))
            yield Clutter("building", size, colour, float(xy[0, 0]), float(xy[0, 1]), float(yaw[0]))
        s += length + rng.uniform(0.5, 12)


def _street_furniture(world: World, side: int, edge: float, rng: np.random.Generator) -> Iterator[Clutter]:
    """Trees, lamp posts and signs on the pavement of one side."""
    low, high = world.road.s_range
    for s in np.arange(low, high, 9.0):
        xy, yaw = world.road.point(np.array([s + rng.uniform(-3, 3)]), side * (edge + rng.uniform(0.5, 1.2)))
        at = (float(xy[0, 0]), float(xy[0, 1]), float(yaw[0]))
        draw = rng.random()
        if draw < 0.4:
            height = rng.uniform(4.0, 7.0)
            green = (int(rng.integers(50, 90)), int(rng.integers(84, 120)), int(rng.integers(40, 64)))
            yield Clutter("tree", (0.4, 0.4, height), green, *at)
        elif draw < 0.6:
            yield Clutter("pole", (0.2, 0.2, rng.uniform(5, 8)), (90, 92, 96), *at)
        elif draw < 0.68:
            yield Clutter("sign", (0.1, 0.1, 2.6), (200, 40, 40), *at)


def _try(world: World, occupied: _Occupied, item: Clutter, centreline: Array, clear_m: float) -> None:
    """Put it there unless it would stand on a road or touch something."""

    def distance(points: Array) -> float:
        offset = points - (item.x, item.y)
        cos, sin = np.cos(item.yaw), np.sin(item.yaw)
        along = np.abs(offset[:, 0] * cos + offset[:, 1] * sin) - item.size[1] / 2
        across = np.abs(-offset[:, 0] * sin + offset[:, 1] * cos) - item.size[0] / 2
        return float(np.hypot(np.maximum(along, 0), np.maximum(across, 0)).min())

    if distance(centreline) < clear_m - 0.2:
        return
    reach = np.arange(-90.0, 90.0, 3.0)[:, None]
    for point, heading in world.crossings:
        if distance(point + reach * (np.cos(heading), np.sin(heading))) < LANE_M + 2.5:
            return
    track = motion.standing(occupied.time_s, np.array([item.x, item.y]), item.yaw)
    footprint = item.size if item.model == "building" else (0.6, 0.6)
    if not occupied.hit(track, footprint, 0.3):
        occupied.add(track, footprint)
        world.clutter.append(item)
