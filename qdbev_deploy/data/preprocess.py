"""From camera frames to network input: the one implementation of `PreprocessSpec`, with numpy alone."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from qdbev_deploy.contract import PreprocessSpec
from qdbev_deploy.errors import QdbevError

if TYPE_CHECKING:
    from qdbev_deploy.data.nuscenes import Frame

Image = npt.NDArray[np.uint8]
Float = npt.NDArray[np.float32]

# Rows handled at a time: the intermediates of a band stay in the cache.
_BAND = 16


def _neighbours(size_out: int, size_in: int) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp], Float]:
    """For each output coordinate the two input coordinates it lies between, and the weight of the second."""
    centre = (np.arange(size_out) + 0.5) * (size_in / size_out) - 0.5
    centre = np.clip(centre, 0, size_in - 1)
    low = np.floor(centre).astype(np.intp)
    high = np.minimum(low + 1, size_in - 1)
    return low, high, (centre - low).astype(np.float32)


def preprocess(images: Image, spec: PreprocessSpec) -> Float:
    """Network input [n, 3, H', W'] of RGB frames [n, H, W, 3], as `PreprocessSpec` defines it."""
    if images.ndim != 4 or images.shape[3] != 3 or images.dtype != np.uint8:
        raise QdbevError(
            f"images of shape {images.shape} and type {images.dtype}",
            "uint8 RGB of shape [n, height, width, 3]",
            "pass the decoded camera frames as they are",
        )
    height, width = images.shape[1:3]
    if (height, width) != spec.source_hw:
        raise QdbevError(
            f"images of {height}x{width} pixels (height x width)",
            f"{spec.source_hw[0]}x{spec.source_hw[1]}, the size this variant's preprocessing is defined for",
            "pass native nuScenes frames, or give the specification another source_hw",
        )
    (out_h, out_w), (padded_h, padded_w) = spec.resized_hw, spec.padded_hw
    top, bottom, weight_y = _neighbours(out_h, height)
    left, right, weight_x = _neighbours(out_w, width)
    channels = (0, 1, 2) if spec.channel_order == "rgb" else (2, 1, 0)
    mean, std = np.asarray(spec.mean, np.float32), np.asarray(spec.std, np.float32)

    out = np.empty((len(images), 3, padded_h, padded_w), dtype=np.float32)
    out[:, :, out_h:, :] = 0
    out[:, :, :out_h, out_w:] = 0
    for image, planes in zip(images, out, strict=True):
        for start in range(0, out_h, _BAND):
            band = slice(start, min(start + _BAND, out_h))
            rows = image[top[band]].astype(np.float32)
            below = image[bottom[band]].astype(np.float32)
            below -= rows
            below *= weight_y[band, None, None]
            rows += below
            for plane, channel in enumerate(channels):
                line = rows[:, :, channel]
                pixels = line[:, left]
                step = line[:, right]
                step -= pixels
                step *= weight_x
                pixels += step
                pixels -= mean[plane]
                np.divide(pixels, std[plane], out=planes[plane, band, :out_w])
    return out


def scale_lidar2img(lidar2img: npt.NDArray[np.float64], spec: PreprocessSpec) -> Float:
    """The projections [..., 4, 4] to the resized image, from those to the native one. Padding changes nothing."""
    scale_x, scale_y = spec.scale_xy
    return (np.diag([scale_x, scale_y, 1.0, 1.0]) @ lidar2img).astype(np.float32)


def read_image(path: str | os.PathLike[str]) -> Image:
    """A camera frame as 8-bit RGB [height, width, 3]."""
    from PIL import Image as PillowImage
    from PIL import UnidentifiedImageError

    try:
        with PillowImage.open(path) as image:
            image.load()
            return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))
    except FileNotFoundError as error:
        raise QdbevError(
            f"the image {path} does not exist",
            "every image that the tables name",
            "unpack the camera archives again; qdbev-deploy data info DIR counts what is missing",
        ) from error
    except (OSError, UnidentifiedImageError, SyntaxError, ValueError) as error:
        raise QdbevError(
            f"the image {path} ({_size_of(path)} bytes) cannot be decoded: {error}",
            "a whole JPEG or PNG file",
            "unpack the archive that holds it again",
        ) from error


def _size_of(path: str | os.PathLike[str]) -> int:
    return Path(path).stat().st_size if Path(path).exists() else 0


def load_frame(frame: Frame, spec: PreprocessSpec, form: str = "float32") -> tuple[npt.NDArray[Any], Float]:
    """(image, lidar2img [1, 6, 4, 4]) of a frame, as the streaming graph takes them.

    `form` float32: the image is network input [1, 6, 3, H, W]; uint8: native frames [1, 6, height, width, 3].
    """
    images = [read_image(path) for path in frame.image_paths]
    for path, image in zip(frame.image_paths, images, strict=True):
        if image.shape[:2] != spec.source_hw:
            raise QdbevError(
                f"{path} has {image.shape[0]}x{image.shape[1]} pixels (height x width)",
                f"{spec.source_hw[0]}x{spec.source_hw[1]}",
                "use the images as nuScenes ships them",
            )
    native = np.stack(images)
    tensor: npt.NDArray[Any] = native if form == "uint8" else preprocess(native, spec)
    return tensor[None], scale_lidar2img(frame.lidar2img, spec)[None]
