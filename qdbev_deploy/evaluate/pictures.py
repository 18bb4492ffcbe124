"""One picture of a frame: six cameras with their boxes around the view from above."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np
import numpy.typing as npt

from qdbev_deploy.boxes import Boxes
from qdbev_deploy.contract import CAMERAS, CLASSES
from qdbev_deploy.data.preprocess import read_image
from qdbev_deploy.errors import QdbevError
from qdbev_deploy.evaluate.canvas import (
    BACKGROUND,
    CLASS_COLOURS,
    FAINT_TEXT,
    TEXT,
    TRUTH,
    Label,
    Picture,
    swatch,
    write,
)
from qdbev_deploy.evaluate.draw_bev import draw_bev
from qdbev_deploy.evaluate.draw_camera import draw_boxes

if TYPE_CHECKING:
    from qdbev_deploy.data.nuscenes import Frame

# Where the cameras stand on the page: the upper row looks ahead, the lower one back, as seen from the driver's seat.
ROWS = (("CAM_FRONT_LEFT", "CAM_FRONT", "CAM_FRONT_RIGHT"), ("CAM_BACK_LEFT", "CAM_BACK", "CAM_BACK_RIGHT"))

MIN_WIDTH = 640
MAX_WIDTH = 8000  # a page of 150 MB; MPEG-4 knows no larger pictures


@dataclass(frozen=True)
class Layout:
    """Sizes in pixels, all from the width of the page."""

    width: int
    gap: int
    tile_width: int
    tile_height: int
    bev_height: int

    @classmethod
    def of(cls, width: int) -> Layout:
        if width < MIN_WIDTH:
            raise QdbevError(f"a width of {width} pixels", f"{MIN_WIDTH} or more", "pass a larger --width")
        if width > MAX_WIDTH:
            raise QdbevError(f"a width of {width} pixels", f"{MAX_WIDTH} or less", "pass a smaller --width")
        gap = max(4, round(width / 200))
        tile_width = (width - 4 * gap) // 3
        # Even sizes: video codecs want them.
        height = round(tile_width * 9 / 16) // 2 * 2
        return cls(4 * gap + 3 * tile_width, gap, tile_width, height, round(width * 0.4) // 2 * 2)

    @property
    def height(self) -> int:
        return 4 * self.gap + 2 * self.tile_height + self.bev_height

    def tile(self, row: int, column: int) -> tuple[int, int]:
        """(x, y) of the upper left corner of a camera's tile."""
        below = self.tile_height + self.gap + self.bev_height + self.gap
        return self.gap + column * (self.tile_width + self.gap), self.gap + row * below

    @property
    def bev(self) -> tuple[int, int]:
        return self.gap, 2 * self.gap + self.tile_height


@dataclass(frozen=True)
class Caption:
    """What the panel says about the frame."""

    title: str
    lines: tuple[str, ...]


def _camera_tile(
    frame: Frame, camera: int, layout: Layout, truth: Boxes | None, predictions: Boxes | None
) -> tuple[Picture, npt.NDArray[np.float64]]:
    """(the tile, lidar2img scaled to it)."""
    image = read_image(frame.image_paths[camera])
    scale = np.diag([layout.tile_width / image.shape[1], layout.tile_height / image.shape[0], 1.0, 1.0])
    lidar2img = scale @ frame.lidar2img[camera].astype(np.float64)
    size = (layout.tile_width, layout.tile_height)
    tile: Picture = cv2.resize(image, size, interpolation=cv2.INTER_AREA).astype(np.uint8)
    thickness = max(1, round(layout.width / 900))
    if truth is not None:
        beside = predictions is not None
        draw_boxes(tile, truth, lidar2img, colour=TRUTH if beside else None, thickness=1 if beside else thickness,
                   filled=not beside)  # fmt: skip
    if predictions is not None:
        draw_boxes(tile, predictions, lidar2img, thickness=thickness)
    return tile, lidar2img


def _legend(page: Picture, layout: Layout, counts: Counter[str], both: bool) -> list[Label]:
    """Classes with their colours and counts, at the right of the panel; and what white outlines mean."""
    size = max(10.0, layout.width / 115)
    step = size * 1.75
    x, y = layout.bev
    right = x + layout.width - 2 * layout.gap - size * 1.4
    top = y + size * 1.6
    labels = [Label(right, top, "objects", size, FAINT_TEXT, "rm")]
    for index, name in enumerate(CLASSES):
        row = top + (index + 1) * step
        present = counts[name] > 0
        alpha = 1.0 if present else 0.3
        swatch(page, right - size * 14.2, row, size, CLASS_COLOURS[name], alpha, filled=True)
        colour = TEXT if present else FAINT_TEXT
        labels.append(Label(right - size * 12.4, row, name.replace("_", " "), size, colour, "lm"))
        labels.append(Label(right, row, str(counts[name]), size, colour, "rm", bold=present))
    if both:
        row = top + (len(CLASSES) + 1.4) * step
        swatch(page, right - size * 14.2, row, size, TRUTH, 1.0, filled=False)
        labels.append(Label(right - size * 12.4, row, "ground truth", size, TEXT, "lm"))
    return labels


def _caption(layout: Layout, caption: Caption) -> list[Label]:
    size = max(10.0, layout.width / 115)
    x, y = layout.bev
    left, top = x + size * 1.4, y + size * 1.6
    labels = [Label(left, top, caption.title, size * 1.45, TEXT, "lm", bold=True)]
    for index, text in enumerate(caption.lines):
        labels.append(Label(left, top + (index + 1.25) * size * 1.75, text, size, FAINT_TEXT, "lm"))
    return labels


def describe(frame: Frame, first: Frame, *, truth: bool, predictions: bool) -> Caption:
    """Scene, time since its first frame, speed; and which boxes are shown."""
    seconds = (frame.ego.timestamp_us - first.ego.timestamp_us) / 1e6
    speed = math.hypot(*frame.ego.velocity[:2])
    shown = " and ".join(["ground truth"] * truth + ["predictions"] * predictions) or "no boxes"
    return Caption(
        frame.scene,
        (
            f"frame {frame.index}" + (", key frame" if frame.is_key_frame else ""),
            f"t = {seconds:.2f} s",
            f"ego speed {speed * 3.6:.0f} km/h",
            shown,
            "arrows: 1 s of motion",
        ),
    )


def draw_frame(
    frame: Frame, caption: Caption, *, truth: Boxes | None = None, predictions: Boxes | None = None, width: int = 1600
) -> Picture:
    """The page [height, width, 3] of one frame. Boxes are in the frame's LiDAR frame; None draws none of that kind."""
    layout = Layout.of(width)
    page: Picture = np.full((layout.height, layout.width, 3), BACKGROUND, dtype=np.uint8)
    projections = np.empty((len(CAMERAS), 4, 4))
    labels: list[Label] = []
    for row, names in enumerate(ROWS):
        for column, name in enumerate(names):
            camera = CAMERAS.index(name)
            tile, projections[camera] = _camera_tile(frame, camera, layout, truth, predictions)
            x, y = layout.tile(row, column)
            page[y : y + layout.tile_height, x : x + layout.tile_width] = tile
            size = max(9.0, layout.width / 130)
            text = name.removeprefix("CAM_").replace("_", " ").lower()
            labels.append(Label(x + size * 1.1, y + size * 1.2, text, size, TEXT, "lm", chip=True))
    x, y = layout.bev
    panel = draw_bev(layout.width - 2 * layout.gap, layout.bev_height, projections, frame.lidar2ego, layout.tile_width,
                     truth=truth, predictions=predictions)  # fmt: skip
    page[y : y + panel.shape[0], x : x + panel.shape[1]] = panel
    counted = predictions if predictions is not None else truth
    counts = Counter(CLASSES[int(label)] for label in counted.label) if counted is not None else Counter[str]()
    labels += _legend(page, layout, counts, both=truth is not None and predictions is not None)
    labels += _caption(layout, caption)
    write(page, labels)
    return page
