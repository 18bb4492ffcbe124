"""What the pictures are drawn with: colours, translucent polygons, lines, text."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import numpy.typing as npt

Picture = npt.NDArray[np.uint8]  # [height, width, 3] RGB
Points = npt.NDArray[np.float64]  # [n, 2] x, y in pixels
Colour = tuple[int, int, int]

BACKGROUND: Colour = (13, 17, 23)
PANEL: Colour = (19, 25, 34)
RING: Colour = (62, 76, 94)
TEXT: Colour = (226, 232, 240)
FAINT_TEXT: Colour = (132, 146, 166)
TRUTH: Colour = (240, 244, 248)  # ground truth where it is drawn beside predictions

CLASS_COLOURS: dict[str, Colour] = {
    "car": (66, 165, 245),
    "truck": (132, 140, 255),
    "construction_vehicle": (255, 167, 38),
    "bus": (200, 110, 230),
    "trailer": (38, 198, 180),
    "barrier": (190, 170, 150),
    "motorcycle": (244, 96, 150),
    "bicycle": (156, 214, 90),
    "pedestrian": (255, 98, 72),
    "traffic_cone": (255, 232, 84),
}

_SHIFT = 4  # OpenCV draws in sixteenths of a pixel


def _fixed(points: Points) -> npt.NDArray[np.int32]:
    # A pixel's centre is at its integer coordinate in OpenCV and at a half integer here.
    fixed: npt.NDArray[np.int32] = np.round((points - 0.5) * (1 << _SHIFT)).astype(np.int32)
    return fixed


def _blended(
    picture: Picture, points: Points, alpha: float, margin: int, draw: Callable[[Picture, Points], object]
) -> None:
    """Let `draw` paint a copy of the part of `picture` around `points`, and mix the copy in."""
    height, width = picture.shape[:2]
    low = np.maximum(np.floor(points.min(axis=0)).astype(int) - margin, 0)
    high = np.minimum(np.ceil(points.max(axis=0)).astype(int) + margin, (width, height))
    if (low >= high).any():
        return
    part = picture[low[1] : high[1], low[0] : high[0]]
    painted = part.copy()
    draw(painted, points - low)
    part[:] = cv2.addWeighted(painted, alpha, part, 1.0 - alpha, 0.0) if alpha < 1 else painted


def fill(picture: Picture, points: Points, colour: Colour, alpha: float = 1.0) -> None:
    """A filled convex polygon."""
    if len(points) >= 3:
        _blended(
            picture, points, alpha, 2,
            lambda part, at: cv2.fillConvexPoly(part, _fixed(at), colour, cv2.LINE_AA, _SHIFT),
        )  # fmt: skip


def line(
    picture: Picture, points: Points, colour: Colour, thickness: int = 1, alpha: float = 1.0, *, closed: bool = False
) -> None:
    """A line through the points."""
    if len(points) >= 2:
        _blended(
            picture, points, alpha, thickness + 2,
            lambda part, at: cv2.polylines(part, [_fixed(at)], closed, colour, thickness, cv2.LINE_AA, _SHIFT),
        )  # fmt: skip


def swatch(
    picture: Picture, left: float, middle: float, size: float, colour: Colour, alpha: float, *, filled: bool
) -> None:
    """A small square of a legend, its left side at `left` and centred on the line `middle`."""
    corners = np.array([[0.0, -0.5], [1.0, -0.5], [1.0, 0.5], [0.0, 0.5]]) * size + (left, middle)
    if filled:
        fill(picture, corners, colour, 0.45 * alpha)
    line(picture, corners, colour, 1, alpha, closed=True)


def dot(
    picture: Picture, centre: Points, radius: float, colour: Colour, thickness: int = -1, alpha: float = 1.0
) -> None:
    """A disc, or a circle of that thickness."""
    corners = np.array([centre - radius, centre + radius])

    def draw(part: Picture, at: Points) -> None:
        x, y = _fixed(at.mean(axis=0))
        cv2.circle(part, (int(x), int(y)), round(radius * (1 << _SHIFT)), colour, thickness, cv2.LINE_AA, _SHIFT)

    _blended(picture, corners, alpha, max(thickness, 0) + 2, draw)


@dataclass(frozen=True)
class Label:
    """A piece of text to be written."""

    x: float
    y: float
    text: str
    size: float
    colour: Colour = TEXT
    anchor: Literal["la", "lm", "mm", "rm", "ra", "ma"] = "la"  # Pillow's: horizontal and vertical reference
    bold: bool = False
    chip: bool = False  # on a dark translucent plate


@functools.lru_cache(maxsize=64)
def _font(size: int, bold: bool) -> Any:
    import matplotlib
    from PIL import ImageFont

    # Matplotlib comes with the devkit and brings DejaVu, so that a picture looks the same on every machine.
    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    return ImageFont.truetype(str(folder / ("DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf")), size)


def write(picture: Picture, labels: Sequence[Label]) -> None:
    """Write all labels; one trip through Pillow, whose text is smoother than OpenCV's."""
    from PIL import Image, ImageDraw

    page = Image.fromarray(picture)
    pen = ImageDraw.Draw(page, "RGBA")
    for label in labels:
        font = _font(round(label.size), label.bold)
        if label.chip:
            left, top, right, bottom = pen.textbbox((label.x, label.y), label.text, font=font, anchor=label.anchor)
            pad = label.size * 0.45
            plate = (left - pad, top - pad * 0.8, right + pad, bottom + pad * 0.8)
            pen.rounded_rectangle(plate, radius=label.size * 0.4, fill=(*BACKGROUND, 190))
        pen.text((label.x, label.y), label.text, font=font, fill=(*label.colour, 255), anchor=label.anchor)
    picture[:] = np.asarray(page)
