"""What drives, walks and stands in a synthetic scene: sizes, colours, speeds and numbers after nuScenes' statistics."""

from __future__ import annotations

from dataclasses import dataclass

Colour = tuple[int, int, int]  # RGB

_VEHICLE_COLOURS: tuple[Colour, ...] = (
    (225, 225, 222), (40, 42, 46), (120, 124, 128), (165, 170, 175), (150, 30, 32), (30, 62, 120), (70, 84, 70),
    (196, 186, 160), (20, 20, 24), (90, 40, 36),
)  # fmt: skip


@dataclass(frozen=True)
class Kind:
    """One sort of annotated object."""

    name: str  # name of its picture model
    category: str  # nuScenes category
    size: tuple[float, float, float]  # mean width, length, height in metres
    spread: float  # relative standard deviation of the size
    count: tuple[int, int]  # fewest and most in a scene
    colours: tuple[Colour, ...]
    attributes: str  # "vehicle", "cycle", "pedestrian" or "": which family of attributes it carries
    speed: tuple[float, float]  # m/s when it moves
    static_share: float  # how many of them never move


KINDS: tuple[Kind, ...] = (
    Kind("car", "vehicle.car", (1.95, 4.62, 1.73), 0.06, (16, 26), _VEHICLE_COLOURS, "vehicle", (4.0, 12.0), 0.55),
    Kind("truck", "vehicle.truck", (2.51, 6.93, 2.84), 0.12, (2, 4),
         ((236, 236, 232), (60, 80, 130), (150, 60, 40), (200, 196, 60)), "vehicle", (4.0, 10.0), 0.5),
    Kind("bus", "vehicle.bus.rigid", (2.94, 10.8, 3.47), 0.06, (1, 2),
         ((200, 60, 50), (60, 130, 80), (235, 230, 220)), "vehicle", (4.0, 9.0), 0.3),
    Kind("trailer", "vehicle.trailer", (2.75, 11.5, 3.87), 0.1, (1, 2),
         ((232, 232, 230), (170, 175, 182), (70, 100, 150)), "vehicle", (4.0, 8.0), 0.8),
    Kind("construction_vehicle", "vehicle.construction", (2.73, 6.37, 3.19), 0.1, (1, 2),
         ((226, 172, 30), (222, 140, 28)), "vehicle", (0.6, 1.5), 0.75),
    Kind("pedestrian", "human.pedestrian.adult", (0.67, 0.73, 1.77), 0.06, (8, 16),
         ((180, 40, 40), (40, 60, 140), (220, 220, 215), (30, 30, 34), (70, 120, 70), (220, 180, 60)),
         "pedestrian", (0.8, 1.8), 0.3),
    Kind("worker", "human.pedestrian.construction_worker", (0.7, 0.75, 1.78), 0.04, (0, 2), ((240, 120, 20),),
         "pedestrian", (0.6, 1.2), 0.6),
    Kind("motorcycle", "vehicle.motorcycle", (0.77, 2.11, 1.47), 0.06, (1, 3),
         ((150, 24, 24), (24, 24, 28), (30, 60, 140)), "cycle", (4.0, 10.0), 0.5),
    Kind("bicycle", "vehicle.bicycle", (0.60, 1.70, 1.28), 0.06, (1, 3),
         ((30, 100, 160), (180, 40, 40), (40, 40, 40)), "cycle", (2.5, 6.0), 0.4),
    Kind("barrier", "movable_object.barrier", (2.53, 0.50, 0.98), 0.04, (4, 10), ((220, 80, 30),), "", (0.0, 0.0), 1.0),
    Kind("traffic_cone", "movable_object.trafficcone", (0.41, 0.41, 1.07), 0.08, (3, 8), ((240, 96, 20),), "",
         (0.0, 0.0), 1.0),
    Kind("trolley", "movable_object.pushable_pullable", (0.7, 0.9, 1.06), 0.06, (0, 1), ((60, 130, 70),), "",
         (0.0, 0.0), 1.0),
)  # fmt: skip

ATTRIBUTES: dict[str, str] = {
    "vehicle.moving": "Vehicle is moving",
    "vehicle.stopped": "Vehicle, with a driver in it, is stationary but means to move",
    "vehicle.parked": "Vehicle is stationary for a longer time",
    "cycle.with_rider": "There is a rider on the bicycle or motorcycle",
    "cycle.without_rider": "There is no rider on the bicycle or motorcycle",
    "pedestrian.sitting_lying_down": "The human is sitting or lying down",
    "pedestrian.standing": "The human is standing",
    "pedestrian.moving": "The human is moving",
}

# Every category of nuScenes, so that code which looks one up by name finds it, whether or not a scene contains it.
CATEGORIES: tuple[str, ...] = (
    "human.pedestrian.adult", "human.pedestrian.child", "human.pedestrian.wheelchair", "human.pedestrian.stroller",
    "human.pedestrian.personal_mobility", "human.pedestrian.police_officer", "human.pedestrian.construction_worker",
    "animal", "vehicle.car", "vehicle.motorcycle", "vehicle.bicycle", "vehicle.bus.bendy", "vehicle.bus.rigid",
    "vehicle.truck", "vehicle.construction", "vehicle.emergency.ambulance", "vehicle.emergency.police",
    "vehicle.trailer", "movable_object.barrier", "movable_object.trafficcone", "movable_object.pushable_pullable",
    "movable_object.debris", "static_object.bicycle_rack",
)  # fmt: skip


@dataclass(frozen=True)
class Weather:
    """Light and air of a scene."""

    name: str
    sun: float  # strength of the direct light
    ambient: float
    haze: float  # share of haze at 100 m
    sky_top: Colour
    sky_low: Colour
    headlights: float  # light the car throws forward
    lamps: float  # how bright lit windows and lights are


WEATHERS: dict[str, Weather] = {
    weather.name: weather
    for weather in (
        Weather("day", 0.50, 0.62, 0.10, (88, 138, 206), (196, 214, 230), 0.0, 0.25),
        Weather("overcast", 0.18, 0.78, 0.22, (158, 166, 176), (206, 210, 214), 0.0, 0.25),
        Weather("rain", 0.05, 0.62, 0.55, (116, 122, 130), (158, 162, 168), 0.0, 0.7),
        Weather("night", 0.02, 0.15, 0.05, (8, 10, 18), (26, 26, 34), 0.8, 1.0),
    )
}
