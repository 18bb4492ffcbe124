"""Faces of the blocks: windows, wheels, doors, lights, stripes. A texture comes with what of it shines by itself."""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np
import numpy.typing as npt

from qdbev_deploy.data.synth.catalogue import Colour

Image = npt.NDArray[np.uint8]

PIXELS_PER_M = 40
_GLASS: Colour = (38, 48, 60)
_TYRE: Colour = (22, 22, 24)
_HUB: Colour = (150, 152, 156)
_TAIL: Colour = (200, 20, 24)
_HEAD: Colour = (250, 246, 224)
_WHITE: Colour = (236, 236, 236)


class _Sheet:
    """A texture to draw on in fractions of its width and height, y downwards."""

    def __init__(self, width_m: float, height_m: float, colour: Colour) -> None:
        self.w = int(np.clip(round(width_m * PIXELS_PER_M), 8, 320))
        self.h = int(np.clip(round(height_m * PIXELS_PER_M), 8, 256))
        self.metre = self.w / max(width_m, 0.05)
        self.image: Image = np.full((self.h, self.w, 3), colour, dtype=np.uint8)
        self.glow: Image = np.zeros((self.h, self.w, 3), dtype=np.uint8)

    def rect(self, x0: float, y0: float, x1: float, y1: float, colour: Colour, shines: bool = False) -> None:
        low = (round(x0 * self.w), round(y0 * self.h))
        high = (max(round(x1 * self.w) - 1, low[0]), max(round(y1 * self.h) - 1, low[1]))
        cv2.rectangle(self.image, low, high, colour, -1)
        if shines:
            cv2.rectangle(self.glow, low, high, colour, -1)

    def disc(self, x: float, y: float, radius_m: float, colour: Colour) -> None:
        cv2.circle(
            self.image, (round(x * self.w), round(y * self.h)), round(radius_m * self.metre), colour, -1, cv2.LINE_AA
        )

    def wheel(self, x: float, radius_m: float) -> None:
        y = 1 - radius_m * self.metre / self.h
        self.disc(x, y, radius_m * 1.12, (12, 12, 14))
        self.disc(x, y, radius_m, _TYRE)
        self.disc(x, y, radius_m * 0.55, _HUB)

    def stripes(self, count: int, colour: Colour, slant: float) -> None:
        for index in range(count):
            x = index / count * self.w
            step = self.w / count / 2
            lean = slant * self.h
            band = np.array([(x, 0), (x + step, 0), (x + step + lean, self.h), (x + lean, self.h)])
            cv2.fillPoly(self.image, [band.round().astype(np.int32)], colour)


def _shade(colour: Colour, factor: float) -> Colour:
    r, g, b = (int(np.clip(part * factor, 0, 255)) for part in colour)
    return r, g, b


def _carbody(sheet: _Sheet, face: str, colour: Colour) -> None:
    if face == "left":
        sheet.rect(0, 0.78, 1, 1, _shade(colour, 0.45))
        for x in (0.30, 0.52, 0.74):
            sheet.rect(x, 0.05, x + 0.008, 0.78, _shade(colour, 0.6))
        for x in (0.46, 0.68):
            sheet.rect(x, 0.2, x + 0.04, 0.25, _shade(colour, 0.5))
        sheet.rect(0, 0.12, 0.05, 0.32, _HEAD, True)
        sheet.rect(0.95, 0.12, 1, 0.32, _TAIL, True)
        sheet.wheel(0.18, 0.33)
        sheet.wheel(0.80, 0.33)
    elif face == "front":
        sheet.rect(0.28, 0.25, 0.72, 0.5, (26, 28, 30))
        sheet.rect(0.03, 0.18, 0.24, 0.4, _HEAD, True)
        sheet.rect(0.76, 0.18, 0.97, 0.4, _HEAD, True)
        sheet.rect(0.38, 0.6, 0.62, 0.7, _WHITE)
        sheet.rect(0, 0.82, 1, 1, (30, 30, 32))
    elif face == "back":
        sheet.rect(0.0, 0.14, 0.2, 0.38, _TAIL, True)
        sheet.rect(0.8, 0.14, 1.0, 0.38, _TAIL, True)
        sheet.rect(0.36, 0.4, 0.64, 0.54, _WHITE)
        sheet.rect(0, 0.66, 1, 0.72, _shade(colour, 0.6))
        sheet.rect(0, 0.84, 1, 1, (30, 30, 32))
    else:
        sheet.rect(0.05, 0.0, 0.95, 0.02, _shade(colour, 0.7))


def _cabin(sheet: _Sheet, face: str, colour: Colour) -> None:
    if face == "top":
        return
    sheet.rect(0.04, 0.1, 0.96, 0.95, _GLASS)
    if face == "left":
        sheet.rect(0.42, 0, 0.46, 1, colour)
        sheet.rect(0.74, 0, 0.79, 1, colour)
    else:
        sheet.rect(0.1, 0.14, 0.5, 0.4, _shade(_GLASS, 1.7))


def _cab(sheet: _Sheet, face: str, colour: Colour) -> None:
    if face == "front":
        sheet.rect(0.06, 0.1, 0.94, 0.46, _GLASS)
        sheet.rect(0.2, 0.56, 0.8, 0.76, (28, 28, 30))
        sheet.rect(0.02, 0.78, 0.2, 0.86, _HEAD, True)
        sheet.rect(0.8, 0.78, 0.98, 0.86, _HEAD, True)
        sheet.rect(0, 0.88, 1, 1, (26, 26, 28))
    elif face == "left":
        sheet.rect(0.2, 0.12, 0.86, 0.44, _GLASS)
        sheet.rect(0.9, 0.05, 0.93, 0.8, _shade(colour, 0.6))
        sheet.rect(0, 0.84, 1, 1, (36, 36, 38))
        sheet.wheel(0.5, 0.48)


def _under(sheet: _Sheet, wheels: tuple[float, ...], from_y: float) -> None:
    """The dark chassis below a load, and its wheels."""
    sheet.rect(0, from_y, 1, 1, (24, 24, 26))
    for x in wheels:
        sheet.wheel(x, 0.48)


def _cargo(sheet: _Sheet, face: str, colour: Colour) -> None:
    if face == "left":
        for x in np.arange(0.1, 1, 0.15):
            sheet.rect(x, 0.02, x + 0.012, 0.66, _shade(colour, 0.8))
        sheet.rect(0.25, 0.2, 0.75, 0.42, (60, 96, 150))
        _under(sheet, (0.72, 0.86) if sheet.w > 200 else (0.75,), 0.7)
    else:
        _doors(sheet, colour)


def _doors(sheet: _Sheet, colour: Colour) -> None:
    sheet.rect(0.485, 0, 0.515, 0.72, _shade(colour, 0.5))
    for x in (0.3, 0.68):
        sheet.rect(x, 0.02, x + 0.02, 0.72, _shade(colour, 0.65))
    sheet.rect(0, 0.72, 1, 1, (24, 24, 26))
    sheet.rect(0.02, 0.74, 0.18, 0.79, _TAIL, True)
    sheet.rect(0.82, 0.74, 0.98, 0.79, _TAIL, True)
    sheet.rect(0.1, 0.82, 0.26, 1, _TYRE)
    sheet.rect(0.74, 0.82, 0.9, 1, _TYRE)


def _trailer(sheet: _Sheet, face: str, colour: Colour) -> None:
    if face == "left":
        for x in np.arange(0.04, 1, 0.06):
            sheet.rect(x, 0.0, x + 0.01, 0.68, _shade(colour, 0.84))
        sheet.rect(0, 0.68, 1, 0.72, (190, 60, 40))
        sheet.rect(0, 0.72, 1, 1, (52, 52, 54))
        _under(sheet, (0.74, 0.85, 0.95), 0.76)
        sheet.rect(0.2, 0.76, 0.23, 1, (90, 90, 92))
    elif face != "top":
        _doors(sheet, colour)


def _bus(sheet: _Sheet, face: str, colour: Colour) -> None:
    if face == "left":
        sheet.rect(0.02, 0.14, 0.98, 0.5, _GLASS)
        for x in np.arange(0.14, 0.95, 0.12):
            sheet.rect(x, 0.14, x + 0.012, 0.5, colour)
        sheet.rect(0.06, 0.12, 0.13, 0.9, (70, 82, 92))
        sheet.rect(0, 0.66, 1, 0.7, _WHITE)
        sheet.rect(0, 0.92, 1, 1, (30, 30, 32))
        sheet.wheel(0.22, 0.5)
        sheet.wheel(0.74, 0.5)
    elif face == "front":
        sheet.rect(0.05, 0.2, 0.95, 0.62, _GLASS)
        sheet.rect(0.2, 0.05, 0.8, 0.15, (240, 170, 40), True)
        sheet.rect(0.04, 0.78, 0.2, 0.86, _HEAD, True)
        sheet.rect(0.8, 0.78, 0.96, 0.86, _HEAD, True)
        sheet.rect(0, 0.92, 1, 1, (30, 30, 32))
    elif face == "back":
        sheet.rect(0.2, 0.12, 0.8, 0.34, _GLASS)
        sheet.rect(0.14, 0.5, 0.86, 0.76, _shade(colour, 0.55))
        sheet.rect(0.02, 0.6, 0.1, 0.8, _TAIL, True)
        sheet.rect(0.9, 0.6, 0.98, 0.8, _TAIL, True)
        sheet.rect(0, 0.92, 1, 1, (30, 30, 32))


def _tracks(sheet: _Sheet, face: str, colour: Colour) -> None:
    if face in ("left", "top"):
        sheet.stripes(14, _shade(colour, 1.7), 0.0)
        if face == "left":
            for x in (0.12, 0.37, 0.62, 0.88):
                sheet.disc(x, 0.5, 0.26, (96, 92, 84))


def _machine(sheet: _Sheet, face: str, colour: Colour) -> None:
    sheet.rect(0, 0.86, 1, 1, _shade(colour, 0.5))
    sheet.rect(0.1, 0.3, 0.4, 0.6, _shade(colour, 0.7))
    if face == "back":
        sheet.stripes(6, (30, 28, 24), 0.8)


def _machinecab(sheet: _Sheet, face: str, colour: Colour) -> None:
    if face != "top":
        sheet.rect(0.1, 0.12, 0.9, 0.72, _GLASS)


def _legs(sheet: _Sheet, face: str, colour: Colour) -> None:
    sheet.rect(0.46, 0.15, 0.54, 1, _shade(colour, 0.3))
    sheet.rect(0, 0.92, 1, 1, (20, 18, 18))


def _torso(sheet: _Sheet, face: str, colour: Colour) -> None:
    if face in ("front", "back"):
        sheet.rect(0, 0.08, 0.16, 1, _shade(colour, 0.75))
        sheet.rect(0.84, 0.08, 1, 1, _shade(colour, 0.75))
        sheet.rect(0, 0.9, 0.16, 1, (206, 164, 138))
        sheet.rect(0.84, 0.9, 1, 1, (206, 164, 138))
    if face == "back":
        sheet.rect(0.28, 0.1, 0.72, 0.6, _shade(colour, 0.55))


def _vest(sheet: _Sheet, face: str, colour: Colour) -> None:
    sheet.rect(0, 0.4, 1, 0.52, (236, 236, 180))
    sheet.rect(0, 0.7, 1, 0.82, (236, 236, 180))


def _head(sheet: _Sheet, face: str, colour: Colour) -> None:
    hair: Colour = (52, 38, 30)
    sheet.rect(0, 0, 1, 0.3 if face == "front" else 0.75, hair)


def _helmet(sheet: _Sheet, face: str, colour: Colour) -> None:
    if face == "front":
        sheet.rect(0.1, 0.45, 0.9, 0.85, (60, 52, 50))


def _barrier(sheet: _Sheet, face: str, colour: Colour) -> None:
    if face in ("front", "back"):
        sheet.stripes(7, _WHITE, 0.35)
        sheet.rect(0, 0.82, 1, 1, _shade(colour, 0.5))


def _bin(sheet: _Sheet, face: str, colour: Colour) -> None:
    sheet.rect(0, 0, 1, 0.12, _shade(colour, 0.6))


def _building(sheet: _Sheet, face: str, colour: Colour) -> None:
    if face == "top":
        return
    columns, rows = max(2, round(sheet.w / 26)), max(2, round(sheet.h / 26))
    sheet.rect(0, 0, 1, 0.03, _shade(colour, 0.7))
    for row in range(rows):
        for column in range(columns):
            x, y = (column + 0.25) / columns, (row + 0.25) / rows
            lit = (row * 7 + column * 5 + rows + columns) % 6 == 0
            sheet.rect(x, y, x + 0.5 / columns, y + 0.5 / rows, (236, 206, 140) if lit else (70, 82, 94), lit)


_PAINTERS = {
    "carbody": _carbody, "cabin": _cabin, "cab": _cab, "cargo": _cargo, "trailer": _trailer, "bus": _bus,
    "tracks": _tracks, "machine": _machine, "machinecab": _machinecab, "legs": _legs, "torso": _torso, "vest": _vest,
    "head": _head, "helmet": _helmet, "barrier": _barrier, "bin": _bin, "building": _building,
}  # fmt: skip


@lru_cache(maxsize=2048)
def paint(style: str, face: str, colour: Colour, width_m: float, height_m: float) -> tuple[Image, Image]:
    """(texture, what of it shines), RGB [h, w, 3], of a face; a style without a painter is one plain colour."""
    if face == "right":  # the other side, seen in a mirror
        texture, glow = paint(style, "left", colour, width_m, height_m)
        return np.ascontiguousarray(texture[:, ::-1]), np.ascontiguousarray(glow[:, ::-1])
    # Houses are far away and large: fewer pixels a metre.
    scale = 0.25 if style == "building" else 1.0
    sheet = _Sheet(width_m * scale, height_m * scale, colour)
    painter = _PAINTERS.get(style)
    if painter is not None:
        painter(sheet, face, colour)
    return sheet.image, sheet.glow
