"""What each kind of object is built from: textured blocks, lines and balls, in its own frame (x forward, z up)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from qdbev_deploy.data.synth.catalogue import Colour

Array = npt.NDArray[np.float64]

# Corners of a block: 0..3 around the bottom, 4..7 above them. A face names its corners as a viewer in front of it sees
# them: top left, top right, bottom right, bottom left.
FACES: dict[str, tuple[int, int, int, int]] = {
    "front": (5, 6, 2, 1),
    "back": (7, 4, 0, 3),
    "left": (6, 7, 3, 2),
    "right": (4, 5, 1, 0),
    "top": (6, 5, 4, 7),
}


@dataclass(frozen=True)
class Block:
    """A hexahedron with a style of paint."""

    style: str
    colour: Colour
    corners: Array  # [8, 3]

    @property
    def bounds(self) -> tuple[Array, Array]:
        return self.corners.min(axis=0), self.corners.max(axis=0)


@dataclass(frozen=True)
class Line:
    """A polyline with a thickness in metres: spokes, frames, masts."""

    points: Array  # [n, 3]
    width: float
    colour: Colour


@dataclass(frozen=True)
class Ball:
    """A round lump: the crown of a tree, a head."""

    centre: Array  # [3]
    radius: float
    colour: Colour


@dataclass(frozen=True)
class Model:
    """An object's parts; blocks first (sorted when drawn), then lines and balls in order."""

    blocks: tuple[Block, ...] = ()
    lines: tuple[Line, ...] = ()
    balls: tuple[Ball, ...] = ()


def _block(
    style: str, colour: Colour, x: tuple[float, float], y: tuple[float, float], z: tuple[float, float],
    top: tuple[float, float, float] = (0.0, 0.0, 0.0),
) -> Block:  # fmt: skip
    """A block; `top` draws its upper face in at the back, at the front and at either side."""
    (x0, x1), (y0, y1), (z0, z1) = x, y, z
    back, front, side = top
    bottom = [(x0, y0, z0), (x1, y0, z0), (x1, y1, z0), (x0, y1, z0)]
    upper = [
        (x0 + back, y0 + side, z1),
        (x1 - front, y0 + side, z1),
        (x1 - front, y1 - side, z1),
        (x0 + back, y1 - side, z1),
    ]
    return Block(style, colour, np.array(bottom + upper))


def _ring(x: float, z: float, radius: float, y: float = 0.0) -> Array:
    angle = np.linspace(0, 2 * np.pi, 17)
    return np.stack([x + radius * np.cos(angle), np.full_like(angle, y), z + radius * np.sin(angle)], axis=1)


def _car(w: float, l: float, h: float, colour: Colour) -> Model:  # noqa: E741
    half = w / 2
    return Model((
        _block("carbody", colour, (-l / 2, l / 2), (-half, half), (0.0, 0.56 * h)),
        _block("cabin", colour, (-0.46 * l, 0.26 * l), (-half * 0.94, half * 0.94), (0.56 * h, h),
               (0.09 * l, 0.15 * l, 0.12 * w)),
    ))  # fmt: skip


def _truck(w: float, l: float, h: float, colour: Colour) -> Model:  # noqa: E741
    half, cab = w / 2, min(2.2, 0.32 * l)
    return Model((
        _block("cab", colour, (l / 2 - cab, l / 2), (-half * 0.95, half * 0.95), (0.0, 0.86 * h), (0.0, 0.25, 0.05)),
        _block("cargo", (224, 224, 218), (-l / 2, l / 2 - cab - 0.15), (-half, half), (0.0, h)),
    ))  # fmt: skip


def _bus(w: float, l: float, h: float, colour: Colour) -> Model:  # noqa: E741
    return Model((_block("bus", colour, (-l / 2, l / 2), (-w / 2, w / 2), (0.0, h)),))


def _trailer(w: float, l: float, h: float, colour: Colour) -> Model:  # noqa: E741
    return Model((_block("trailer", colour, (-l / 2, l / 2), (-w / 2, w / 2), (0.0, h)),))


def _construction_vehicle(w: float, l: float, h: float, colour: Colour) -> Model:  # noqa: E741
    half = w / 2
    x0, x1, z0, z1 = 0.12 * l, 0.46 * l, 0.42 * h, 0.86 * h
    thick = 0.12 * w
    arm = np.array([(x0, -thick, z0), (x0 + 0.25, -thick, z0), (x0 + 0.25, thick, z0), (x0, thick, z0),
                    (x1, -thick, z1), (x1 + 0.25, -thick, z1), (x1 + 0.25, thick, z1), (x1, thick, z1)])  # fmt: skip
    return Model((
        _block("tracks", (44, 42, 40), (-0.42 * l, 0.3 * l), (-half, half), (0.0, 0.28 * h)),
        _block("machine", colour, (-0.5 * l, 0.02 * l), (-half * 0.9, half * 0.9), (0.28 * h, 0.6 * h)),
        _block("machinecab", colour, (-0.2 * l, 0.1 * l), (-half * 0.8, half * 0.1), (0.6 * h, h), (0.0, 0.1, 0.05)),
        Block("machine", colour, arm),
        _block("bucket", (70, 68, 62), (0.36 * l, 0.5 * l), (-half * 0.6, half * 0.6), (0.02, 0.24 * h)),
    ), (Line(np.array([(0.48 * l, 0, 0.84 * h), (0.44 * l, 0, 0.2 * h)]), 0.2, colour),))  # fmt: skip


def _person(w: float, l: float, h: float, colour: Colour, x: float = 0.0, z: float = 0.0) -> tuple[Block, ...]:  # noqa: E741
    half, deep = w / 2 * 0.62, l / 2 * 0.5
    return (
        _block("legs", (46, 50, 66), (x - deep, x + deep), (-half * 0.7, half * 0.7), (z, z + 0.48 * h)),
        _block(
            "torso", colour, (x - deep, x + deep), (-half * 1.3, half * 1.3), (z + 0.46 * h, z + 0.84 * h), (0, 0, 0.05)
        ),
        _block("head", (206, 164, 138), (x - 0.11, x + 0.11), (-0.1, 0.1), (z + 0.85 * h, z + h)),
    )


def _pedestrian(w: float, l: float, h: float, colour: Colour) -> Model:  # noqa: E741
    return Model(_person(w, l, h, colour))


def _worker(w: float, l: float, h: float, colour: Colour) -> Model:  # noqa: E741
    legs, torso, head = _person(w, l, h, colour)
    return Model((legs, Block("vest", colour, torso.corners), Block("helmet", (240, 220, 60), head.corners)))


def _bicycle(w: float, l: float, h: float, colour: Colour, rider: bool = False) -> Model:  # noqa: E741
    wheel = 0.2 * l
    axle = l / 2 - wheel
    saddle = (-0.12 * l, 0.0, 0.72 * h if not rider else 0.6)
    bars = (0.22 * l, 0.0, 0.8 * h if not rider else 0.75)
    tyre: Colour = (30, 30, 32)
    lines = (
        Line(_ring(-axle, wheel, wheel), 0.06, tyre),
        Line(_ring(axle, wheel, wheel), 0.06, tyre),
        Line(np.array([(-axle, 0, wheel), saddle, bars, (axle, 0, wheel)]), 0.05, colour),
        Line(np.array([saddle, (0.0, 0.0, wheel), bars]), 0.05, colour),
        Line(np.array([(bars[0], -w / 2, bars[2] + 0.08), (bars[0], w / 2, bars[2] + 0.08)]), 0.05, tyre),
    )
    return Model(_person(w, l * 0.35, h - 0.45, (60, 110, 170), -0.05, 0.45) if rider else (), lines)


def _motorcycle(w: float, l: float, h: float, colour: Colour, rider: bool = False) -> Model:  # noqa: E741
    wheel = 0.15 * l
    axle = l / 2 - wheel
    low = 0.85 * h if not rider else 0.95
    blocks = [
        _block("motor", colour, (-0.42 * l, 0.3 * l), (-w / 4, w / 4), (wheel * 0.8, low * 0.78), (0.1, 0.2, 0.05))
    ]
    if rider:
        blocks += _person(w, l * 0.35, h - 0.55, (40, 40, 46), -0.1, 0.55)
        blocks[-1] = Block("helmet", (210, 210, 214), blocks[-1].corners)
    tyre: Colour = (26, 26, 28)
    lines = (
        Line(_ring(-axle, wheel, wheel * 0.85), 0.13, tyre),
        Line(_ring(axle, wheel, wheel * 0.85), 0.13, tyre),
        Line(np.array([(axle, 0, wheel), (0.24 * l, 0, low)]), 0.07, (120, 120, 126)),
        Line(np.array([(0.24 * l, -w / 2, low), (0.24 * l, w / 2, low)]), 0.06, tyre),
    )
    return Model(tuple(blocks), lines)


def _barrier(w: float, l: float, h: float, colour: Colour) -> Model:  # noqa: E741
    half = w / 2
    return Model((_block("barrier", colour, (-l / 2, l / 2), (-half, half), (0.0, h), (0.3 * l, 0.3 * l, 0.02)),))


def _traffic_cone(w: float, l: float, h: float, colour: Colour) -> Model:  # noqa: E741
    white: Colour = (236, 236, 236)
    # Stacked rings: a texture on a side that tapers so much would be squeezed into its tip.
    edges = (0.06, 0.3, 0.46, 0.62, 0.76, 1.0)
    blocks = [_block("foot", (40, 40, 42), (-l / 2, l / 2), (-w / 2, w / 2), (0.0, 0.06 * h))]
    for index, (low, high) in enumerate(pairwise(edges)):
        bottom, top = (0.42 - 0.36 * low) * w, (0.42 - 0.36 * high) * w
        step = bottom - top
        ring = white if index % 2 else colour
        blocks.append(
            _block("ring", ring, (-bottom, bottom), (-bottom, bottom), (low * h, high * h), (step, step, step))
        )
    return Model(tuple(blocks))


def _trolley(w: float, l: float, h: float, colour: Colour) -> Model:  # noqa: E741
    return Model((_block("bin", colour, (-l / 2, l / 2), (-w / 2, w / 2), (0.0, h), (-0.04, -0.04, -0.03)),))


def _building(w: float, l: float, h: float, colour: Colour) -> Model:  # noqa: E741
    return Model((_block("building", colour, (-l / 2, l / 2), (-w / 2, w / 2), (0.0, h)),))


def _tree(w: float, l: float, h: float, colour: Colour) -> Model:  # noqa: E741
    radius = (h - 2.0) / 2
    r, g, b = colour
    dark: Colour = (int(r * 0.75), int(g * 0.75), int(b * 0.75))
    balls = (
        Ball(np.array([0.5 * radius, -0.3 * radius, h - 1.25 * radius]), 0.72 * radius, dark),
        Ball(np.array([-0.5 * radius, 0.35 * radius, h - 1.2 * radius]), 0.7 * radius, dark),
        Ball(np.array([0.0, 0.0, h - 0.85 * radius]), 0.85 * radius, colour),
    )
    return Model((), (Line(np.array([(0.0, 0, 0), (0, 0, h - radius)]), w * 0.7, (84, 66, 50)),), balls)


def _pole(w: float, l: float, h: float, colour: Colour) -> Model:  # noqa: E741
    lines = (Line(np.array([(0.0, 0, 0), (0, 0, h)]), w * 0.8, colour),
             Line(np.array([(0.0, 0, h), (0, 1.4, h + 0.2)]), w * 0.5, colour))  # fmt: skip
    return Model((), lines)


def _sign(w: float, l: float, h: float, colour: Colour) -> Model:  # noqa: E741
    post = Line(np.array([(0.0, 0, 0), (0, 0, h)]), w * 0.7, (130, 132, 134))
    return Model(
        (), (post,), (Ball(np.array([0.0, 0, h]), 0.34, colour), Ball(np.array([0.0, 0, h]), 0.2, (236, 236, 236)))
    )


@lru_cache(maxsize=4096)
def build_model(name: str, size: tuple[float, float, float], colour: Colour, rider: bool) -> Model:
    """The parts of an object of that name and size (width, length, height); they fill its box and do not leave it."""
    if name == "bicycle":
        return _bicycle(*size, colour, rider)
    if name == "motorcycle":
        return _motorcycle(*size, colour, rider)
    builders = {
        "car": _car, "truck": _truck, "bus": _bus, "trailer": _trailer, "construction_vehicle": _construction_vehicle,
        "pedestrian": _pedestrian, "worker": _worker, "barrier": _barrier, "traffic_cone": _traffic_cone,
        "trolley": _trolley, "building": _building, "tree": _tree, "pole": _pole, "sign": _sign,
    }  # fmt: skip
    return builders[name](*size, colour)
