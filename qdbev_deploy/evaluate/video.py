"""Pictures to files: PNG for one, GIF or MP4 for many; each appears whole or not at all."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from qdbev_deploy.errors import ExitCode, QdbevError
from qdbev_deploy.evaluate.canvas import BACKGROUND, CLASS_COLOURS, PANEL, TEXT, Picture
from qdbev_deploy.files import atomic_output

FORMATS = (".png", ".gif", ".mp4")


def paletted(picture: Picture, colours: int) -> Any:
    """A Pillow image of at most that many colours, those of the boxes among them.

    A palette made by frequency alone drops what is drawn in thin lines, and a bus takes the colour of the houses.
    """
    from PIL import Image

    reserved = [*BACKGROUND, *PANEL, *TEXT]
    for colour in CLASS_COLOURS.values():
        # As a line, and as the tint of a box on the panel.
        tint = (round(0.55 * panel + 0.45 * part) for panel, part in zip(PANEL, colour, strict=True))
        reserved += [*colour, *tint]
    image = Image.fromarray(picture)
    others = colours - len(reserved) // 3
    if others < 2:
        return image.quantize(colours, dither=Image.Dither.NONE)
    frequent = (image.quantize(others, dither=Image.Dither.NONE).getpalette() or [])[: 3 * others]
    palette = Image.new("P", (1, 1))
    palette.putpalette(reserved + frequent)
    return image.quantize(palette=palette, dither=Image.Dither.NONE)


def write_png(path: Path, picture: Picture, *, colours: int | None = None) -> None:
    """Write one picture; `colours` None keeps all, a number gives a palette of that size and a much smaller file."""
    from PIL import Image

    image = Image.fromarray(picture) if colours is None else paletted(picture, colours)
    with atomic_output(path) as partial:
        image.save(partial, format="PNG", optimize=True)


def _check_length(partial: Path, found: float, wanted: float, unit: str) -> None:
    """Encoders do not say that the disk is full; they write what fits, and an index never."""
    if found != wanted:
        free_mb = shutil.disk_usage(partial.parent).free / 1e6
        raise QdbevError(
            f"the video came out damaged: {found:g} of {wanted:g} {unit} can be read ({free_mb:.0f} MB are free on "
            f"the disk of {partial.parent})",
            "enough free space for the whole video",
            "free some, pass a smaller --width, or an --out on another disk",
            exit_code=ExitCode.MISSING,
        )


def _gif(partial: Path, pictures: Iterator[Picture], fps: float) -> None:
    from PIL import Image, ImageSequence

    written = 0

    def counted() -> Iterator[Any]:
        nonlocal written
        for picture in pictures:
            written += 1
            yield paletted(picture, 256)

    images = counted()
    first = next(images)
    # GIF counts in hundredths of a second.
    milliseconds = max(20, round(100 / fps) * 10)
    first.save(partial, format="GIF", save_all=True, append_images=images, duration=milliseconds, loop=0)
    # Time, since equal pictures in a row become one that stands longer.
    try:
        with Image.open(partial) as gif:
            found = sum(image.info.get("duration", 0) for image in ImageSequence.Iterator(gif))
    except (OSError, EOFError, SyntaxError):
        found = 0
    _check_length(partial, found, written * milliseconds, "milliseconds")


def _mp4(partial: Path, pictures: Iterator[Picture], fps: float) -> None:
    import cv2

    first = next(pictures)
    # Codecs want even sizes.
    height, width = first.shape[0] // 2 * 2, first.shape[1] // 2 * 2
    # OpenCV chooses the container by the suffix, which a partial file does not have.
    with tempfile.TemporaryDirectory(dir=partial.parent, prefix=".qdbev-mp4-") as folder:
        path = Path(folder) / "video.mp4"
        writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), fps, (width, height))
        try:
            if not writer.isOpened():
                raise QdbevError(
                    "this OpenCV cannot write MP4",
                    "an OpenCV built with FFmpeg",
                    "pass an --out that ends with .gif, or: pip install opencv-python-headless",
                    exit_code=ExitCode.MISSING,
                )
            written = 0
            for picture in chain([first], pictures):
                writer.write(np.ascontiguousarray(picture[:height, :width, ::-1]))
                written += 1
        finally:
            writer.release()
        found = 0
        video = cv2.VideoCapture(str(path))
        while video.grab():
            found += 1
        video.release()
        _check_length(partial, found, written, "pictures")
        path.replace(partial)


def write_video(path: Path, pictures: Iterable[Picture], fps: float) -> None:
    """Write pictures of one size as a GIF or an MP4, by the suffix of `path`; at least one."""
    with atomic_output(path) as partial:
        write = _gif if path.suffix.lower() == ".gif" else _mp4
        write(partial, iter(pictures), fps)
