"""Draws objects: each face in true perspective, lines, balls, shadows."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
import numpy.typing as npt

from qdbev_deploy.data.geometry import inverse
from qdbev_deploy.data.synth.backdrop import haze_share, headlight
from qdbev_deploy.data.synth.catalogue import Colour
from qdbev_deploy.data.synth.models import FACES, Ball, Block, Line
from qdbev_deploy.data.synth.order import sorted_by_cover
from qdbev_deploy.data.synth.paint import paint
from qdbev_deploy.data.synth.rig import HEIGHT, WIDTH
from qdbev_deploy.data.synth.things import ACTOR_FAR_M, Thing
from qdbev_deploy.data.synth.view import NEAR_M, View, clip_near, cross, fixed, project, to_camera
from qdbev_deploy.data.synth.world import World

Array = npt.NDArray[np.float64]
Corner = npt.NDArray[np.int64]  # x, y
Image = npt.NDArray[np.uint8]


def _patch_of(polygon: Array, view: View) -> tuple[Array, Corner, Corner] | None:
    """Pixels of a polygon in camera axes, and the part of the image it touches: first pixel, and one past the last."""
    if len(polygon) < 3:
        return None
    pixels = project(polygon, view)
    low = np.clip(np.floor(pixels.min(axis=0)), 0, (WIDTH, HEIGHT)).astype(np.int64)
    high = np.clip(np.ceil(pixels.max(axis=0)) + 1, 0, (WIDTH, HEIGHT)).astype(np.int64)
    return None if (high - low).min() < 1 else (pixels, low, high)


def draw_shadow(image: Image, thing: Thing, view: View, world: World) -> None:
    if thing.model.balls or not thing.model.blocks or thing.far_m > ACTOR_FAR_M:
        return
    width, length, _ = thing.size
    x, y = length / 2 + 0.1, width / 2 + 0.15
    footprint = np.array([(-x, -y, 0.0), (x, -y, 0), (x, y, 0), (-x, y, 0)])
    polygon = clip_near(to_camera(footprint @ thing.object2global[:3, :3].T + thing.object2global[:3, 3], view))
    patch = _patch_of(polygon, view)
    if patch is None:
        return
    pixels, low, high = patch
    area = image[low[1] : high[1], low[0] : high[0]]
    mask = np.zeros(area.shape[:2], dtype=np.uint8)
    cv2.fillConvexPoly(mask, fixed(pixels - low), (255,), cv2.LINE_8, 3)
    dark = 0.45 if world.weather.sun > 0.3 else 0.62
    cv2.copyTo(cv2.convertScaleAbs(area, alpha=dark), mask, area)


def draw_thing(image: Image, thing: Thing, view: View, world: World) -> None:
    object2cam = view.global2cam @ thing.object2global
    distance = float(np.linalg.norm(object2cam[:3, 3]))
    weather = world.weather
    clear = 1.0 - haze_share(world, distance)
    light = 1.0
    if weather.headlights:
        light = float(headlight(thing.object2global[None, :2, 3], view.ego2global, weather.headlights)[0])
    shade = _Shade(
        weather.ambient * light, weather.sun, clear, weather.lamps, np.asarray(weather.sky_low) * (1 - clear)
    )
    camera = inverse(object2cam)[:3, 3]
    blocks = thing.model.blocks
    for index in _block_order(blocks, camera):
        _draw_block(image, blocks[index], object2cam, view, shade)
    for line in thing.model.lines:
        _draw_line(image, line, object2cam, view, shade)
    for ball in thing.model.balls:
        _draw_ball(image, ball, object2cam, view, shade)


@dataclass(frozen=True)
class _Shade:
    """The light on one object and the air before it."""

    ambient: float
    sun: float
    clear: float
    lamps: float
    haze: Array  # [3] already weighted

    def factor(self, facing_sun: float) -> float:
        return (self.ambient + self.sun * max(facing_sun, 0.0)) * self.clear

    def colour(self, colour: Colour, facing_sun: float) -> tuple[float, ...]:
        return tuple(np.clip(np.asarray(colour) * self.factor(facing_sun) + self.haze, 0, 255).tolist())


def _block_order(blocks: tuple[Block, ...], camera: Array) -> list[int]:
    """Blocks of one object from far to near: a plane between two of them tells, wherever there is one."""
    if len(blocks) < 2:
        return list(range(len(blocks)))
    bounds = [block.bounds for block in blocks]
    first = np.zeros((len(blocks), len(blocks)), dtype=bool)
    for i, (_, high) in enumerate(bounds):
        for j, (low, _) in enumerate(bounds):
            for axis in range(3):
                if i != j and high[axis] <= low[axis] + 1e-3:
                    if camera[axis] >= low[axis]:
                        first[i, j] = True
                    elif camera[axis] <= high[axis]:
                        first[j, i] = True
    distance = np.array([np.linalg.norm((low + high) / 2 - camera) for low, high in bounds])
    return sorted_by_cover(first & ~first.T, distance)


@lru_cache(maxsize=4096)
def _level(
    style: str, face: str, colour: Colour, width_m: float, height_m: float, level: int
) -> tuple[Image, Image | None]:
    """A face's texture, halved `level` times, and its shining part where it has one."""
    texture, glow = paint(style, face, colour, width_m, height_m)
    if level:
        size = (max(texture.shape[1] >> level, 2), max(texture.shape[0] >> level, 2))
        texture = cv2.resize(texture, size, interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)
        glow = cv2.resize(glow, size, interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)
    return texture, glow if glow.any() else None


def _draw_block(image: Image, block: Block, object2cam: Array, view: View, shade: _Shade) -> None:
    corners = block.corners @ object2cam[:3, :3].T + object2cam[:3, 3]
    for face, indices in FACES.items():
        quad = corners[list(indices)]
        across, down = quad[1] - quad[0], quad[3] - quad[0]
        # A face drawn in to a point has no upper edge: its lower one says where it looks.
        away = cross(quad[2] - quad[3], down)
        size = float(np.linalg.norm(away))
        if size < 1e-9 or away @ quad[3] <= 0:
            continue
        _draw_face(image, block, face, quad, -away / size, view, shade, across)


def _draw_face(
    image: Image, block: Block, face: str, quad: Array, normal: Array, view: View, shade: _Shade, across: Array
) -> None:
    polygon = quad if quad[:, 2].min() >= NEAR_M else clip_near(quad)
    patch = _patch_of(polygon, view)
    if patch is None:
        return
    pixels, low, high = patch
    facing_sun = float(normal @ view.sun)
    # What looks down or level gets less of the sky's light than what looks up.
    up = float(normal @ (view.global2cam[:3, :3] @ np.array([0.0, 0.0, 1.0])))
    factor = shade.factor(facing_sun) * (0.86 + 0.14 * up)
    width_m = round(float(max(np.linalg.norm(across), np.linalg.norm(quad[2] - quad[3]))), 2)
    height_m = round(float(np.linalg.norm(quad[3] - quad[0])), 2)
    texture, glow = _level(block.style, face, block.colour, width_m, height_m, 0)
    span = pixels.max(axis=0) - pixels.min(axis=0)
    level = max(
        0, int(np.log2(max(min(texture.shape[1] / max(span[0], 1), texture.shape[0] / max(span[1], 1)), 1.0)) + 0.5)
    )
    if level:
        texture, glow = _level(block.style, face, block.colour, width_m, height_m, min(level, 6))
    lit = cv2.convertScaleAbs(texture, alpha=factor, beta=float(shade.haze.mean()))
    if glow is not None:
        lit = cv2.add(lit, cv2.convertScaleAbs(glow, alpha=shade.lamps * shade.clear))
    if span.min() < 2.5:
        colour = lit.reshape(-1, 3).mean(axis=0)
        cv2.fillConvexPoly(image, fixed(pixels), colour.tolist(), cv2.LINE_AA, 3)
        return
    texture2cam = _texture_to_camera(quad, lit.shape[1], lit.shape[0])
    if texture2cam is None:
        return
    shift = np.array([[1.0, 0, -low[0]], [0, 1, -low[1]], [0, 0, 1]])
    homography = shift @ view.intrinsic @ texture2cam
    if abs(np.linalg.det(homography)) < 1e-9:
        return
    area = image[low[1] : high[1], low[0] : high[0]]
    target = (int(high[0] - low[0]), int(high[1] - low[1]))
    if polygon is quad:
        cv2.warpPerspective(
            lit, homography, target, dst=area, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_TRANSPARENT
        )
    else:  # the part behind the camera would appear again, upside down
        mask = np.zeros(area.shape[:2], dtype=np.uint8)
        cv2.fillConvexPoly(mask, fixed(pixels - low), (255,), cv2.LINE_8, 3)
        face_image = cv2.warpPerspective(
            lit, homography, target, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
        )
        cv2.copyTo(face_image, mask, area)


def _texture_to_camera(quad: Array, width: int, height: int) -> Array | None:
    """The projective map from texture pixels to points of a flat quad in camera axes."""
    base = quad[2] - quad[3]
    length = float(np.linalg.norm(base))
    if length < 1e-6:
        return None
    along = base / length
    normal = cross(along, quad[3] - quad[0])
    across = cross(normal / np.linalg.norm(normal), along)
    plane = np.stack([(quad - quad[3]) @ along, (quad - quad[3]) @ across], axis=1)
    if np.hypot(*(plane[1] - plane[0])) < 1e-3:
        plane[1, 0] = plane[0, 0] + 1e-3
    corners = np.array([(0, 0), (width - 1, 0), (width - 1, height - 1), (0, height - 1)], dtype=np.float32)
    flat = cv2.getPerspectiveTransform(corners, plane.astype(np.float32))
    result: Array = np.column_stack([along, across, quad[3]]) @ flat
    return result


def _draw_line(image: Image, line: Line, object2cam: Array, view: View, shade: _Shade) -> None:
    points = line.points @ object2cam[:3, :3].T + object2cam[:3, 3]
    if points[:, 2].min() < 0.4:
        return
    thickness = max(1, round(float(view.intrinsic[0, 0] * line.width / points[:, 2].mean())))
    pixels = fixed(project(points, view))
    cv2.polylines(image, [pixels], False, shade.colour(line.colour, 0.4), min(thickness, 120), cv2.LINE_AA, 3)


def _draw_ball(image: Image, ball: Ball, object2cam: Array, view: View, shade: _Shade) -> None:
    centre = object2cam[:3, :3] @ ball.centre + object2cam[:3, 3]
    if centre[2] < max(0.4, ball.radius):
        return
    x, y = project(centre[None], view)[0]
    radius = view.intrinsic[0, 0] * ball.radius / centre[2]
    for share, sun, lift in ((1.0, 0.2, 0.0), (0.72, 0.7, 0.2)):
        middle = (int(np.clip(x * 8, -(2**18), 2**18)), int(np.clip((y - lift * radius) * 8, -(2**18), 2**18)))
        cv2.circle(image, middle, round(radius * share * 8), shade.colour(ball.colour, sun), -1, cv2.LINE_AA, 3)
