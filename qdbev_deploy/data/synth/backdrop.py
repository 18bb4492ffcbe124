"""What is behind all objects: the sky and the ground, with the light of the headlights on it."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from qdbev_deploy.data.synth.ground import Ground
from qdbev_deploy.data.synth.rig import HEIGHT, WIDTH
from qdbev_deploy.data.synth.view import View, inverse3
from qdbev_deploy.data.synth.world import World

Array = npt.NDArray[np.float64]
Image = npt.NDArray[np.uint8]

# Ground texture levels by distance: each is used where its pixels are about as long as an image row is high.
_BANDS_M = (14.0, 28.0, 56.0, 130.0)


def _horizon_rows(view: View) -> Array:
    """Image rows of the horizon at the left and the right edge."""
    up = view.global2cam[:3, :3] @ np.array([0.0, 0.0, 1.0])
    line = inverse3(view.intrinsic).T @ up  # pixels whose rays are level
    return np.array([-(line[0] * x + line[2]) / line[1] for x in (0.0, WIDTH - 1.0)])


def haze_share(world: World, distance_m: float) -> float:
    """Share of haze at that distance."""
    return 1.0 - float((1.0 - world.weather.haze) ** (distance_m / 100.0))


def sky(world: World, view: View) -> Image:
    horizon = float(_horizon_rows(view).mean())
    share = np.clip(np.arange(HEIGHT) / max(horizon, 1.0), 0, 1)[:, None] ** 1.5
    rows = np.asarray(world.weather.sky_top) * (1 - share) + np.asarray(world.weather.sky_low) * share
    column = rows[:, None, :].round().astype(np.uint8)
    sky: Image = cv2.copyMakeBorder(column, 0, 0, 0, WIDTH - 1, cv2.BORDER_REPLICATE).astype(np.uint8, copy=False)
    return sky


def draw_ground(image: Image, world: World, ground: Ground, view: View) -> None:
    rotation, offset = view.global2cam[:3, :3], view.global2cam[:3, 3]
    ground2img = view.intrinsic @ np.column_stack([rotation[:, 0], rotation[:, 1], offset])
    img2ground = inverse3(ground2img)
    horizon = _horizon_rows(view)
    haze = np.asarray(world.weather.sky_low, dtype=np.float64)
    far_colour = np.asarray(ground.terrain) * (1 - haze_share(world, 130)) + haze * haze_share(world, 130)
    far = np.array([[0, horizon[0]], [WIDTH - 1, horizon[1]], [WIDTH - 1, HEIGHT], [0, HEIGHT]])
    cv2.fillPoly(image, [far.round().astype(np.int32)], far_colour.round().tolist())

    rows = np.arange(max(int(np.ceil(horizon.max())) + 1, 0), HEIGHT)
    distance = _row_distance(img2ground, view, rows)
    starts = [int(rows[np.argmax(distance < limit)]) if (distance < limit).any() else HEIGHT for limit in _BANDS_M]
    bounds = [HEIGHT, *starts]
    for level, texture in enumerate(ground.levels):
        start, stop = bounds[level + 1], bounds[level]
        if start >= stop:
            continue
        metres = ground.metres * 2**level
        tex2ground = np.array(
            [[metres, 0, ground.origin[0] + metres / 2], [0, metres, ground.origin[1] + metres / 2], [0, 0, 1]]
        )
        tex2band = np.array([[1.0, 0, 0], [0, 1, -start], [0, 0, 1]]) @ ground2img @ tex2ground
        band = image[start:stop]
        cv2.warpPerspective(
            texture, tex2band, (WIDTH, stop - start), dst=band, flags=cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_CONSTANT, borderValue=ground.terrain,
        )  # fmt: skip
        share = 1.0 - (1.0 - world.weather.haze) ** (distance[rows >= start][: stop - start] / 100.0)
        if level or world.weather.haze > 0.3:
            mixed = band * (1 - share)[:, None, None].astype(np.float32) + (haze * share[:, None])[:, None, :].astype(
                np.float32
            )
            np.copyto(band, mixed, casting="unsafe")
    if world.weather.headlights:
        gain = _headlight_gain(world.weather.headlights, img2ground, view, int(rows[0]))
        lit = image[rows[0] :]
        cv2.multiply(lit, cv2.merge([gain] * 3), dst=lit, dtype=cv2.CV_8U)


def _row_distance(img2ground: Array, view: View, rows: npt.NDArray[np.int_]) -> Array:
    """Distance on the ground of the middle of each row; infinite above the horizon."""
    points = img2ground @ np.stack([np.full(len(rows), WIDTH / 2), rows, np.ones(len(rows))])
    with np.errstate(divide="ignore", invalid="ignore"):
        ground = points[:2] / points[2]
    distance = np.hypot(*(ground - view.position[:2, None]))
    return np.where(np.isfinite(distance), distance, np.inf)


def _headlight_gain(strength: float, img2ground: Array, view: View, first_row: int) -> npt.NDArray[np.float32]:
    step = 8
    x, y = np.meshgrid(np.arange(0, WIDTH + step, step), np.arange(first_row, HEIGHT + step, step))
    points = np.einsum("ij,jhw->ihw", img2ground, np.stack([x, y, np.ones_like(x)]).astype(np.float64))
    gain = headlight((points[:2] / points[2]).reshape(2, -1).T, view.ego2global, strength).reshape(x.shape)
    fine = cv2.resize(gain.astype(np.float32), None, fx=step, fy=step, interpolation=cv2.INTER_LINEAR)
    return np.ascontiguousarray(fine[: HEIGHT - first_row, :WIDTH]).astype(np.float32, copy=False)


def headlight(xy: Array, ego2global: Array, strength: float) -> Array:
    """How many times brighter the car's headlights make points [n, 2] of the ground plane."""
    local = (xy - ego2global[:2, 3]) @ ego2global[:2, :2] - (3.5, 0.0)
    distance = np.hypot(*local.T)
    angle = np.arctan2(local[:, 1], local[:, 0])
    gain: Array = 1.0 + 4.5 * strength * np.exp(-((angle / 0.42) ** 2)) / (1.0 + (distance / 16.0) ** 2)
    return gain
